"""Servers that outlive the command that started them, stopped by a recorded pid that is verified first."""

import contextlib
import json
import os
import pwd
import signal
import subprocess
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from medloop.errors import Refused

MARK = "MEDLOOP_STACK_PART"  # in the environment of each process of a part
OTHERS = ("MLFLOW_", "AWS_", "PG", "WEED_", "MEDLOOP_")  # what a user's shell has set does not reach the servers
LOG_BYTES = 20 * 2**20  # a longer log is set aside at the next start
STOP_SECONDS = 60.0
POLL_SECONDS = 0.1


class Process:
    """One server of a stack: how it starts and stops, and whether it lives."""

    def __init__(self, folder: Path, name: str) -> None:
        self.name, self.log = name, folder / "log" / f"{name}.log"
        self._record, self._mark = folder / "run" / f"{name}.json", f"{MARK}={folder}:{name}"

    def start(self, command: Sequence[str], env: Mapping[str, str], folder: Path, owner: str | None = None) -> None:
        """Start `command` in `folder`, detached, its output appended to the log; `owner` is another user's name."""
        inherited = {name: value for name, value in os.environ.items() if not name.startswith(OTHERS)}
        mark, _, marked = self._mark.partition("=")
        self.log.parent.mkdir(mode=0o700, exist_ok=True)
        self._record.parent.mkdir(mode=0o700, exist_ok=True)
        if self.log.exists() and self.log.stat().st_size > LOG_BYTES:
            self.log.replace(self.log.with_suffix(".log.old"))
        with os.fdopen(os.open(self.log, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600), "wb") as log:
            started = subprocess.Popen(
                command,
                cwd=folder,
                env={**inherited, **env, mark: marked},
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
                **as_user(owner),
            )
        record = {"pid": started.pid, "started": _started(started.pid), "boot": _boot()}
        self._record.write_text(json.dumps(record))

    def alive(self) -> bool:
        """Tell whether the process that was recorded still runs, and is not another one under its pid."""
        with self._verified() as pidfd:
            return pidfd is not None

    def stop(self, how: signal.Signals) -> str | None:
        """Ask the process to end, wait until it has, and return how it ended; None: it was not there.

        One that does not end is killed, as SeaweedFS is on a full disk, where it cannot write what it holds: all parts
        are made to survive that.

        Raises:
            Refused: not even that ended it.
        """
        if not self._signalled(how):
            ended = None
        elif self._ends():
            ended = "stopped"
        elif self._signalled(signal.SIGKILL) and not self._ends():
            raise Refused(f"{self.name} cannot be killed: see {self.log}")
        else:
            ended = f"killed: it did not stop within {STOP_SECONDS:.0f} s"
        self.clear()
        self._record.unlink(missing_ok=True)
        return ended

    def _signalled(self, how: signal.Signals) -> bool:
        with self._verified() as pidfd:
            if pidfd is not None:
                signal.pidfd_send_signal(pidfd, how)
            return pidfd is not None

    def _ends(self) -> bool:
        deadline = time.monotonic() + STOP_SECONDS
        while self.alive() and time.monotonic() < deadline:
            time.sleep(POLL_SECONDS)
        return not self.alive()

    def clear(self) -> None:
        """End workers whose server was killed: they would hold its port."""
        deadline = time.monotonic() + STOP_SECONDS
        while left := self._left():
            if time.monotonic() > deadline:
                raise Refused(f"{self.name}: process {left[0]} of a server that was killed does not end")
            for pid in left:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
            time.sleep(POLL_SECONDS)

    def last_lines(self, count: int = 8) -> str:
        """Return the end of the log."""
        with self.log.open("rb") as file:
            file.seek(max(0, self.log.stat().st_size - 10_000))
            lines = file.read().decode(errors="replace").splitlines()
        return "\n".join(f"  {line}" for line in lines[-count:])

    @contextlib.contextmanager
    def _verified(self) -> Iterator[int | None]:
        """Yield a handle that stays with the recorded process, whoever gets its pid later; None: it has ended."""
        pidfd = None
        try:
            pid, started, boot = self._recorded()
            pidfd = os.pidfd_open(pid)
            if boot != _boot() or started != _started(pid):
                os.close(pidfd)
                pidfd = None
        except (FileNotFoundError, ProcessLookupError):
            pass
        try:
            yield pidfd
        finally:
            if pidfd is not None:
                os.close(pidfd)

    def _recorded(self) -> tuple[int, int, str]:
        """Return what `start` wrote down; raise FileNotFoundError for nothing, or nothing of the kind."""
        try:
            record = json.loads(self._record.read_text())
            return int(record["pid"]), record["started"], record["boot"]
        except (ValueError, KeyError, TypeError):
            raise FileNotFoundError(self._record) from None

    def _left(self) -> list[int]:
        return [int(path.parent.name) for path in Path("/proc").glob("[0-9]*/environ") if self._marked(path)]

    def _marked(self, environ: Path) -> bool:
        try:
            return self._mark.encode() in environ.read_bytes().split(b"\0") and _started(int(environ.parent.name)) > 0
        except OSError:  # another user's, or it has just ended
            return False


def as_user(owner: str | None) -> dict:
    """Return what makes `subprocess` run as the user `owner`; None: as who we are."""
    return {"user": owner, "group": pwd.getpwnam(owner).pw_gid, "extra_groups": []} if owner else {}


def _boot() -> str:
    return Path("/proc/sys/kernel/random/boot_id").read_text().strip()


def _started(pid: int) -> int:
    """Return when a process started, in clock ticks since the machine did; 0: it has ended, though nobody knows yet.

    Raises:
        ProcessLookupError: there is no such process.
    """
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except FileNotFoundError:
        raise ProcessLookupError(pid) from None
    return 0 if fields[0] in "ZX" else int(fields[19])
