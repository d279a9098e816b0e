"""`medloop stack up | status | down`."""

import fcntl
import shutil
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

from medloop.errors import Refused, Unreachable
from medloop.stack import postgres, seaweed, server
from medloop.stack.part import Part
from medloop.stack.process import Process
from medloop.stack.settings import (
    FILE,
    LOCK,
    Settings,
    check_ports,
    command,
    free_port,
    open_folder,
    read,
    settle,
    sourced,
    taken,
    writable,
)

READY_SECONDS = 300.0  # a fresh MLflow makes its tables, which took up to 64 s on two cores
LEAST_MIB = 256  # on the disk of a stack: a fresh one takes 50, and SeaweedFS takes nothing below one percent
RELEASE_SECONDS = 2.0  # that the kernel may take to free the port of a server that was killed
PROGRESS_SECONDS = 5.0
POLL_SECONDS = 0.2

Say = Callable[[str], object]


def up(folder: Path, ports: Sequence[str], say: Say) -> None:
    """Start what does not run of the stack in `folder`, and return when all of it answers.

    Args:
        folder: made on first use, with all secrets, data and logs inside.
        ports: NAME=NUMBER each, kept for later.
        say: takes a line of progress.

    Raises:
        Refused: the folder is something else's, cannot be written, its disk is full, a port is taken, or a part ended
            while it started; what this call has started is stopped again.
        Unreachable: a part runs and does not answer.
    """
    given = dict(map(_port, ports))
    check_ports(given)
    open_folder(folder)
    with _alone(folder):
        if given and (folder / FILE).exists():
            _same_where_running(given, folder)
        settings = settle(folder, given)
        parts = _parts(settings)
        missing = [part for part in parts if not _process(settings, part).alive()]
        if missing and (full := _full(folder)):
            raise Refused(f"the disk of the stack's folder is {full}, or give another --folder")
        for part in missing:
            _process(settings, part).clear()
            _check_ports(settings, part)
        started: list[Part] = []
        try:
            for part in parts:
                _up(settings, part, started if part in missing else None, say)
        except BaseException:
            for part in reversed(started):
                _process(settings, part).stop(part.stop)
            raise
        if not missing:
            say("the stack is up already")
        say(f"to use it: {sourced(folder)}")


def status(folder: Path) -> tuple[bool, str]:
    """Return whether all parts of the stack in `folder` answer, and a line for each; raise Refused for no stack.

    A disk that is full gets a line too: the parts then answer some requests and fail at others.
    """
    settings = read(folder)
    found = [(part, _state(settings, part)) for part in _parts(settings)]
    lines = [_line(part, state) for part, state in found]
    if full := _full(folder):
        lines.append(f"{'disk':<10}{full}")
    return all(state == "up" for _, state in found) and not full, "\n".join(lines)


def down(folder: Path, say: Say) -> None:
    """Stop the stack in `folder`; its data stay.

    Raises:
        Refused: there is no stack, or a part cannot be stopped.
    """
    settings = read(folder)
    with _alone(folder):
        stopped = [part for part in reversed(_parts(settings)) if _stopped(settings, part, say)]
    if not stopped:
        say("the stack is down already")


def _parts(settings: Settings) -> list[Part]:
    """Return all parts, each after those that it needs."""
    return [postgres.part(settings), seaweed.part(settings), server.part(settings)]


def _process(settings: Settings, part: Part) -> Process:
    return Process(settings.folder, part.name)


def _up(settings: Settings, part: Part, started: list[Part] | None, say: Say) -> None:
    """Start a part unless `started` is None, wait until it answers, and make what it must hold."""
    process, began = _process(settings, part), time.monotonic()
    if started is not None:
        say(_line(part, "starting"))
        with writable(settings.folder):
            part.folder.mkdir(mode=0o700, exist_ok=True)
            part.prepare()
            process.start(part.command, part.env, part.folder, part.owner)
        started.append(part)
    told = began
    while (silence := part.answers()) is not None:
        now = time.monotonic()
        if not process.alive():
            raise Refused(
                f"{part.name} ended while it started; the last lines of {process.log}:\n{process.last_lines()}"
            )
        if now - began > READY_SECONDS:
            raise Unreachable(f"{part.name} runs and does not answer at {part.address} ({silence}): see {process.log}")
        if now - told > PROGRESS_SECONDS:
            told = now
            say(_line(part, f"starting, {now - began:.0f} s"))
        time.sleep(POLL_SECONDS)
    part.finish()
    say(_line(part, f"ready after {time.monotonic() - began:.1f} s" if started is not None else "up"))


def _full(folder: Path) -> str | None:
    """Return what is to be done about a disk that has hardly any room left; None: it has."""
    left = shutil.disk_usage(folder).free // 2**20
    return f"full: {left} MiB left, {LEAST_MIB} wanted: free some space at {folder}" if left < LEAST_MIB else None


def _check_ports(settings: Settings, part: Part) -> None:
    for name in part.ports:
        deadline = time.monotonic() + RELEASE_SECONDS
        while (busy := taken(settings.port(name))) and time.monotonic() < deadline:
            time.sleep(POLL_SECONDS)
        if busy:
            raise Refused(
                f"port {settings.port(name)} of {part.name} is taken by another program: stop that, or give the stack "
                f"another port with `{command('up', settings.folder)} --port {name}={free_port()}`"
            )


def _same_where_running(ports: Mapping[str, int], folder: Path) -> None:
    """Refuse to change the ports of parts that run."""
    settings = read(folder)
    for part in _parts(settings):
        changed = [name for name in part.ports if name in ports and ports[name] != settings.port(name)]
        if changed and _process(settings, part).alive():
            runs = f"{part.name} runs at port {settings.port(changed[0])}"
            raise Refused(f"{runs}: `{command('down', folder)}` before --port")


def _stopped(settings: Settings, part: Part, say: Say) -> bool:
    if (ended := _process(settings, part).stop(part.stop)) is None:
        return False
    say(_line(part, ended))
    return True


def _state(settings: Settings, part: Part) -> str:
    if not _process(settings, part).alive():
        return "down"
    silence = part.answers()
    return "up" if silence is None else f"does not answer ({silence})"


def _line(part: Part, state: str) -> str:
    return f"{part.name:<10}{part.address:<36}{state}"


def _port(text: str) -> tuple[str, int]:
    name, _, number = text.partition("=")
    if not number.isdecimal():
        raise Refused(f"a port must read NAME=NUMBER, e.g. mlflow=5000, got {text!r}")
    return name, int(number)


@contextmanager
def _alone(folder: Path) -> Iterator[None]:
    """Refuse a second `up` or `down` of the same stack."""
    with writable(folder):
        lock = (folder / LOCK).open("w")
    with lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise Refused(f"another `medloop stack` works in {folder}: wait for it") from None
        yield
