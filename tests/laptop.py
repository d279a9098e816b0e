"""A stack of its own for the tests of one file, and what they do to it."""

import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

COMMAND = [sys.executable, "-c", "from medloop.cli import main; main()"]


class Laptop:
    """A folder that `medloop stack` works in."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def run(self, *words: str, **options) -> subprocess.CompletedProcess:
        """Run `medloop stack WORDS` and return how it ended and what it said."""
        command = [*COMMAND, "stack", *words, "--folder", str(self.folder)]
        return subprocess.run(command, capture_output=True, text=True, timeout=200, check=False, **options)

    def up(self) -> str:
        """Start it, and return what it said."""
        done = self.run("up")
        if "may not enter" in done.stderr:
            pytest.skip(done.stderr.strip())
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    @property
    def env(self) -> dict[str, str]:
        """The variables in its stack.env."""
        lines = (self.folder / "stack.env").read_text().splitlines()
        return dict(line.split("=", 1) for line in lines if not line.startswith("#"))

    def pid(self, part: str) -> int:
        """Return the recorded pid of a part."""
        return json.loads((self.folder / f"run/{part}.json").read_text())["pid"]

    def kill(self, part: str) -> None:
        """Kill a part without a word, and wait until it is gone."""
        pid = self.pid(part)
        os.kill(pid, signal.SIGKILL)
        for _ in range(100):
            if not Path(f"/proc/{pid}/cmdline").exists() or not Path(f"/proc/{pid}/cmdline").read_bytes():
                return
            time.sleep(0.05)
        raise AssertionError(f"{part} survived")


@contextmanager
def folder() -> Iterator[Path]:
    """A folder below the temporary one that any user may enter: PostgreSQL is not root even where the tests are."""
    path = Path(tempfile.mkdtemp(prefix="medloop-stack-"))
    path.chmod(0o711)
    try:
        yield path
    finally:
        shutil.rmtree(path)
