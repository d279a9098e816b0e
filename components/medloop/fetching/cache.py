"""A cache of fetched files by their MD5, readable by the owner alone: what is raw may name patients."""

import errno
import os
import tempfile
from collections.abc import Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Protocol

from tqdm import tqdm

from medloop import privacy, provenance
from medloop.errors import Refused
from medloop.fetching.data import Wanted, listing_hash, md5

FULL = (errno.ENOSPC, errno.EFBIG, errno.EDQUOT)
AT_ONCE = 16  # downloads


@dataclass(frozen=True)
class Object:
    """One file of the data, before it is fetched."""

    path: str  # below the folder; may hold a patient's name
    size: int | None  # bytes; None: the remote does not tell
    tag: str  # what the remote says of the content: another content, another tag
    md5: str | None = None  # where the remote tells it
    modified: float | None = None  # seconds since 1970, where the remote tells it


class Remote(Protocol):
    """Where data lies."""

    name: str  # for messages
    listing: str | None  # DVC's hash of the whole folder, where the remote tells it once its objects are listed

    def opened(self) -> AbstractContextManager[object]:
        """Hold what the other methods need."""

    def objects(self) -> list[Object]:
        """Return every file of the data."""

    def download(self, each: Object, path: Path) -> None:
        """Write the content of a file to `path`; raise Refused where it is not what the remote says it is."""


@contextmanager
def assembled(remote: Remote, wanted: Wanted) -> Iterator[tuple[Path, dict[str, str]]]:
    """Yield a temporary folder with the files of `remote`, and the MD5 of each that is `wanted` by its path.

    Only what the cache does not hold is downloaded; each file is compared with its hash, those of the cache too. Files
    that are not `wanted` are there by name alone, empty.

    Raises:
        Refused: see `Remote`; a path leads out of the folder, or the disk is full.
    """
    place = Path(os.environ.get("MEDLOOP_STATE") or ".medloop") / "private" / "data"
    try:
        for folder in (place.parent, place):
            folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix="view-", dir=place) as view, remote.opened():
            found = remote.objects()
            _check(remote, found)
            mine = [each for each in found if wanted(each.path)]
            with ThreadPoolExecutor(AT_ONCE) as pool:
                jobs = [pool.submit(_held, remote, each, place) for each in mine]
                try:
                    digests = [job.result() for job in tqdm(jobs, "fetch", unit=" files", disable=None)]
                except BaseException:
                    pool.shutdown(cancel_futures=True)
                    raise
            named = {each.path: digest for each, digest in zip(mine, digests, strict=True)}
            for each in found:
                path = Path(view) / each.path
                path.parent.mkdir(parents=True, exist_ok=True)
                if each.path in named:
                    path.hardlink_to(_content(place, named[each.path]))
                else:
                    path.touch()
            _check_listing(remote, {each.path: named.get(each.path, each.md5) for each in found})
            yield Path(view), named
    except OSError as error:
        if error.errno in FULL:
            raise Refused(
                f"no room on disk below {place} for the data of {remote.name}: {error.strerror}; free some space and "
                "run again: what has been fetched is kept"
            ) from None
        raise


def pseudonym(each: Object) -> str:
    """Return how a message names a file."""
    return f"file {privacy.Pseudonyms.load().of('item', each.path)}"


def _held(remote: Remote, each: Object, place: Path) -> str:
    """Return the MD5 of a file that the cache holds, after fetching it where it does not."""
    index = place / "index" / provenance.json_digest([remote.name, each.path, each.tag, each.size])
    known = each.md5 or (index.read_text() if index.exists() else None)
    if known:
        path = _content(place, known)
        if path.exists() and md5(path) == known:
            return known
        path.unlink(missing_ok=True)
    number, partial = tempfile.mkstemp(prefix="partial-", dir=place)  # mode 0600
    os.close(number)
    try:
        remote.download(each, Path(partial))
        came, size = md5(Path(partial)), Path(partial).stat().st_size
        if size != (size if each.size is None else each.size) or came != (each.md5 or came):
            raise Refused(
                f"{pseudonym(each)} of {remote.name} is not what was stored: wanted {_described(each.size, each.md5)}, "
                f"got {_described(size, came)}; put the file there again"
            )
        path = _content(place, came)
        path.parent.mkdir(exist_ok=True, parents=True)
        Path(partial).replace(path)
    finally:
        Path(partial).unlink(missing_ok=True)
    index.parent.mkdir(exist_ok=True)
    index.write_text(came)
    return came


def _described(size: int | None, digest: str | None) -> str:
    return " and ".join([*([f"{size} bytes"] if size is not None else []), *([f"MD5 {digest}"] if digest else [])])


def _content(place: Path, digest: str) -> Path:
    return place / "files" / digest[:2] / digest[2:]


def _check_listing(remote: Remote, digests: Mapping[str, str | None]) -> None:
    """Compare the MD5s with the hash of the folder, where all of them are known."""
    known = {path: digest for path, digest in digests.items() if digest}
    came = listing_hash(known).removeprefix("md5:")
    if len(known) == len(digests) and remote.listing not in (None, came):
        raise Refused(f"{remote.name} is not what its listing says: wanted {remote.listing}, got {came}")


def _check(remote: Remote, found: Iterable[Object]) -> None:
    """Refuse names that cannot stand in one folder."""
    paths = {PurePosixPath(each.path) for each in found}
    for each in found:
        path = PurePosixPath(each.path)
        if path.is_absolute() or {"", ".", ".."} & set(each.path.split("/")) or paths & set(path.parents):
            raise Refused(f"{pseudonym(each)} of {remote.name} has a name that no folder can hold: rename it")
