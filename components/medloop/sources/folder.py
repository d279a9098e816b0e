"""PNG, JPEG and TIFF images, by class folder or by a CSV."""

from collections.abc import Iterator
from functools import partial
from pathlib import Path

from pydantic import Field

from medloop import folders, imaging, labels, marks, params
from medloop.labels import Table
from medloop.sources import Item, Sample


class Options(params.Section):
    """`ingest.options.folder:`"""

    labels: Table | None = Field(
        None,
        description="CSV, its path below the root, with the columns path and label, and where known patient_id, "
        "site, sex, age_years, split; null: the folder says the class, <root>/<class>/...",
    )
    split_folders: bool = Field(False, description="the folders are <root>/<train, val or test>/<class>/...")
    several: bool = Field(False, description="the table's label is several, joined by |, or none; for task multilabel")


def items(root: Path, options: Options, *, seed: int) -> Iterator[Item]:  # noqa: ARG001
    """Yield one item a file.

    Raises:
        Refused: a file without a label, or a row without a file. Files that are no image are rejected when read.
    """
    files = folders.files(root, options.labels, "images")
    rows = folders.rows(
        root,
        files,
        options.labels,
        split_folders=options.split_folders,
        several=options.several,
        source="folder",
        noun="image",
    )
    for file in files:
        yield Item(file, partial(_samples, root / file, file, rows[file]), file, rows[file])


def multi_label(options: Options) -> bool:
    """Tell whether an image may have several labels, or none."""
    return options.several


def lists_from(options: Options) -> set[str]:
    """Return the label table, if there is one."""
    return {options.labels.as_posix()} if options.labels else set()


def total(root: Path, options: Options) -> int:
    """Return the number of files."""
    return len(folders.files(root, options.labels, "images"))


def _samples(path: Path, file: str, row: labels.Row) -> Iterator[Sample]:
    content = path.read_bytes()
    if imaging.is_dicom(content):
        raise imaging.Unreadable("a DICOM file: its header may name people, use the source dicom")
    pixels, bits = imaging.decode_image(content)
    yield Sample(file, pixels, bits, **row.__dict__, synthetic=marks.in_file(content))
