"""Sends to the tracking server what another process says: importing MLflow takes seconds that training need not wait.

`python -m medloop.tracking.listen` reads one JSON message a line: how the run begins, metrics and tags, how it ends.
A sender that dies without a word was killed.
"""

import json
import logging
import os
import signal
import sys
from typing import Any

from medloop import tracking


def main() -> None:
    """Do what the messages on stdin say."""
    for number in (signal.SIGINT, signal.SIGTERM):  # they reach the sender too: its end is what is heard
        signal.signal(number, signal.SIG_IGN)
    os.nice(5)
    logging.basicConfig(format="medloop: %(message)s", level=logging.WARNING)
    run: Any = None
    for line in sys.stdin:
        message = json.loads(line)
        if "run_name" in message:
            run = tracking.live(message["run_name"], message["params"], message["tags"])
        elif "metrics" in message:
            run.log(message["metrics"], message["step"])
        elif "tags" in message:
            run.tag(message["tags"])
        else:
            run.close(message["status"])
            return
    if run is not None:
        run.close("KILLED")


if __name__ == "__main__":
    main()
