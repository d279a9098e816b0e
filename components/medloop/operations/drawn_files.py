"""The folder beside the table of a prediction, for what a model draws on images: masks, or boxes."""

import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType
from typing import Any

from medloop.errors import Refused
from medloop.operations import box_files, mask_files

WRITERS = {module.COLUMN: module for module in (mask_files, box_files)}  # by the column of the served model
SUFFIXES = {".png", ".dcm", ".json"}  # of what is written


def folder_of(output: Path, writer: ModuleType) -> Path:
    """Return where the files of a prediction lie: beside its table."""
    return output.with_name(f"{output.stem}_{writer.WHAT}")


@contextmanager
def beside(output: Path, writer: ModuleType, card: Mapping[str, Any], address: str) -> Iterator[Any]:
    """Yield a `Folder` of a writer, which takes its place beside `output` at the end, unless an error comes or nothing.

    Args:
        output: the table.
        writer: `mask_files` or `box_files`.
        card: of the model.
        address: of the model, as `models:/NAME/VERSION`.

    Raises:
        Refused: something else than the files of an earlier prediction is there already.
    """
    folder = folder_of(output, writer)
    if folder.exists() and (not folder.is_dir() or any(path.suffix not in SUFFIXES for path in folder.iterdir())):
        raise Refused(f"{folder} is not a folder of {writer.WHAT} of an earlier prediction: name another output")
    partial = folder.with_name(f".{folder.name}.partial")
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir()
    model, _, version = address.removeprefix("models:/").rpartition("/")
    try:
        yield (found := writer.Folder(partial, card, model or "medloop", version))
        if found.count:
            found.finish()
            shutil.rmtree(folder, ignore_errors=True)
            partial.replace(folder)
    finally:
        shutil.rmtree(partial, ignore_errors=True)
