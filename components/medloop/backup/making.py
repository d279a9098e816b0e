"""`medloop registry backup` and `backups`."""

import os
import time
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from importlib.metadata import version
from pathlib import Path
from tempfile import TemporaryDirectory

from medloop.backup import databases, places, records
from medloop.backup.places import AT_ONCE, Listed, Place
from medloop.backup.records import Backup, File
from medloop.errors import Refused
from medloop.provenance import sha256

BUCKET = "MEDLOOP_BUCKET_MLFLOW"
TURNS = (".journal.json", ".lease.json")  # change in place: a journal is copied before the lease with its token

Say = Callable[[str], object]


def make(address: str, *, keep: int, say: Say) -> str:
    """Back the registry up to `address`, forget all but the latest `keep` backups there, and return the name.

    Raises:
        Refused: the address does not fit or cannot be written, an object went meanwhile, an old backup is damaged.
        Unreachable: PostgreSQL or a server of S3 does not answer.
    """
    if keep < 1:
        raise Refused(f"--keep must be at least 1, got {keep}")
    began, place, bucket = time.monotonic(), places.opened(address, records.CONTENT), registry()
    if isinstance(place, places.Bucket) and place.overlaps(bucket):
        raise Refused(f"{address} is the registry's own bucket, and would be lost with it: name another")
    revisions = {name: databases.revision(name) for name in databases.NAMES}
    known = records.names(place)
    before = records.read(place, known[-1]).objects if known else {}
    with TemporaryDirectory() as folder:
        copy = _Copy(place, bucket, before, Path(folder))
        dumps = {name: copy.database(name) for name in databases.NAMES}
        objects = copy.objects()
    backup = Backup(
        made=_made(known),
        versions={name: version(name) for name in ("medloop", "mlflow")},
        revisions=revisions,
        databases=dumps,
        objects=objects,
    )
    there = place.listed(f"{records.FILES}/")
    for what, file in backup.files.items():
        if there.get(file.key, Listed(-1)).size != file.size:
            raise Refused(f"{what} has gone from {place.name}: let one backup work there at a time, and run it again")
    name = records.write(backup, place)
    say(f"{name}: {_size(backup)}, {copy.written} new files, {time.monotonic() - began:.1f} s")
    _forget(place, [*known, name][:-keep], say)
    return name


def listing(address: str, *, verify: bool) -> str:
    """Return a line for each backup, oldest first; with `verify` read all their files and compare the digests.

    Raises:
        Refused: `verify`, and there is none: nothing would have been verified.
    """
    place, lines = places.opened(address, records.CONTENT), []
    if verify:
        records.latest(place)
    for name in records.names(place):
        backup = records.read(place, name)
        if verify:
            records.check(place, backup)
        lines.append(f"{name}  MLflow {backup.versions['mlflow']}, {_size(backup)}{', every digest holds' * verify}")
    return "\n".join(lines) or f"{place.name} holds no backup"


def registry() -> places.Bucket:
    """Return the bucket of the registry, which MEDLOOP_BUCKET_MLFLOW names."""
    if not (name := os.environ.get(BUCKET)):
        raise Refused(f"{BUCKET} is not set: source the stack.env of a stack, or name the bucket of MLflow's artifacts")
    return places.Bucket(name)


class _Copy:
    """Copies what is not in `place` yet."""

    def __init__(self, place: Place, bucket: Place, before: dict[str, File], folder: Path) -> None:
        self.written = 0
        self._place, self._bucket, self._before, self._folder = place, bucket, before, folder
        self._there = place.listed(f"{records.FILES}/")

    def database(self, name: str) -> File:
        path = self._folder / name
        databases.dump(name, path)
        return self._kept(path)

    def objects(self) -> dict[str, File]:
        listed = self._bucket.listed()
        turns = sorted(key for key in listed if key.endswith(TURNS))
        with ThreadPoolExecutor(AT_ONCE) as pool:
            others = sorted(listed.keys() - set(turns))
            files = dict(zip(others, pool.map(lambda key: self._object(key, listed[key]), others), strict=True))
        return files | {key: self._object(key, listed[key]) for key in turns}

    def _object(self, key: str, listed: Listed) -> File:
        last = self._before.get(key)
        if last and (last.size, last.etag) == (listed.size, listed.etag) and last.key in self._there:
            return last
        with TemporaryDirectory(dir=self._folder) as folder:
            path = Path(folder, "object")
            self._bucket.get(key, path)
            return self._kept(path, listed.etag)

    def _kept(self, path: Path, etag: str = "") -> File:
        file = File(sha256(path), path.stat().st_size, etag)
        if self._there.get(file.key, Listed(-1)).size != file.size:
            self._place.put(file.key, path)
            self.written += 1
        return file


def _made(known: list[str]) -> str:
    """Return the time, when it is no longer that of the last backup: names in their order are backups in theirs."""
    while known and known[-1].startswith(time.strftime(records.MADE, time.gmtime())):
        time.sleep(0.05)
    return time.strftime(records.MADE, time.gmtime())


def _forget(place: Place, old: Iterable[str], say: Say) -> None:
    """Delete old backups, and the files that no other names; those of a backup that was broken off too."""
    for name in old:
        records.remove(place, name)
        say(f"{name}: forgotten")
    wanted = {file.key for name in records.names(place) for file in records.read(place, name).files.values()}
    for key in place.listed(f"{records.FILES}/").keys() - wanted:
        if records.OURS.fullmatch(key):
            place.remove(key)


def _size(backup: Backup) -> str:
    megabytes = sum(file.size for file in backup.files.values()) / 1e6
    return f"{len(backup.databases)} databases, {len(backup.objects)} objects, {megabytes:.1f} MB"
