"""Writes the masks that a model returned, a file for each image, into a folder beside the table of a prediction."""

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from medloop.errors import Refused
from medloop.operations.inputs import Input

COLUMN = "mask"  # of a served model that returns masks
SUFFIXES = {".png", ".dcm"}  # of what is written


def folder_of(output: Path) -> Path:
    """Return where the masks of a prediction lie: beside its table."""
    return output.with_name(f"{output.stem}_masks")


class Folder:
    """Takes masks one at a time; they appear when all are there."""

    def __init__(self, partial: Path) -> None:
        self._partial, self.count = partial, 0

    def add(self, asked: Input, row: dict[str, Any]) -> None:
        """Take the mask out of a row of the served model, and write it as `<sample_id>.png`."""
        content = row.pop(COLUMN, None)
        if content is not None:
            (self._partial / f"{asked.sample_id}.png").write_bytes(content)
            self.count += 1


@contextmanager
def beside(output: Path) -> Iterator[Folder]:
    """Yield a folder for masks that takes its place beside `output` at the end, unless an error comes or no mask.

    Raises:
        Refused: something else than the masks of an earlier prediction is there already.
    """
    folder = folder_of(output)
    if folder.exists() and (not folder.is_dir() or any(path.suffix not in SUFFIXES for path in folder.iterdir())):
        raise Refused(f"{folder} is not a folder of masks of an earlier prediction: name another output")
    partial = folder.with_name(f".{folder.name}.partial")
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir()
    try:
        yield (masks := Folder(partial))
        if masks.count:
            shutil.rmtree(folder, ignore_errors=True)
            partial.replace(folder)
    finally:
        shutil.rmtree(partial, ignore_errors=True)
