"""The folder beside the table of a prediction, for what a model draws on images: masks, or boxes."""

import shutil
from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from io import BytesIO
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pydicom

from medloop import imaging, privacy
from medloop.errors import Refused
from medloop.operations.inputs import Input

SUFFIXES = {".png", ".dcm", ".json"}  # of what is written


class Folder(ABC):
    """Takes what a model draws one image at a time; the files appear when all are there.

    Args:
        partial: where they are written until then.
        card: of the model.
        model: what drew it, as a DICOM file says it.
        version: of the model.
        paths: name images by their paths, not by their pseudonyms, where a file names them.
    """

    COLUMN: ClassVar[str]  # of a served model that returns it
    WHAT: ClassVar[str]  # is drawn, several of it
    MADE: ClassVar[str]  # of a DICOM file
    overlay: ClassVar[Callable[..., bytes]]  # see `masks.overlay`
    dicom: ClassVar[Callable[..., bytes]]  # see `masks.dicom_seg`

    def __init__(self, partial: Path, card: Mapping[str, Any], model: str, version: str, paths: bool = False) -> None:
        self._partial, self._card, self._model, self._version = partial, card, model, version
        self._paths = paths
        self.count = 0
        self.without = Counter[str]()  # why DICOM files have none made of them
        self.hidden = 0  # images without an overlay

    @abstractmethod
    def take(self, asked: Input, said: Any, pixels: np.ndarray) -> np.ndarray:
        """Return what is drawn on an image of `pixels` (H, W, ...), of what the served model said of it."""

    def add(self, asked: Input, row: dict[str, Any]) -> None:
        """Take what is drawn out of a row of the served model, and write what is made of it."""
        said = row.pop(self.COLUMN, None)
        if said is None or asked.content is None:
            return
        pixels, bit_depth = imaging.decode(asked.content)
        drawn = self.take(asked, said, pixels)
        source = None
        if asked.file is not None and imaging.is_dicom(asked.file):
            source = pydicom.dcmread(BytesIO(asked.file), stop_before_pixels=True)
            self._refer(asked, source, drawn)
        if source is not None and privacy.burned_in(source):
            self.hidden += 1
        else:
            self._write(asked, "_overlay.png", self.overlay(pixels, drawn, bit_depth))
        self.count += 1

    def finish(self) -> None:  # noqa: B027
        """Write what is about all images together."""

    def told(self) -> str:
        """Return of how many images a DICOM file, or an overlay, is not made, and why."""
        told = ""
        if self.without:
            reasons = "; ".join(f"{reason} ({number})" for reason, number in self.without.most_common())
            told += f"; without {self.MADE}: {reasons}"
        if self.hidden:
            told += f"; without an overlay: BurnedInAnnotation is YES ({self.hidden})"
        return told

    def _refer(self, asked: Input, source: pydicom.Dataset, drawn: np.ndarray) -> None:
        """Write a DICOM file of what is drawn on an image of a file, or keep why there is none."""
        patient = privacy.allowed_header(source)["patient_id"]
        pseudonym = privacy.Pseudonyms.load().of("patient", patient) if patient else asked.sample_id
        names = {"model": self._model, "version": self._version, "pseudonym": pseudonym}
        try:
            made = self.dicom(source, drawn, self._card["classes"], frame=asked.frame, **names)
        except Refused as error:
            self.without[str(error)] += 1
        else:
            self._write(asked, ".dcm", made)

    def _write(self, asked: Input, ending: str, content: bytes) -> None:
        (self._partial / f"{asked.sample_id}{ending}").write_bytes(content)


def folder_of(output: Path, writer: type[Folder]) -> Path:
    """Return where the files of a prediction lie: beside its table."""
    return output.with_name(f"{output.stem}_{writer.WHAT}")


@contextmanager
def beside(
    output: Path, writer: type[Folder], card: Mapping[str, Any], address: str, *, paths: bool = False
) -> Iterator[Folder]:
    """Yield a `Folder`, which takes its place beside `output` at the end, unless an error comes or nothing.

    Args:
        output: the table.
        writer: `mask_files.Folder` or `box_files.Folder`.
        card: of the model.
        address: of the model, as `models:/NAME/VERSION`.
        paths: as `Folder` has it.

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
        yield (found := writer(partial, card, model or "medloop", version, paths))
        if found.count:
            found.finish()
            shutil.rmtree(folder, ignore_errors=True)
            partial.replace(folder)
    finally:
        shutil.rmtree(partial, ignore_errors=True)
