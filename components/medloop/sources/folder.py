"""PNG, JPEG and TIFF images, by class folder or by a CSV."""

from collections.abc import Iterator
from functools import partial
from pathlib import Path

from pydantic import Field

from medloop import imaging, labels, manifest, params
from medloop.errors import Refused
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


def items(root: Path, options: Options, *, seed: int) -> Iterator[Item]:  # noqa: ARG001
    """Yield one item a file.

    Raises:
        Refused: a file without a label, or a row without a file. Files that are no image are rejected when read.
    """
    files = _files(root, options)
    if options.labels:
        rows = labels.read(root / options.labels, "path")
        labels.match({file: file for file in files}, rows, root / options.labels)
    else:
        rows = _by_folder(files, options)
    for file in files:
        yield Item(file, partial(_samples, root / file, file, rows[file]), file, rows[file])


def lists_from(options: Options) -> set[str]:
    """Return the label table, if there is one."""
    return {options.labels.as_posix()} if options.labels else set()


def total(root: Path, options: Options) -> int:
    """Return the number of files."""
    return len(_files(root, options))


def _files(root: Path, options: Options) -> list[str]:
    """Return the files below `root`, sorted; hidden ones and the label table are none of the data."""
    if not root.is_dir():
        raise Refused(f"no folder {root}: set ingest.root to the folder with your images")
    table = root / options.labels if options.labels else None
    names = (path.relative_to(root) for path in root.rglob("*") if path.is_file() and path != table)
    return sorted(name.as_posix() for name in names if not any(part.startswith(".") for part in name.parts))


def _by_folder(files: list[str], options: Options) -> dict[str, labels.Row]:
    depth = 2 if options.split_folders else 1
    parts = {file: file.split("/") for file in files}
    if stray := sum(len(part) <= depth for part in parts.values()):
        raise Refused(f"every image must lie in the folder of its class, {stray} of {len(files)} do not")
    if not options.split_folders:
        if {part[0] for part in parts.values()} <= {*manifest.SPLITS, "valid", "validation"} and files:
            raise Refused(
                "the class folders are named like splits; set ingest.options.folder.split_folders: true for "
                "<train, val or test>/<class>/..."
            )
        _check_not_patients(list(parts.values()))
        return {file: labels.Row(part[0]) for file, part in parts.items()}
    if not {part[0] for part in parts.values()} <= set(manifest.SPLITS):
        raise Refused(f"with split_folders the folders below the root must be {', '.join(manifest.SPLITS)}")
    return {file: labels.Row(part[1], split=part[0]) for file, part in parts.items()}


def _check_not_patients(parts: list[list[str]]) -> None:
    """Refuse <patient>/<class>/...: a folder below the root names a class, and would be shown as one."""
    places: dict[str, set[str]] = {}
    for part in parts:
        if len(part) > 2:
            places.setdefault(part[1], set()).add(part[0])
    shared = sum(len(above) > 1 for above in places.values())
    if shared > 1:
        raise Refused(
            f"the folders below the root must be classes, but {shared} folders inside them stand in several, as "
            "classes do inside patients: sort the images by class, or give a label table (ingest.options.folder.labels)"
        )


def _samples(path: Path, file: str, row: labels.Row) -> Iterator[Sample]:
    content = path.read_bytes()
    if imaging.is_dicom(content):
        raise imaging.Unreadable("a DICOM file: its header may name people, use the source dicom")
    pixels, bits = imaging.decode_image(content)
    yield Sample(file, pixels, bits, **row.__dict__)
