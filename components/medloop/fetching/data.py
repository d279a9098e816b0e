"""Where `ingest.root` or `ingest.dvc` leads: a local folder, with the hash that DVC gives to what is in it."""

import hashlib
import json
import os
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from medloop import params
from medloop.errors import Refused, Unreachable

if TYPE_CHECKING:
    from medloop.fetching import cache

NOTHING = Path("data/none")  # the root of a source that makes its own samples
S3 = "s3://"
HASHED = 1000  # files given out at once, so that memory stays flat
Wanted = Callable[[str], bool]  # by the path of a file below the root


def everything(path: str) -> bool:  # noqa: ARG001
    """Want every file."""
    return True


@contextmanager
def fetched(section: params.Ingest, wanted: Wanted = everything) -> Iterator[tuple[Path, dict[str, str]]]:
    """Yield the local path of the data, and the MD5 of each file that is `wanted`, by its path below.

    Of data that lies elsewhere the other files are there by name alone, empty. A folder that was fetched is gone
    afterwards, what it held stays in the cache.

    Raises:
        Refused: the data is not there, is not what it should be, or there is no room for it.
        Unreachable: the server does not answer.
    """
    if not is_remote(section):
        root = Path(section.root)
        yield root, _hashed(root, filter(wanted, _below(root)))
        return
    from medloop.fetching import cache

    with cache.assembled(remote(section), wanted) as view:
        yield view


def listed(section: params.Ingest) -> tuple[list[str], str | None]:
    """Return the paths of all files of the data, and its hash where a DVC project tells it; nothing is fetched."""
    if not is_remote(section):
        return _below(Path(section.root)), None
    place = remote(section)
    with place.opened():
        return [each.path for each in place.objects()], f"md5:{place.listing}" if place.listing else None


def is_remote(section: params.Ingest) -> bool:
    """Tell whether the data lies in S3 or in a DVC project."""
    return section.dvc is not None or section.root.startswith(S3)


def look(section: params.Ingest) -> None:
    """Ask whether the data in S3 is there; raise Refused or Unreachable where it is not."""
    if section.root.startswith(S3):
        from medloop.fetching import s3

        s3.Prefix(section.root).look()


def look_back(section: params.Ingest) -> None:
    """Ask, after a failure, for the DVC project of the data, which is not asked while all is up to date.

    Raises:
        Unreachable: it cannot be cloned.
    """
    if section.dvc is not None:
        try:
            listed(section)
        except Unreachable:
            raise
        except Refused:  # the stage has said it
            return


def data_hash(root: Path) -> str | None:
    """Return `md5:` and the hash by which DVC names the content of a file or folder; None for no data."""
    return combined(_hashed(root, _below(root)))


def combined(digests: Mapping[str, str]) -> str | None:
    """Return the same for files whose MD5s are known."""
    if not digests:
        return None
    return f"md5:{digests['']}" if "" in digests else listing_hash(digests)


def listing_hash(digests: Mapping[str, str]) -> str:
    """Return `md5:` and the hash by which DVC names a folder: of the list of its files with their MD5s."""
    text = hashlib.md5(b"[", usedforsecurity=False)
    for place, (name, digest) in enumerate(sorted(digests.items())):
        entry = json.dumps({"md5": digest, "relpath": name})
        text.update(f"{', ' if place else ''}{entry}".encode())
    text.update(b"]")
    return f"md5:{text.hexdigest()}.dir"


def md5(path: Path) -> str:
    """Return the MD5 of a file, by which DVC and S3 name contents."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, lambda: hashlib.md5(usedforsecurity=False)).hexdigest()


def below(root: Path) -> Iterator[str]:
    """Yield the path below `root` of each file, folder after folder: texts alone, for there may be many."""
    for folder, _, names in os.walk(root):
        above = os.path.relpath(folder, root)
        for name in names:
            if os.path.isfile(os.path.join(folder, name)):  # noqa: PTH113, PTH118  no object for each
                yield name if above == "." else f"{above}/{name}"


def _below(root: Path) -> list[str]:
    """Return the paths of the files below `root`; of a file, an empty one."""
    if root == NOTHING:
        return []
    if root.is_file():
        return [""]
    return list(below(root))


def _hashed(root: Path, names: Iterable[str]) -> dict[str, str]:
    names, hashed = list(names), dict[str, str]()
    with ThreadPoolExecutor(len(os.sched_getaffinity(0))) as pool:  # hashing does not hold the interpreter's lock
        for start in range(0, len(names), HASHED):
            part = names[start : start + HASHED]
            hashed |= zip(part, pool.map(md5, [root / name for name in part]), strict=True)
    return hashed


def remote(section: params.Ingest) -> "cache.Remote":
    """Return where data lies that is not on this machine."""
    if section.dvc is None:
        from medloop.fetching import s3

        return s3.Prefix(section.root)
    from medloop.fetching import project

    return project.Revision(section.dvc)
