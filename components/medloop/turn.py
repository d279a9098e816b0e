"""One decision about a registered model at a time, on one machine; quick to import, to be looked at first."""

import fcntl
import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from medloop.errors import Conflict


def seen(name: str) -> dict[str, str]:
    """Return the last move of the champion of the model `name` that was made on this machine, {} before the first."""
    path = _journal(name)
    return json.loads(path.read_text()) if path.exists() else {}


@contextmanager
def taken(name: str) -> Iterator[None]:
    """Hold the turn: nobody else on this machine moves an alias or registers a version of the model `name`."""
    path = _journal(name).with_suffix(".lock")
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def check(name: str, before: dict[str, str], wanted: str) -> None:
    """Raise Conflict when the champion has moved since `before` was `seen`."""
    now = seen(name)
    if now != before:
        raise Conflict(
            f"the champion of {name} became version {now['champion']} while {wanted} was under way; "
            "nothing was changed: run it again"
        )


def moved(name: str, champion: str) -> None:
    """Write down, while the turn is held, that the champion is now version `champion`."""
    count = int(seen(name).get("moves", 0)) + 1
    partial = _journal(name).with_suffix(".partial")
    partial.write_text(json.dumps({"champion": champion, "moves": str(count)}))
    partial.replace(_journal(name))


def _journal(name: str) -> Path:
    return Path(os.environ.get("MEDLOOP_STATE") or ".medloop") / "registry" / f"{name}.json"
