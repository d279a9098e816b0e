"""How far the data has come: told by names and contents, before anything is fetched."""

from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from medloop import params, privacy, provenance
from medloop.errors import Refused
from medloop.fetching import data


@dataclass(frozen=True)
class Watermark:
    """The state of the data that `ingest` would read now."""

    digest: str  # keyed, of every file's name and content: the same files have the same one
    files: int
    newest: str | None  # when the newest file was written, UTC; None where that is not known

    def __str__(self) -> str:
        newest = f", the newest of {self.newest}" if self.newest else ""
        return f"{self.files} files{newest}"


def read(section: params.Ingest) -> Watermark:
    """Return the watermark of the data of `section`.

    A local folder is read whole. S3 is believed what it says of its objects (size, ETag), DVC what is committed (MD5).

    Raises:
        Refused: the data is not there.
        Unreachable: the server does not answer.
    """
    content, times = _remote(section) if data.is_remote(section) else _local(Path(section.root))
    digest = privacy.Pseudonyms.load().of("watermark", provenance.json_digest(content))
    return Watermark(digest, len(times), _shown(max((time for time in times if time is not None), default=None)))


def _local(root: Path) -> tuple[object, list[float | None]]:
    if root == data.NOTHING:
        return None, []
    if not root.exists():
        raise Refused(f"ingest.root must be a folder or file that exists, got {root}")
    files = [path for path in root.rglob("*") if path.is_file()] if root.is_dir() else [root]
    return data.data_hash(root), [path.stat().st_mtime for path in files]


def _remote(section: params.Ingest) -> tuple[object, list[float | None]]:
    remote = data.remote(section)
    with remote.opened():
        found = remote.objects()
    return sorted((each.path, each.size, each.tag) for each in found), [each.modified for each in found]


def _shown(time: float | None) -> str | None:
    return f"{datetime.fromtimestamp(time, UTC):%Y-%m-%d %H:%M:%S} UTC" if time else None
