"""`medloop repro`: `dvc repro` with a profile laid over params.yaml for as long as it runs.

DVC reads params.yaml and nothing else, so that `dvc repro` and `dvc exp run -S` work as they do everywhere. A profile
is therefore written over params.yaml while DVC runs and taken back afterwards; should the machine die in between, the
next call puts params.yaml back.
"""

import fcntl
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import yaml

from medloop import expectations, kinds, models, params, plugins, sources, tasks
from medloop.errors import Refused
from medloop.fetching import data

PARAMS, PROFILES = Path("params.yaml"), Path("profiles")
STOPPED_BY = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
SECONDS_TO_END = 20.0  # given to the stages, and to what tells the tracking server that they were killed


def effective(profile: str | None, settings: list[str]) -> dict[str, Any]:
    """Return params.yaml with profiles/`profile`.yaml and then KEY=VALUE `settings` laid over it, checked.

    Raises:
        Refused: no such profile, or a key or value that does not fit the schema.
    """
    mapping = params.mapping(PARAMS) if profile is None else params.overlaid(PARAMS, _profile(profile))
    for setting in settings:
        key, equals, value = setting.partition("=")
        if not equals:
            raise Refused(f"a setting must read KEY=VALUE, got {setting!r}")
        try:
            mapping = params.merge(mapping, _nested(key.split("."), yaml.safe_load(value)))
        except yaml.YAMLError:
            raise Refused(f"{setting!r}: what stands after = is no YAML") from None
    params.check(mapping, where=str(PARAMS) if profile is None else str(_profile(profile)))
    return mapping


def scheduled(schedule: params.Schedule) -> params.Params:
    """Return the parameters of a schedule's runs; raise Refused, naming the schedule, where they do not fit."""
    try:
        return params.check(effective(schedule.profile, []), where=str(PARAMS))
    except Refused as error:
        raise Refused(f"schedule {schedule.name}: {error}") from None


def repro(profile: str | None, settings: list[str], *, force: bool = False) -> None:
    """Run `dvc repro` under the effective parameters.

    Raises:
        Unreachable: where the data is does not answer.
        Refused: the parameters are not right, or a stage failed.
    """
    _check_folder()
    with _alone():
        _recover()
        mapping = effective(profile, settings)
        checked = params.check(mapping, where=str(PARAMS))
        check_names(checked)
        check_one_machine(checked)
        data.look(checked.ingest)
        if not data.is_remote(checked.ingest) and not Path(checked.ingest.root).exists():
            raise Refused(f"ingest.root must be a folder or file that exists, got {checked.ingest.root}")
        if missing := [name for name in checked.train.architectures if name not in checked.train.hyper]:
            raise Refused(
                f"train.hyper must have a key for each architecture; add {missing[0]!r} with {{}} for its defaults"
            )
        if _run_dvc(mapping, keep=profile is None and not settings, force=force):
            data.look_back(checked.ingest)
            raise Refused("a stage failed: its message stands above; outputs of earlier runs are in place")


def _run_dvc(mapping: dict[str, Any], *, keep: bool, force: bool) -> int:
    """Return DVC's exit code, which is the same whatever a stage ended with."""
    command = [sys.executable, "-m", "dvc", "repro", *(["--force"] if force else [])]
    with _laid_over(mapping, keep=keep):
        path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ.get('PATH', '')}"
        process = subprocess.Popen(command, env={**os.environ, "PATH": path}, process_group=0)
        try:
            return process.wait()
        except BaseException:
            _end(process)
            raise


def _end(process: subprocess.Popen[bytes]) -> None:
    """End `process` and all that it started, and return when they are gone; whoever is in a hurry is not heard."""
    for number in STOPPED_BY:
        signal.signal(number, signal.SIG_IGN)
    for number in (signal.SIGTERM, signal.SIGKILL):
        if _runs(process):
            os.killpg(process.pid, number)
        deadline = time.monotonic() + SECONDS_TO_END
        while _runs(process) and time.monotonic() < deadline:
            time.sleep(0.05)


def _runs(process: subprocess.Popen[bytes]) -> bool:
    """Tell whether anything in the group of `process` still runs: not what has ended and waits for its parent."""
    process.poll()
    for path in Path("/proc").glob("[0-9]*/stat"):
        try:
            state, _, group = path.read_text().rpartition(")")[2].split()[:3]
        except (FileNotFoundError, ProcessLookupError):  # ended meanwhile
            continue
        if int(group) == process.pid and state not in "ZX":
            return True
    return False


def summary(artifacts: Path, profile: str | None = None) -> str:
    """Return what a user wants to know after a run: the choice, its test metrics, the version, where to look next."""
    choice = json.loads((artifacts / "evaluation/choice.json").read_text())
    metrics = json.loads((artifacts / "evaluation/metrics.json").read_text())
    run = json.loads((artifacts / "runs/register/run.json").read_text())
    ui = ".venv/bin/mlflow ui --backend-store-uri "
    lines = [
        f"\nchosen   {choice['architecture']}, on validation data",
        *(f"test     {name:<18} {_interval(value)}" for name, value in metrics["test"].items()),
        f"model    {run['model']} version {run['version']}",
        f"report   {artifacts / 'evaluation/report.html'}",
        f"data     {artifacts / 'validation/data_docs/index.html'}",
        f"promote  .venv/bin/medloop promote{f' --profile {profile}' if profile else ''}",
        f"runs     {run['server'] if run['server'].startswith('http') else ui + run['server']}",
    ]
    return "\n".join(lines)


def _interval(value: dict[str, Any]) -> str:
    if value["value"] is None:
        return "undefined"
    ends = "" if value["low"] is None else f"  [{value['low']:.3f}, {value['high']:.3f}]"
    return f"{value['value']:.3f}{ends}"


def _profile(name: str) -> Path:
    _check_folder()
    known = {file.stem: file for file in sorted(PROFILES.glob("*.yaml"))}
    if name not in known:
        raise Refused(f"unknown profile {name!r}; known: {', '.join(known)}")
    return known[name]


def _check_folder() -> None:
    """Refuse a folder that is no project's, before anything is written there."""
    if not PARAMS.is_file():
        raise Refused(f"no file {PARAMS}: run this from the project's folder")


def _nested(keys: list[str], value: Any) -> dict[str, Any]:
    return {keys[0]: _nested(keys[1:], value) if keys[1:] else value}


def _saved() -> Path:
    return Path(os.environ.get("MEDLOOP_STATE", ".medloop")) / "params.yaml.before-profile"


def _overlaid() -> Path:
    return _saved().with_name("params.yaml.with-profile")


@contextmanager
def _alone() -> Iterator[None]:
    """Refuse a second run in this folder; the file names of patients that DVC keeps go to a folder of mode 0700."""
    from medloop import privacy

    privacy.DVC_FOLDER.mkdir(mode=0o700, parents=True, exist_ok=True)
    privacy.folder()
    with _saved().with_name("repro.lock").open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise Refused("another `medloop repro` runs in this folder: wait for it") from None
        before = {number: signal.getsignal(number) for number in STOPPED_BY}
        for number in {signal.SIGTERM, signal.SIGHUP} - {each for each in before if before[each] == signal.SIG_IGN}:
            signal.signal(number, _terminate)
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)


def _terminate(number: int, frame: object) -> None:  # noqa: ARG001  what the signal module calls it with
    sys.exit(128 + number)


def _write(path: Path, content: bytes) -> None:
    """Replace `path` as a whole: a full disk leaves the old one."""
    partial = path.with_name(f".{path.name}.partial")
    try:
        partial.write_bytes(content)
        partial.replace(path)
    except OSError as error:
        partial.unlink(missing_ok=True)
        raise Refused(f"{path} could not be written: {error.strerror}; free some space and run again") from None


@contextmanager
def _laid_over(mapping: dict[str, Any], *, keep: bool) -> Iterator[None]:
    if keep:
        yield
        return
    original, text = PARAMS.read_bytes(), yaml.safe_dump(mapping, sort_keys=False).encode()
    _write(_overlaid(), text)
    _write(_saved(), original)
    _write(PARAMS, text)
    try:
        yield
    finally:
        _put_back()


def _put_back() -> None:
    """Write params.yaml as it was before the profile; raise Refused if it has been edited since."""
    if PARAMS.read_bytes() != _overlaid().read_bytes():
        raise Refused(
            f"{PARAMS} was edited while a profile was laid over it: {_saved()} is the file as it was before; "
            "bring the two together, and delete the latter"
        )
    _write(PARAMS, _saved().read_bytes())
    _saved().unlink()


def _recover() -> None:
    if not _saved().exists():
        return
    if PARAMS.read_bytes() == _saved().read_bytes():
        _saved().unlink()
    else:
        _put_back()
        print(f"{PARAMS} was left under a profile by a run that was killed: put back", file=sys.stderr)  # noqa: T201


def check_one_machine(read: params.Params) -> None:
    """Refuse what takes several machines: on one, more processes only get in each other's way."""
    if read.train.nodes > 1:
        raise Refused(
            f"train.nodes is {read.train.nodes}, and here is one machine: `medloop pipeline submit` trains on several; "
            "here set train.nodes: 1 (`--set train.nodes=1`), and keep the number for the cluster in a profile"
        )


def check_names(read: params.Params) -> None:
    """Refuse before the first stage a source, task, kind, suite or architecture that there is no file for."""
    for package, name in (
        (sources, read.ingest.source),
        (tasks, read.base.task),
        (kinds, read.base.kind),
        (expectations, read.validate.suite),
        *((models, architecture) for architecture in read.train.architectures),
    ):
        plugins.check(package, name)
