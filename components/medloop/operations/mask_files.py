"""Writes the masks that a model returned into a folder beside the table of a prediction: to use, and to look at.

Each image has `<sample_id>.png`, the class of each pixel at the image's own size, 0 for none;
`<sample_id>_overlay.png`, the image with its mask on it; and where it is a DICOM file `<sample_id>.dcm`, a DICOM
segmentation. This one refers to the image by its UIDs and names the patient by the pseudonym of the sample.
"""

from collections import Counter
from collections.abc import Mapping
from io import BytesIO
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pydicom

from medloop import imaging, masks
from medloop.errors import Refused
from medloop.operations.inputs import Input

COLUMN = "mask"  # of a served model that returns masks
WHAT = "masks"


class Folder:
    """Takes masks one at a time; they appear when all are there.

    Args:
        partial: where they are written until then.
        card: of the model.
        model: what made the masks, as a DICOM segmentation says it.
        version: of the model.
    """

    def __init__(self, partial: Path, card: Mapping[str, Any], model: str, version: str) -> None:
        self._partial, self._classes, self._model, self._version = partial, card["classes"], model, version
        self.count = 0
        self.without = Counter[str]()  # why DICOM files have no segmentation

    def add(self, asked: Input, row: dict[str, Any]) -> None:
        """Take the mask out of a row of the served model, and write what is made of it."""
        content = row.pop(COLUMN, None)
        if content is None or asked.content is None:
            return
        self._write(asked, ".png", content)
        mask = np.asarray(cv2.imdecode(np.frombuffer(content, np.uint8), cv2.IMREAD_UNCHANGED))
        pixels, bit_depth = imaging.decode(asked.content)
        self._write(asked, "_overlay.png", masks.overlay(pixels, mask, bit_depth))
        if imaging.is_dicom(asked.content):
            self._segment(asked, mask)
        self.count += 1

    def finish(self) -> None:
        """Do nothing: all is written."""

    def told(self) -> str:
        """Return how many DICOM files have no segmentation, and why."""
        if not self.without:
            return ""
        reasons = "; ".join(f"{reason} ({number})" for reason, number in self.without.most_common())
        return f"; without a DICOM segmentation: {reasons}"

    def _segment(self, asked: Input, mask: np.ndarray) -> None:
        assert asked.content is not None
        source = pydicom.dcmread(BytesIO(asked.content))
        if not source.get("StudyInstanceUID"):  # packed samples and single frames are files of ours
            return
        try:
            content = masks.dicom_seg(
                source, mask, self._classes, model=self._model, version=self._version, pseudonym=asked.sample_id
            )
        except Refused as error:
            self.without[str(error)] += 1
        else:
            self._write(asked, ".dcm", content)

    def _write(self, asked: Input, ending: str, content: bytes) -> None:
        (self._partial / f"{asked.sample_id}{ending}").write_bytes(content)
