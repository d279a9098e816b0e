"""`medloop schedule serve`: schedules by the second, in processes of their own."""

import itertools
import os
import signal
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from itertools import pairwise
from pathlib import Path

import pytest
import yaml

from medloop import cli, params
from medloop.scheduling import history
from receivers import Web, receiving

ROOT = Path(__file__).resolve().parents[2]
PATIENCE_SECONDS = 90
SERVE = """
import os, sys
from medloop import params
from medloop.scheduling import service
from medloop.scheduling.execution import Outcome

def run(schedule, due, stop):
    with open("ran.log", "a") as log:
        log.write(f"{schedule.name} {int(due.timestamp())} {os.getpid()}\\n")
    stop.wait(float(os.environ.get("TAKES", "0")))
    return Outcome("ok")

run = {} if os.environ.get("TAKES") == "real" else {"run": run}
service.serve(params.read().schedule, say=lambda text: print(text, flush=True), **run)
"""
SECOND = {"name": "second", "interval_s": 1}
WINDOW = {"start": "2027-02-01T00:00:00Z", "end": "2027-03-01T00:00:00Z"}


@pytest.fixture
def project(tmp_path, monkeypatch) -> Path:
    """A folder with params.yaml, a profile and a pipeline of one stage."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("MEDLOOP_STATE", ".medloop")
    (tmp_path / "data/none").mkdir(parents=True)
    (tmp_path / "profiles").mkdir()
    (tmp_path / "profiles/short.yaml").write_text("train: {epochs: 2}\n")
    (tmp_path / ".dvc").mkdir()
    (tmp_path / ".dvc/config").write_text("[core]\n    no_scm = true\n    analytics = false\n")
    return tmp_path


def declare(*schedules, **changes) -> None:
    content = params.merge(params.mapping(ROOT / "params.yaml"), changes) | {"schedule": list(schedules)}
    Path("params.yaml").write_text(yaml.safe_dump(content, sort_keys=False))


def stage(command: str) -> None:
    entry = {"cmd": command, "params": ["train.epochs"], "always_changed": True}
    Path("dvc.yaml").write_text(yaml.safe_dump({"stages": {"ingest": entry}}))


class Copy:
    """A scheduler at work in this folder."""

    def __init__(self, takes: str = "0") -> None:
        self.log = Path(f"serve-{time.monotonic_ns()}.log")
        with self.log.open("w") as out:
            environment = os.environ | {"TAKES": takes}
            self.process = subprocess.Popen([sys.executable, "-c", SERVE], env=environment, stdout=out, stderr=out)

    def __enter__(self) -> "Copy":
        return self

    def __exit__(self, *error: object) -> None:
        self.process.kill()
        self.process.wait(PATIENCE_SECONDS)

    @property
    def said(self) -> str:
        return self.log.read_text()

    def until(self, true, what: str = "") -> None:
        """Wait for a condition."""
        end = time.monotonic() + PATIENCE_SECONDS
        while not true():
            assert self.process.poll() is None, self.said
            assert time.monotonic() < end, f"{what or 'it'} did not happen:\n{self.said}"
            time.sleep(0.05)

    def stop(self) -> float:
        """End it as a service manager does; return the seconds that it took."""
        began = time.monotonic()
        self.process.send_signal(signal.SIGTERM)
        assert self.process.wait(PATIENCE_SECONDS) == 0, self.said
        return time.monotonic() - began


def ran() -> list[tuple[str, int, int]]:
    lines = Path("ran.log").read_text().splitlines() if Path("ran.log").exists() else []
    return [(name, int(due), int(pid)) for name, due, pid in (line.split() for line in lines)]


def dues(name: str = "second") -> list[int]:
    return [due for schedule, due, _ in ran() if schedule == name]


def test_what_is_due_runs_and_sigterm_ends_it_cleanly(project):
    declare(SECOND, {"name": "never", "interval_s": 1, "enabled": False}, {"name": "other", "cron": "*/2 * * * * *"})
    with Copy() as copy:
        copy.until(lambda: len(dues()) >= 3 and len(dues("other")) >= 2)
        assert copy.stop() < 10
    assert dues("never") == []
    assert dues() == sorted(set(dues())), "each second once, in order"
    assert all(due % 2 == 0 for due in dues("other"))
    assert "stopped" in copy.said
    assert [row[4] for row in history.latest(1000)].count("ok") == len(ran())


def test_two_copies_fire_once_and_the_second_takes_over_from_a_killed_one(project):
    declare(SECOND)
    with Copy() as first:
        first.until(lambda: dues())
        with Copy() as second:
            second.until(lambda: "standing by" in second.said)
            first.until(lambda: len(dues()) >= 3)
            first.process.kill()
            first.process.wait(PATIENCE_SECONDS)
            second.until(lambda: second.process.pid in {pid for *_, pid in ran()})
            count = len(dues())
            second.until(lambda: len(dues()) >= count + 2)
            second.stop()
    assert len(dues()) == len(set(dues())), "a time was fired twice"
    assert {pid for *_, pid in ran()} == {first.process.pid, second.process.pid}


@pytest.mark.parametrize("catch_up", [True, False])
def test_a_restart_goes_on_where_the_last_one_stopped(project, catch_up):
    declare(SECOND | {"catch_up": catch_up})
    with Copy() as copy:
        copy.until(lambda: len(dues()) >= 2)
        copy.stop()
    before = dues()
    time.sleep(4)
    with Copy() as copy:
        copy.until(lambda: len(dues()) >= len(before) + 6)
        copy.stop()
    assert len(dues()) == len(set(dues()))
    known = sorted(datetime.fromisoformat(row[1]) for row in history.latest(1000))  # those skipped among them
    gaps = [(two - one).total_seconds() for one, two in pairwise(known)]
    assert max(gaps) == 1 if catch_up else max(gaps) >= 4


def test_serve_ends_where_no_schedule_is_left_to_run_and_says_what_to_do(project, monkeypatch, capsys):
    declare(SECOND | {"end": "2020-01-01T00:00:00Z"})
    monkeypatch.setattr("sys.argv", ["medloop", "schedule", "serve"])
    with pytest.raises(SystemExit) as ended:
        cli.main()
    said = capsys.readouterr()
    assert ended.value.code == 2
    assert "second: fires no more: it ended at 2020-01-01 00:00:00 UTC: move its end" in said.out
    assert "no schedule is left to run" in said.err


def test_the_last_run_of_the_last_schedule_is_not_broken_off(project):
    declare(SECOND | {"end": (datetime.now(UTC) + timedelta(seconds=8)).isoformat()})
    with Copy(takes="20") as copy:
        assert copy.process.wait(PATIENCE_SECONDS) != 0
    assert "no schedule is left to run" in copy.said
    assert {row[4] for row in history.latest(1000)} == {"ok", "skipped"}


def test_of_many_who_claim_a_time_one_gets_it(project):
    due = datetime(2026, 1, 1, tzinfo=UTC)
    with ThreadPoolExecutor(20) as crowd:
        got = [*crowd.map(lambda _: history.claim("nightly", due), range(40))]
    assert sum(got) == 1
    assert history.claim("weekly", due)
    assert history.claim("nightly", due + timedelta(seconds=1))


def test_what_is_due_while_a_run_is_under_way_is_skipped_and_written_down(project):
    declare(SECOND, {"name": "other", "interval_s": 2})
    with Copy(takes="2.5") as copy:
        copy.until(lambda: any(row[4] == "skipped" for row in history.latest(1000)))
        copy.until(lambda: len(ran()) >= 3)
        copy.stop()
    rows = [row for row in history.latest(1000) if row[4] == "ok"]
    spans = sorted((started, ended) for _, _, started, ended, *_ in rows)
    assert all(one[1] <= two[0] for one, two in itertools.pairwise(spans)), "two ran at a time"


def test_a_run_that_was_killed_with_its_scheduler_is_written_down_as_interrupted(project):
    declare(SECOND)
    with Copy(takes="60") as copy:
        copy.until(lambda: ran())
    with Copy() as copy:
        copy.until(lambda: "1 runs of an earlier scheduler were interrupted" in copy.said)
        copy.stop()
    assert len(set(dues())) == len(dues())
    assert "interrupted" in {row[4] for row in history.latest(1000)}


def test_a_changed_and_a_vanished_schedule_are_noticed_at_the_next_start(project):
    declare(SECOND, {"name": "gone", "interval_s": 1})
    with Copy() as copy:
        copy.until(lambda: dues("gone") and dues())
        copy.stop()
    count = len(dues("gone"))
    declare(SECOND | {"interval_s": 3600})
    with Copy() as copy:
        copy.until(lambda: "second: next" in copy.said)
        assert "gone: no longer declared" in copy.said
        before = len(dues())
        time.sleep(2.5)
        copy.stop()
    assert (len(dues("gone")), len(dues())) == (count, before)


def test_a_real_run_is_ended_with_all_its_processes_and_params_yaml_put_back(project):
    declare(SECOND | {"profile": "short"})
    stage("echo $$ > pid && exec sleep 300")
    before = Path("params.yaml").read_bytes()
    with Copy(takes="real") as copy:
        copy.until(lambda: Path("pid").exists() and Path("pid").read_text().strip(), "the stage")
        assert b"epochs: 2" in Path("params.yaml").read_bytes()
        copy.stop()
    stat = Path(f"/proc/{Path('pid').read_text().strip()}/stat")  # there may be a zombie, where nobody reaps orphans
    assert not stat.exists() or stat.read_text().rpartition(")")[2].split()[0] in "ZX"
    assert Path("params.yaml").read_bytes() == before
    results = [row[4] for row in history.latest(1000)]
    assert "interrupted" in results
    assert set(results) <= {"interrupted", "skipped"}


def test_a_real_run_that_fails_is_written_down_and_told(project, monkeypatch):
    declare(SECOND, pipeline={"notify": {"channels": ["webhook"]}})
    stage("echo 'medloop: no samples' >&2; false")
    with receiving(Web()) as web:
        monkeypatch.setenv("MEDLOOP_WEBHOOK_URL", f"{web.url}/s3cret")
        with Copy(takes="real") as copy:
            copy.until(lambda: web.got)
            copy.until(lambda: any(row[4] == "failed" for row in history.latest(1000)))
            copy.stop()
    assert web.got[0][1]["failed"] == [{"step": "ingest", "reason": "no samples"}]
    [failed, *_] = [row for row in history.latest(1000) if row[4] == "failed"]
    assert failed[5] == "ingest: no samples"
    logs = list((project / ".medloop/schedule/logs").iterdir())
    assert logs
    assert {path.stat().st_mode & 0o777 for path in logs} == {0o600}
    assert not any("s3cret" in path.read_text() for path in (*logs, copy.log))


@pytest.mark.parametrize(
    ("schedules", "message"),
    [
        ([], "no schedules: declare one under `schedule:` in params.yaml"),
        ([SECOND | {"profile": "nix"}], "schedule second: unknown profile 'nix'; known: short"),
        ([{"name": "second", "cron": "0 0 0 30 2 *"}], "never fires"),
        ([{"name": "second", "cron": "0 0 0 1 1 *"} | WINDOW], "schedule second has no firing between start and end"),
    ],
)
def test_schedules_that_cannot_be_are_refused_before_anything_runs(project, monkeypatch, capsys, schedules, message):
    declare(*schedules)
    monkeypatch.setattr("sys.argv", ["medloop", "schedule", "serve"])
    with pytest.raises(SystemExit) as ended:
        cli.main()
    assert ended.value.code == 2
    assert message in capsys.readouterr().err
    assert not (project / ".medloop").exists()
