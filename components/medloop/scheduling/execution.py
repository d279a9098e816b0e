"""One run of a schedule: `medloop repro` in a process of its own, then `medloop promote`, which may only compare."""

import contextlib
import json
import os
import re
import signal
import subprocess
import sys
import threading
import time
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from medloop import notify, workspace
from medloop.errors import Refused
from medloop.params import Schedule
from medloop.scheduling import history

MEDLOOP = [sys.executable, "-c", "from medloop.cli import main; main()"]
LOOK_SECONDS = 0.2
GRACE_SECONDS, REST_SECONDS = 30.0, 5.0  # from the request to end to the end by force: of the child, of its children
NOT_PROMOTED = Refused.exit_code
UNFINISHED = ("failed", "interrupted")  # such a run may have registered a version that was compared with nothing


@dataclass(frozen=True)
class Outcome:
    """How a run ended: `ok`, `failed` or `interrupted`, and why."""

    result: str
    reason: str = ""


def run(schedule: Schedule, due: datetime, stop: threading.Event) -> Outcome:
    """Run a schedule's loop to its end, or until `stop`; its output goes to a log beside the history.

    Where nothing new came, no stage but `register` has anything to do, the version stays, and nothing is compared.
    """
    log = history.folder() / "logs" / f"{schedule.name}-{due.astimezone(UTC):%Y%m%dT%H%M%SZ}.log"
    log.parent.mkdir(mode=0o700, exist_ok=True)
    try:
        params = workspace.scheduled(schedule)
    except Refused as error:
        return Outcome("failed", str(error))
    profile = ["--profile", schedule.profile] if schedule.profile else []
    before = _registered()
    code = _child([*MEDLOOP, "repro", *profile], log, stop)
    if stop.is_set():
        return Outcome("interrupted", "the scheduler was stopped; the last good outputs are in place")
    if code:
        step, reason = _blame(log)
        told = notify.report(
            params.base.model_name, "FAILED", [(step, reason)], f"{schedule.name} {due:%Y-%m-%d %H:%M}"
        )
        return Outcome("failed", f"{step}: {reason}{_told(params.pipeline.notify, told)}")
    said = ""
    if before is not None and before == _registered() and history.last(schedule.name) not in UNFINISHED:
        said = f"nothing new: {before} stands"
    else:
        look = [] if params.promote.automatic else ["--dry-run"]
        code = _child([*MEDLOOP, "promote", *look, *profile], log, stop)
        said = _last_line(log)
        if code not in (0, NOT_PROMOTED):
            return Outcome("failed", f"promote: {said}")
    told = notify.report(params.base.model_name, "SUCCEEDED", [], f"{schedule.name} {due:%Y-%m-%d %H:%M}")
    return Outcome("ok", said + _told(params.pipeline.notify, told))


def _registered() -> str | None:
    """Return the version that the last run in this folder registered, or found; None before the first."""
    record = Path("artifacts/runs/register/run.json")
    if not record.exists():
        return None
    content = json.loads(record.read_text())
    return f"{content['model']} version {content['version']}"


def _told(how: notify.Notify, told: dict[str, object]) -> str:
    try:
        notify.send(how, told)
    except Refused as error:
        return f"; {error}"
    return ""


def _child(command: list[str], log: Path, stop: threading.Event) -> int:
    """Run a command in a group of its own, which is ended as a whole where `stop` is set."""
    number = os.open(log, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
    with os.fdopen(number, "ab") as out:
        child = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=out, stderr=out, start_new_session=True)
        while child.poll() is None:
            if stop.wait(LOOK_SECONDS):
                _end(child)
        return child.returncode


def _end(child: "subprocess.Popen[bytes]") -> None:
    """End a child with all that it has started: some of these outlive it by a moment."""
    os.killpg(child.pid, signal.SIGTERM)
    with contextlib.suppress(subprocess.TimeoutExpired):
        child.wait(GRACE_SECONDS)
    with contextlib.suppress(ProcessLookupError):  # the group is gone
        for _ in range(int(REST_SECONDS / LOOK_SECONDS)):
            os.killpg(child.pid, 0)
            time.sleep(LOOK_SECONDS)
        os.killpg(child.pid, signal.SIGKILL)
    child.wait()


def _blame(log: Path) -> tuple[str, str]:
    """Return the stage that failed and its message, as far as the log names them."""
    text = log.read_text(errors="replace")
    stage = re.search(r"failed to reproduce '([^']+)'", text)
    messages = re.findall(r"^medloop: (.+)$", text, re.MULTILINE)
    return stage[1] if stage else "repro", messages[0] if messages else _last_line(log)


def _last_line(log: Path) -> str:
    lines = log.read_text(errors="replace").strip().splitlines()
    return lines[-1] if lines else "no output"
