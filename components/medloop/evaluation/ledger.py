"""The ledger of openings: which model versions have seen which test set."""

import fcntl
import json
import os
from pathlib import Path

from medloop.errors import Refused


def path() -> Path:
    """Return where the ledger is: `$MEDLOOP_STATE`, else `.medloop`, outside every output."""
    return Path(os.environ.get("MEDLOOP_STATE", ".medloop")) / "ledger.jsonl"


def opened(test_sha256: str, model_sha256: str) -> int:
    """Enter that this model sees this test set, once, and return how many models have seen it so far.

    Raises:
        Refused: a line of the ledger cannot be read.
    """
    file = path()
    file.parent.mkdir(parents=True, exist_ok=True)
    with file.open("a+") as ledger:
        fcntl.flock(ledger, fcntl.LOCK_EX)
        ledger.seek(0)
        seen = {_entry(line, number) for number, line in enumerate(ledger, 1)}
        if (test_sha256, model_sha256) not in seen:
            ledger.write(json.dumps({"test_sha256": test_sha256, "model_sha256": model_sha256}) + "\n")
            ledger.flush()
            os.fsync(ledger.fileno())
            seen.add((test_sha256, model_sha256))
    return sum(test == test_sha256 for test, _ in seen)


def _entry(line: str, number: int) -> tuple[str, str]:
    try:
        entry = json.loads(line)
        return entry["test_sha256"], entry["model_sha256"]
    except (ValueError, KeyError, TypeError):
        raise Refused(
            f"{path()}, line {number}: wanted an entry with test_sha256 and model_sha256, got {line.strip()[:40]!r}; "
            "mend or take out that line"
        ) from None
