"""Live metrics of a training run, sent by a process of its own."""

import json
import logging
import subprocess
import sys
from collections.abc import Mapping
from typing import Any

COMMAND = [sys.executable, "-m", "medloop.tracking.listen"]
SECONDS = 120  # given to the tracking server at the end to take the last metrics

log = logging.getLogger(__name__)


class Live:
    """A run in the tracking store. Whatever happens to it, training goes on."""

    def __init__(self, run_name: str, params: Mapping[str, Any], tags: Mapping[str, str]) -> None:
        self._process = subprocess.Popen(COMMAND, stdin=subprocess.PIPE, stdout=subprocess.DEVNULL, text=True)
        self._send(run_name=run_name, params=dict(params), tags=dict(tags))

    def log(self, metrics: Mapping[str, float], step: int) -> None:
        """Record `metrics` of epoch `step`."""
        self._send(metrics=dict(metrics), step=step)

    def tag(self, tags: Mapping[str, str]) -> None:
        """Record what became known late."""
        self._send(tags=dict(tags))

    def close(self, status: str) -> None:
        """End the run (FINISHED, FAILED or KILLED), and wait until the server has taken everything."""
        self._send(status=status)
        try:
            self._process.communicate(timeout=SECONDS)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.communicate()
            log.warning("the tracking server did not take the last metrics within %d s", SECONDS)

    def _send(self, **message: Any) -> None:
        if self._process.poll() is None and self._process.stdin is not None:
            try:
                self._process.stdin.write(json.dumps(message) + "\n")
                self._process.stdin.flush()
            except BrokenPipeError:
                log.warning("the process that sends live metrics has ended")
