"""What one backup holds: a JSON file whose name ends in its own digest."""

import hashlib
import json
import re
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

from medloop.backup.places import AT_ONCE, Place
from medloop.errors import Refused
from medloop.provenance import sha256

FORMAT = 1
BACKUPS, FILES = CONTENT = ("backups", "files")
MADE = "%Y%m%dT%H%M%SZ"
NAME = re.compile(r"\d{8}T\d{6}Z-[0-9a-f]{16}")
OURS = re.compile(rf"{FILES}/[0-9a-f]{{64}}(\.partial)?")


@dataclass(frozen=True)
class File:
    """A file under its digest."""

    sha256: str
    size: int  # bytes
    etag: str = ""  # of the object that it was copied from

    @property
    def key(self) -> str:
        return f"{FILES}/{self.sha256}"


@dataclass(frozen=True)
class Backup:
    """A whole backup."""

    made: str  # UTC, as in the name
    versions: dict[str, str]  # of medloop and MLflow
    revisions: dict[str, str]  # of MLflow's schema, by database
    databases: dict[str, File]
    objects: dict[str, File]  # by key in the registry's bucket
    format: int = FORMAT

    @property
    def files(self) -> dict[str, File]:
        """Every file, by what it is."""
        return {f"the database {name}": file for name, file in self.databases.items()} | self.objects


def names(place: Place) -> list[str]:
    """Return the names of all backups, oldest first."""
    stems = [Path(key).stem for key in place.listed(f"{BACKUPS}/")]
    return sorted(stem for stem in stems if NAME.fullmatch(stem))


def write(backup: Backup, place: Place) -> str:
    """Write down a backup all of whose files are there, and return its name."""
    content = json.dumps(asdict(backup), indent=1, sort_keys=True).encode()
    name = f"{backup.made}-{hashlib.sha256(content).hexdigest()[:16]}"
    with TemporaryDirectory() as folder:
        path = Path(folder, "backup.json")
        path.write_bytes(content)
        place.put(_key(name), path)
    return name


def read(place: Place, name: str) -> Backup:
    """Return the backup of that name; raise Refused where there is none, or it is not as it was written."""
    if name not in (known := names(place)):
        said = f"known: {', '.join(known[-5:])}" if known else "there is none at all"
        raise Refused(f"{place.name} has no backup {name}; {said}")
    with TemporaryDirectory() as folder:
        path = Path(folder, "backup.json")
        place.get(_key(name), path)
        content = path.read_bytes()
    if not name.endswith(hashlib.sha256(content).hexdigest()[:16]):
        raise Refused(f"{place.name}/{_key(name)} was changed or damaged: choose another backup with --backup")
    fields = json.loads(content)
    if fields["format"] != FORMAT:
        made_by = fields["versions"]["medloop"]
        raise Refused(f"{name} has format {fields['format']}, this medloop reads {FORMAT}: use medloop {made_by}")
    for group in ("databases", "objects"):
        fields[group] = {key: File(**file) for key, file in fields[group].items()}
    return Backup(**fields)


def latest(place: Place) -> str:
    """Return the name of the newest backup; raise Refused where there is none."""
    if not (known := names(place)):
        raise Refused(f"{place.name} holds no backup: `medloop registry backup {place.name}` makes one")
    return known[-1]


def fetch(place: Place, what: str, file: File, path: Path) -> None:
    """Copy a file of a backup to `path`; raise Refused unless it is what was backed up."""
    place.get(file.key, path)
    if (came := sha256(path)) != file.sha256:
        raise Refused(
            f"{place.name}/{file.key}, which is {what}, is damaged (its digest is {came[:12]}): choose another backup "
            "with --backup"
        )


def check(place: Place, backup: Backup) -> None:
    """Read every file of a backup; raise Refused for the first that is missing or damaged."""

    def checked(each: tuple[str, File]) -> None:
        with TemporaryDirectory() as folder:
            fetch(place, *each, Path(folder, "file"))

    with ThreadPoolExecutor(AT_ONCE) as pool:
        list(pool.map(checked, {file.sha256: (what, file) for what, file in backup.files.items()}.values()))


def remove(place: Place, name: str) -> None:
    """Delete the record of a backup; its files stay."""
    place.remove(_key(name))


def _key(name: str) -> str:
    return f"{BACKUPS}/{name}.json"
