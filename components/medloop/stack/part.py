"""What the three parts of a stack have in common."""

import signal
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Part:
    """One server: how it is started, when it is ready, how it is stopped."""

    name: str
    address: str  # as users write it, without a password
    ports: tuple[str, ...]  # names in `settings.PORTS`
    folder: Path  # its data, and where it runs
    prepare: Callable[[], None]  # makes what must be there before it starts; does nothing the second time
    command: Sequence[str]
    env: Mapping[str, str]
    answers: Callable[[], str | None]  # None: it does; else why not
    finish: Callable[[], None]  # makes what can only be made while it runs; does nothing the second time
    owner: str | None = None  # the user it runs as, where that is another one
    stop: signal.Signals = signal.SIGTERM
