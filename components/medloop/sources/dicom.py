"""A folder tree of DICOM files, labelled by a CSV."""

from collections.abc import Iterator
from functools import partial
from io import BytesIO
from pathlib import Path
from typing import Literal

import pydicom
from pydantic import Field

from medloop import folders, imaging, labels, marks, params, privacy
from medloop.labels import Table
from medloop.sources import Item, Sample

TAGS = {"sop_uid": "SOPInstanceUID", "study_uid": "StudyInstanceUID", "patient_id": "PatientID"}
PIXELS = ("PixelData", "FloatPixelData", "DoubleFloatPixelData")


class Options(params.Section):
    """`ingest.options.dicom:`"""

    labels: Table = Field(Path("labels.csv"), description="CSV, its path below the root")
    match: Literal["path", "sop_uid", "study_uid", "patient_id"] = Field(
        "path", description="the column that says which file or files a row is for; the other column is label"
    )
    several: bool = Field(False, description="the table's label is several, joined by |, or none; for task multilabel")
    site: privacy.SiteTag | None = Field(None, description="the tag that tells the site; null: unknown")
    allow_burned_in: bool = Field(False, description="take images whose BurnedInAnnotation is YES")


def items(root: Path, options: Options, *, seed: int) -> Iterator[Item]:  # noqa: ARG001
    """Yield one item a file.

    Raises:
        Refused: a DICOM file without a label, or a row without a file. Files that are no DICOM are rejected when read.
    """
    files = _files(root, options.labels)
    rows = labels.read(root / options.labels, options.match, several=options.several)
    keys = dict(_keys(root, files, options, rows))
    labels.match(keys, rows, root / options.labels)
    for file in files:
        row = rows[keys[file]] if file in keys else None
        yield Item(file, partial(_samples, root / file, file, row, options), file, row)


def multi_label(options: Options) -> bool:
    """Tell whether an image may have several labels, or none."""
    return options.several


def lists_from(options: Options) -> set[str] | None:
    """Return the label table, where it knows files by their paths; None, for headers, where it knows them by those."""
    return {options.labels.as_posix()} if options.match == "path" else None


def total(root: Path, options: Options) -> int:
    """Return the number of files."""
    return len(_files(root, options.labels))


def notes(options: Options) -> list[str]:
    """Return what a reader must know."""
    return ["Images with burned-in annotations were allowed: they may show names."] if options.allow_burned_in else []


def _files(root: Path, table: Path) -> list[str]:
    """Return the files below `root`, sorted; hidden ones, the label table and DICOMDIR are none of the data."""
    return [name for name in folders.files(root, table, "DICOM files") if name.rpartition("/")[2] != "DICOMDIR"]


def _keys(root: Path, files: list[str], options: Options, rows: dict[str, labels.Row]) -> Iterator[tuple[str, str]]:
    """Yield each file that is DICOM, and what the table may know it by; the others will be rejected when read."""
    for file in files:
        if options.match == "path":
            if file in rows or _is_dicom(root / file):
                yield file, file
            continue
        try:
            header = pydicom.dcmread(root / file, stop_before_pixels=True, specific_tags=[TAGS[options.match]])
        except Exception:  # noqa: S112  a damaged header raises anything
            continue
        if key := str(header.get(TAGS[options.match]) or "").strip():
            yield file, key


def _is_dicom(path: Path) -> bool:
    try:
        with path.open("rb") as file:
            return imaging.is_dicom(file.read(132))
    except OSError:  # listed and rejected when it is read
        return True


def _samples(path: Path, file: str, row: labels.Row | None, options: Options) -> Iterator[Sample]:
    content = path.read_bytes()
    if not imaging.is_dicom(content):
        raise imaging.Unreadable("no DICOM file: it has no DICM after 128 bytes")
    ds = pydicom.dcmread(BytesIO(content))
    if privacy.burned_in(ds) and not options.allow_burned_in:
        raise imaging.Unreadable("BurnedInAnnotation is YES (ingest.options.dicom.allow_burned_in takes such images)")
    if not any(keyword in ds for keyword in PIXELS):
        raise imaging.Unreadable("holds no pixel data, or ends before they do")
    if row is None:
        raise imaging.Unreadable(f"has no {TAGS[options.match]}")
    header = privacy.allowed_header(ds, options.site)
    name = ds.get("SOPInstanceUID") or file
    for index, (pixels, bits) in enumerate(imaging.decode_dataset(ds)):
        yield Sample(
            f"{name}#{index}", pixels, bits, row.label, split=row.split, **header, synthetic=marks.in_file(content)
        )
