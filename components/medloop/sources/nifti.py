"""NIfTI volumes, .nii and .nii.gz, by class folder or by a CSV."""

from collections.abc import Iterator
from functools import partial
from pathlib import Path

from pydantic import Field

from medloop import folders, labels, params, volumes
from medloop.errors import Refused
from medloop.labels import Table
from medloop.sources import Item, Sample

KIND = "volume"
SUFFIXES = (".nii", ".nii.gz")


class Options(params.Section):
    """`ingest.options.nifti:`"""

    labels: Table | None = Field(
        None,
        description="CSV, its path below the root, with the columns path and label, and where known patient_id, "
        "site, sex, age_years, split; null: the folder says the class, <root>/<class>/...",
    )
    split_folders: bool = Field(False, description="the folders are <root>/<train, val or test>/<class>/...")
    several: bool = Field(False, description="the table's label is several, joined by |, or none; for task multilabel")
    modality: str | None = Field(None, description="of all volumes, e.g. CT or MR, for the files do not say it")


def items(root: Path, options: Options, *, seed: int) -> Iterator[Item]:  # noqa: ARG001
    """Yield one item a file.

    Raises:
        Refused: a file without a label, a row without a file, or a file that is none of NIfTI. Files that hold no
            volume are rejected when read.
    """
    files = _files(root, options)
    rows = folders.rows(
        root,
        files,
        options.labels,
        split_folders=options.split_folders,
        several=options.several,
        source="nifti",
        noun="volume",
    )
    for file in files:
        yield Item(file, partial(_samples, root / file, file, rows[file], options.modality), file, rows[file])


def multi_label(options: Options) -> bool:
    """Tell whether a volume may have several labels, or none."""
    return options.several


def lists_from(options: Options) -> set[str]:
    """Return the label table, if there is one."""
    return {options.labels.as_posix()} if options.labels else set()


def total(root: Path, options: Options) -> int:
    """Return the number of files."""
    return len(_files(root, options))


def _files(root: Path, options: Options) -> list[str]:
    files = folders.files(root, options.labels, "volumes")
    if others := sum(not file.lower().endswith(SUFFIXES) for file in files):
        raise Refused(
            f"the files below {root} must be NIfTI volumes ({', '.join(SUFFIXES)}), {others} of {len(files)} are not: "
            "move them elsewhere, and a label table into ingest.options.nifti.labels"
        )
    return files


def _samples(path: Path, file: str, row: labels.Row, modality: str | None) -> Iterator[Sample]:
    volume = volumes.decode(path.read_bytes())
    yield Sample(file, volume.voxels, spacing_mm=volume.spacing_mm, modality=modality, **row.__dict__)
