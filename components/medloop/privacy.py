"""What may leave `ingest` of a person: pseudonyms, and the few header fields on a list."""

import csv
import hashlib
import hmac
import itertools
import os
import re
import secrets
import tempfile
import traceback
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal, TextIO

from pydicom.dataset import Dataset

from medloop import manifest
from medloop.errors import Refused

MAX_AGE_YEARS = 90  # older people are few enough to be recognised: they all become 90
KEY_BYTES = 32
DVC_FOLDER = Path(".medloop/private")  # .dvc/config names it
PER_YEAR = {"Y": 1.0, "M": 12.0, "W": 52.1775, "D": 365.2425}

SiteTag = Literal[
    "InstitutionName",
    "InstitutionalDepartmentName",
    "StationName",
    "Manufacturer",
    "ManufacturerModelName",
    "DeviceSerialNumber",
    "ClinicalTrialSiteID",
]


def key_file() -> Path:
    """Return where the pseudonym key is: $MEDLOOP_KEY_FILE, else a file in the user's configuration folder."""
    if named := os.environ.get("MEDLOOP_KEY_FILE"):
        return Path(named)
    return Path(os.environ.get("XDG_CONFIG_HOME") or Path.home() / ".config") / "medloop" / "pseudonym.key"


class Pseudonyms:
    """Keyed hashes of identifiers: the same key gives the same pseudonyms, without it nobody finds the way back."""

    def __init__(self, key: bytes) -> None:
        self._key = key
        self.fingerprint = self.of("key", "fingerprint")  # names the key without telling it

    @classmethod
    def load(cls) -> "Pseudonyms":
        """Return the pseudonyms under the key in `key_file()`, which is made with mode 0600 on first use.

        Raises:
            Refused: the file cannot be read or made, or holds no key.
        """
        path = key_file()
        try:
            if not path.exists():
                _make_key(path)
            key = path.read_bytes().strip()
        except OSError as error:
            raise Refused(
                f"no pseudonym key at {path}: {error.strerror}; set MEDLOOP_KEY_FILE to a file that can be read or made"
            ) from None
        if len(key) < KEY_BYTES:
            raise Refused(
                f"the pseudonym key in {path} must have at least {KEY_BYTES} bytes, got {len(key)}; put the right key "
                "back, or delete the file to have a new one made"
            )
        return cls(key)

    def of(self, kind: str, raw: str) -> str:
        """Return 16 hex characters for an identifier `raw` of a `kind` (patient, study, sample, item ...)."""
        return hmac.new(self._key, f"{kind}\0{raw}".encode("utf-8", "surrogateescape"), hashlib.sha256).hexdigest()[:16]


def capped_age(age_years: float | None) -> float | None:
    """Return the age with everything over 89 as 90; None where it is unknown or no age."""
    if age_years is None or not age_years >= 0:
        return None
    return float(age_years) if age_years <= MAX_AGE_YEARS - 1 else float(MAX_AGE_YEARS)


def allowed_header(ds: Dataset, site: SiteTag | None = None) -> dict[str, Any]:
    """Return what a `Sample` may take from a DICOM header, and nothing else.

    `patient_id` and `study_id` are raw: `ingest` replaces them by pseudonyms. `site` is the tag that the user chose.
    Sex, age and modality are taken only in the form that the standard gives them, for people type names into any field.
    """
    sex, modality = _text(ds, "PatientSex"), _text(ds, "Modality")
    return {
        "patient_id": _text(ds, "PatientID"),
        "study_id": _text(ds, "StudyInstanceUID"),
        "site": _text(ds, site) if site else None,
        "sex": sex if sex in ("F", "M", "O") else None,
        "age_years": capped_age(_age_years(_text(ds, "PatientAge"))),
        "modality": modality if modality and re.fullmatch("[A-Z]{2,10}", modality) else None,
        "spacing_mm": _spacing(ds),
    }


def burned_in(ds: Dataset) -> bool:
    """Tell whether a header says that its picture shows text, which may name the patient."""
    return str(ds.get("BurnedInAnnotation") or "").strip().upper() == "YES"


def list_privately(rows: Iterable[tuple[str, str, str]]) -> Path:
    """Write (pseudonym, reason, key of the item) to the private list, and return its path.

    With that of samples it is the only place that leads from a pseudonym back to a file: never logged, no DVC output,
    ignored by git.
    """
    return _list("rejects.csv", ("pseudonym", "reason", "key"), rows)


def list_samples(rows: Iterable[tuple[str, str]]) -> None:
    """Write sample_id and key of each sample to a private list: a later stage or a report may name one."""
    _list(manifest.KEYS, ("sample_id", "key"), rows)


def keep_traceback(error: BaseException) -> Path:
    """Write the traceback of `error` where only the owner of this folder reads it, and return the path."""
    with _kept("traceback.txt") as (file, path):
        file.write("".join(traceback.format_exception(error)))
    return path


def folder() -> Path:
    """Return the folder for what names a patient; it is made, and for its owner alone.

    DVC keeps the names of files in `DVC_FOLDER`, wherever the state is: where it made that folder, everybody may read.
    """
    path = Path(os.environ.get("MEDLOOP_STATE") or ".medloop") / "private"
    path.mkdir(mode=0o700, parents=True, exist_ok=True)
    for each in {path, DVC_FOLDER} if DVC_FOLDER.exists() else {path}:
        each.chmod(0o700)
    return path


def _list(name: str, columns: Sequence[str], rows: Iterable[Sequence[str]]) -> Path:
    with _kept(name) as (file, path):
        csv.writer(file).writerows(itertools.chain([columns], rows))
    return path


@contextmanager
def _kept(name: str) -> Iterator[tuple[TextIO, Path]]:
    """Yield a file that is for its owner alone, and the path that it has once it is whole."""
    private = folder()
    number, partial = tempfile.mkstemp(dir=private)  # mode 0600
    with os.fdopen(number, "w", newline="", encoding="utf-8", errors="surrogateescape") as file:
        yield file, private / name
    Path(partial).replace(private / name)


def _make_key(path: Path) -> None:
    """Write a new key; where another process was first, its key stays."""
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    number, partial = tempfile.mkstemp(dir=path.parent)  # mode 0600
    try:
        with os.fdopen(number, "w") as file:
            file.write(secrets.token_hex(KEY_BYTES) + "\n")
        os.link(partial, path)
    except FileExistsError:
        return
    finally:
        Path(partial).unlink()


def _text(ds: Dataset, keyword: str) -> str | None:
    return str(ds.get(keyword) or "").strip() or None


def _age_years(text: str | None) -> float | None:
    if not text or not (match := re.fullmatch(r"(\d{1,3})([YMWD])", text)):
        return None
    return int(match[1]) / PER_YEAR[match[2]]


def _spacing(ds: Dataset) -> tuple[float, float] | None:
    """Return the distance between rows and between columns, mm, where the header gives two positive numbers."""
    shared = ds.get("SharedFunctionalGroupsSequence") or [Dataset()]
    measures = shared[0].get("PixelMeasuresSequence") or [Dataset()]
    for place, keyword in ((ds, "PixelSpacing"), (measures[0], "PixelSpacing"), (ds, "ImagerPixelSpacing")):
        values = place.get(keyword)
        if values and not isinstance(values, (str, float)) and len(values) == 2 and min(values) > 0:
            return float(values[0]), float(values[1])
    return None
