"""Which run of which schedule was started, once and by whom, and how it ended: a SQLite file in $MEDLOOP_STATE."""

import os
import sqlite3
from collections.abc import Iterator
from contextlib import closing, contextmanager
from datetime import UTC, datetime
from pathlib import Path

from medloop.errors import Refused

WAIT_SECONDS = 30.0  # for another process that writes

TABLE = """
CREATE TABLE IF NOT EXISTS runs (
    schedule TEXT NOT NULL,
    due TEXT NOT NULL,
    pid INTEGER NOT NULL,
    started TEXT NOT NULL,
    ended TEXT,
    result TEXT,
    reason TEXT,
    PRIMARY KEY (schedule, due)
)
"""


def folder() -> Path:
    """Return where the scheduler keeps its files; readable by their owner alone. Raise Refused where it cannot be."""
    path = Path(os.environ.get("MEDLOOP_STATE") or ".medloop") / "schedule"
    try:
        path.mkdir(mode=0o700, parents=True, exist_ok=True)
    except OSError as error:
        raise Refused(
            f"the scheduler's folder {path} cannot be made: {error.strerror}; move away what stands there, or let "
            "MEDLOOP_STATE name another folder"
        ) from None
    return path


def unusable(path: Path, error: BaseException | None) -> Refused:
    """Return what is to be done about a database of the scheduler that SQLite cannot work with."""
    return Refused(
        f"{path} cannot be used ({error}): free its disk where that is full; where the file is damaged, move it away, "
        "and a new one is made"
    )


def claim(schedule: str, due: datetime) -> bool:
    """Take a run upon this process; False where anybody has done so before."""
    row = (schedule, _text(due), os.getpid(), _text(datetime.now(UTC)))
    with _open() as file:
        done = file.execute("INSERT OR IGNORE INTO runs (schedule, due, pid, started) VALUES (?, ?, ?, ?)", row)
        return done.rowcount == 1


def end(schedule: str, due: datetime, result: str, reason: str = "") -> None:
    """Write down how a run that was claimed ended."""
    row = (_text(datetime.now(UTC)), result, reason, schedule, _text(due))
    with _open() as file:
        file.execute("UPDATE runs SET ended = ?, result = ?, reason = ? WHERE schedule = ? AND due = ?", row)


def close_open_ones(reason: str) -> int:
    """Mark runs without an end as interrupted, and return their number; nobody may be running any."""
    with _open() as file:
        now = _text(datetime.now(UTC))
        row = (now, "interrupted", reason)
        return file.execute("UPDATE runs SET ended = ?, result = ?, reason = ? WHERE ended IS NULL", row).rowcount


def last(schedule: str) -> str | None:
    """Return how the last run of a schedule that has ended came out; None before the first."""
    with _open() as file:
        wanted = "SELECT result FROM runs WHERE schedule = ? AND result IS NOT NULL ORDER BY due DESC LIMIT 1"
        row = file.execute(wanted, (schedule,)).fetchone()
        return row[0] if row else None


def latest(count: int) -> list[tuple[str, str, str, str, str, str]]:
    """Return the latest runs, newest first: schedule, due, started, ended, result, reason."""
    with _open() as file:
        rows = file.execute(
            "SELECT schedule, due, started, coalesce(ended, '-'), coalesce(result, 'running'), coalesce(reason, '') "
            "FROM runs ORDER BY due DESC, started DESC LIMIT ?",
            (count,),
        )
        return list(rows)


@contextmanager
def _open() -> Iterator[sqlite3.Connection]:
    path = folder() / "runs.db"
    try:
        with closing(sqlite3.connect(path, timeout=WAIT_SECONDS)) as file, file:
            file.execute(TABLE)
            yield file
    except sqlite3.DatabaseError as error:
        raise unusable(path, error) from None


def _text(moment: datetime) -> str:
    return f"{moment.astimezone(UTC):%Y-%m-%d %H:%M:%S}"
