"""The ledger of openings: which model versions have seen which test images.

A test set grows with the data, so versions are counted by image: all that have seen any of today's test images.
"""

import fcntl
import json
import os
from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple

from medloop import provenance
from medloop.errors import Refused


class Opening(NamedTuple):
    """What a ledger says of a test set that is opened now."""

    test_sha256: str  # names the test set
    openings: int  # model versions that have seen any of its images, this one included


def path() -> Path:
    """Return where the ledger is: `$MEDLOOP_STATE`, else `.medloop`, outside every output."""
    return Path(os.environ.get("MEDLOOP_STATE") or ".medloop") / "ledger.jsonl"


def name(images: Iterable[str]) -> str:
    """Return the digest that names the test set of the images of these digests."""
    return provenance.json_digest(sorted(images))


def opened(images: Iterable[str], model_sha256: str) -> Opening:
    """Enter that this model sees the test images of these digests, once, and count the models that saw any of them.

    Raises:
        Refused: a line of the ledger cannot be read, or the images of a test set in it are missing.
    """
    today = sorted(images)
    test = name(today)
    _images(test).parent.mkdir(parents=True, exist_ok=True)
    with path().open("a+") as ledger:
        fcntl.flock(ledger, fcntl.LOCK_EX)
        ledger.seek(0)
        seen = {_entry(line, number) for number, line in enumerate(ledger, 1)}
        if (test, model_sha256) not in seen:
            _images(test).write_text("\n".join(today))
            ledger.write(json.dumps({"test_sha256": test, "model_sha256": model_sha256}) + "\n")
            ledger.flush()
            os.fsync(ledger.fileno())
            seen.add((test, model_sha256))
        shared = {each for each in {each for each, _ in seen} if not set(today).isdisjoint(_read(each))}
    return Opening(test, len({model for each, model in seen if each in shared}))


def _images(test: str) -> Path:
    return path().parent / "test_sets" / f"{test}.txt"


def _read(test: str) -> list[str]:
    try:
        return _images(test).read_text().split()
    except FileNotFoundError:
        raise Refused(f"{path()} names a test set whose images should be in {_images(test)}: put it back") from None


def _entry(line: str, number: int) -> tuple[str, str]:
    try:
        entry = json.loads(line)
        return entry["test_sha256"], entry["model_sha256"]
    except (ValueError, KeyError, TypeError):
        raise Refused(
            f"{path()}, line {number}: wanted an entry with test_sha256 and model_sha256, got {line.strip()[:40]!r}; "
            "mend or take out that line"
        ) from None
