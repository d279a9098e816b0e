"""One decision about a registered model at a time; quick to import, to be looked at first.

On one machine a lock on a file sees to it, across machines a lease in S3 where `$MEDLOOP_LEASE` names a place for it.
"""

import fcntl
import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from medloop import lease
from medloop.errors import Conflict

_held: dict[str, lease.Lease] = {}  # by model, in this process


def seen(name: str) -> dict[str, str]:
    """Return the last move of the champion of the model `name` that was made by whoever takes turns with us.

    {} before the first.
    """
    if lease.wanted():
        return lease.entry(name)
    path = _journal(name)
    return json.loads(path.read_text()) if path.exists() else {}


@contextmanager
def taken(name: str) -> Iterator[None]:
    """Hold the turn: nobody else moves an alias or registers a version of the model `name`."""
    path = _journal(name).with_suffix(".lock")
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not lease.wanted():
            yield
            return
        with lease.held(name) as _held[name]:
            try:
                yield
            finally:
                del _held[name]


def confirm(name: str) -> None:
    """Raise Conflict where the turn was lost to others, right before an alias moves."""
    if name in _held:
        lease.confirm(_held[name])


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
    entry = {"champion": champion, "moves": str(count)}
    if name in _held:
        lease.enter(_held[name], entry)
        return
    partial = _journal(name).with_suffix(".partial")
    partial.write_text(json.dumps(entry))
    partial.replace(_journal(name))


def _journal(name: str) -> Path:
    return Path(os.environ.get("MEDLOOP_STATE") or ".medloop") / "registry" / f"{name}.json"
