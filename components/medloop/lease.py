"""One holder at a time across machines: an object in S3 that is only ever replaced by whoever has seen it last.

`$MEDLOOP_LEASE` (`s3://bucket/prefix`) turns it on. Whether a lease has expired is told by the clock of the S3 server
alone, which stamps an object when it is written and an answer when it is given: clocks of clients do not matter. The
object stays when a lease is given back, for its token only ever grows.
"""

import logging
import os
import secrets
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

from medloop import s3_json
from medloop.errors import Conflict, Refused, Unreachable

VARIABLE, LIFETIME = "MEDLOOP_LEASE", "MEDLOOP_LEASE_SECONDS"
SECONDS = 30.0  # after which a holder that was killed blocks nobody any more
GRACE_SECONDS = 1.0  # the server's clock has whole seconds
WAIT_SECONDS = 120.0
POLL_SECONDS = 0.2

log = logging.getLogger(__name__)


@dataclass
class Lease:
    """A lease that is held, and renewed by a thread for as long as the process lives."""

    name: str
    address: s3_json.Address
    token: int
    owner: str
    seconds: float
    etag: str
    renewed: float  # monotonic seconds, ahead of the request that wrote it last
    guard: threading.Lock = field(default_factory=threading.Lock)

    @property
    def content(self) -> dict[str, object]:
        """What others read of it."""
        return {"token": self.token, "owner": self.owner, "seconds": self.seconds}


def wanted() -> bool:
    """Tell whether $MEDLOOP_LEASE is set."""
    return bool(os.environ.get(VARIABLE))


@contextmanager
def held(name: str) -> Iterator[Lease]:
    """Hold the lease on `name`, waiting for others to give it back or to let it expire.

    Raises:
        Conflict: others held it for longer than anybody waits.
        Unreachable: the S3 server does not answer.
        Refused: it does not let us in, or there is no such bucket.
    """
    lease = _taken(name)
    ended = threading.Event()
    renewal = threading.Thread(target=_renew, args=(lease, ended), daemon=True)
    renewal.start()
    try:
        yield lease
    finally:
        ended.set()
        renewal.join()
        _give_back(lease)


def confirm(lease: Lease) -> None:
    """Raise Conflict unless `lease` is still held, which a process that was suspended cannot know by itself."""
    with lease.guard:
        asked = time.monotonic()
        found = s3_json.read(lease.address)
        ours = found is not None and found.content["owner"] == lease.owner
        if ours and asked - lease.renewed < lease.seconds:
            return
    given = f"; token {found.content['token']} was given out since" if found and not ours else ""
    raise Conflict(
        f"the lease on {lease.name} (token {lease.token}) has expired{given}; nothing was changed: run it again"
    )


def entry(name: str) -> dict[str, str]:
    """Return the last entry in the journal that all machines share, {} before the first."""
    found = s3_json.read(_journal(name))
    return found.content if found else {}


def enter(lease: Lease, written: dict[str, str]) -> None:
    """Replace the entry in the journal, under the lease's token.

    Raises:
        Conflict: a later holder has made an entry.
    """
    address = _journal(lease.name)
    found = s3_json.read(address)
    later = found is not None and int(found.content["token"]) > lease.token
    content = {**written, "token": str(lease.token)}
    if later or s3_json.write(address, content, seen=found.etag if found else None) is None:
        raise Conflict(
            f"the lease on {lease.name} (token {lease.token}) expired while the champion moved, and somebody else "
            "moved it too: see with `medloop models` who it is now"
        )


def _taken(name: str) -> Lease:
    owner, seconds, address = secrets.token_hex(8), _lifetime(), _object(name, "lease")
    deadline = time.monotonic() + WAIT_SECONDS
    while True:
        found = s3_json.read(address)
        if found is None or not found.content["owner"] or found.age > found.content["seconds"] + GRACE_SECONDS:
            token = int(found.content["token"]) + 1 if found else 1
            lease = Lease(name, address, token, owner, seconds, "", time.monotonic())
            etag = s3_json.write(address, lease.content, seen=found.etag if found else None)
            if etag is not None:
                lease.etag = etag
                return lease
        if time.monotonic() > deadline:
            raise Conflict(f"others have held the lease on {name} for {WAIT_SECONDS:.0f} s: run it again later")
        time.sleep(POLL_SECONDS * (0.5 + secrets.randbelow(1000) / 1000))


def _renew(lease: Lease, ended: threading.Event) -> None:
    """Write the lease anew until `ended`, or until it is lost, which `confirm` finds out."""
    while not ended.wait(lease.seconds / 3):
        with lease.guard:
            began = time.monotonic()
            try:
                etag = s3_json.write(lease.address, lease.content, seen=lease.etag)
            except Refused as error:
                log.warning("%s. The lease on %s is not renewed.", error, lease.name)
                continue
            if etag is None:
                return
            lease.etag, lease.renewed = etag, began


def _give_back(lease: Lease) -> None:
    """Leave the token without an owner; one that was lost is not ours to give."""
    try:
        s3_json.write(lease.address, {**lease.content, "owner": ""}, seen=lease.etag)
    except Unreachable as error:
        log.warning("%s. The lease on %s expires in %.0f s.", error, lease.name, lease.seconds)


def _lifetime() -> float:
    text = os.environ.get(LIFETIME) or str(SECONDS)
    seconds = float(text) if text.replace(".", "", 1).isdecimal() else 0.0
    if not 1 <= seconds <= 3600:
        raise Refused(f"{LIFETIME} must be 1 to 3600 seconds, got {text!r}")
    return seconds


def _journal(name: str) -> s3_json.Address:
    return _object(name, "journal")


def _object(name: str, kind: str) -> s3_json.Address:
    return s3_json.below(os.environ[VARIABLE], f"{name}.{kind}.json", variable=VARIABLE)
