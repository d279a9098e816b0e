"""`medloop registry restore`."""

import time
from concurrent.futures import ThreadPoolExecutor
from importlib.metadata import version
from pathlib import Path
from tempfile import TemporaryDirectory

from medloop.backup import databases, places, records
from medloop.backup.making import TURNS, Say, registry
from medloop.backup.places import AT_ONCE
from medloop.backup.records import Backup, File
from medloop.errors import Refused


def restore(address: str, name: str | None, *, say: Say) -> None:
    """Bring a backup back into a registry that nobody has used yet, with its MLflow server up.

    All is verified before anything is written. Objects come first: one that no row names harms nobody, and a restore
    that was broken off amid them can be run again. Users keep their passwords; the administrator has this server's.

    Args:
        address: where the backups lie.
        name: which one; None: the latest.
        say: takes a line of progress.

    Raises:
        Refused: there is no such backup, it is damaged or of another MLflow, or the registry is in use.
        Unreachable: PostgreSQL or a server of S3 does not answer.
    """
    began, place, bucket = time.monotonic(), places.opened(address, records.CONTENT), registry()
    name = name or records.latest(place)
    backup = records.read(place, name)
    _fits(backup, name, bucket)
    administrator = databases.administrator()
    say(f"{name}: reading {len(backup.files)} files")
    records.check(place, backup)
    with TemporaryDirectory() as folder:

        def copied(each: tuple[str, File]) -> None:
            with TemporaryDirectory(dir=folder) as own:
                path = Path(own, "object")
                records.fetch(place, *each, path)
                bucket.put(each[0], path)

        with ThreadPoolExecutor(AT_ONCE) as pool:
            list(pool.map(copied, backup.objects.items()))
        for database in reversed(databases.NAMES):
            path = Path(folder, database)
            records.fetch(place, f"the database {database}", backup.databases[database], path)
            databases.replace(database, path, administrator)
    say(f"{name}: restored in {time.monotonic() - began:.1f} s; the administrator's password is this server's")


def _fits(backup: Backup, name: str, bucket: places.Bucket) -> None:
    """Raise Refused unless the registry is unused and has the backup's schema."""
    for database, wanted in backup.revisions.items():
        if (came := databases.revision(database)) != wanted:
            raise Refused(
                f"{name} was made by MLflow {backup.versions['mlflow']} (schema {wanted} of {database}), the server is "
                f"another one (schema {came}; MLflow {version('mlflow')} here): restore with MLflow "
                f"{backup.versions['mlflow']}, then upgrade it"
            )
    if used := databases.used():
        raise Refused(f"the registry is in use ({used}): a backup is restored into fresh databases and a fresh bucket")
    foreign = {key for key in bucket.listed() if not key.endswith(TURNS)} - backup.objects.keys()
    if foreign:
        raise Refused(
            f"{bucket.name} is in use, it holds {len(foreign)} objects: a backup is restored into a fresh bucket"
        )
