"""Writes the boxes that a model returned into a folder beside the table of a prediction: to use, and to look at.

`boxes.json` is a COCO file of all images, with the boxes whose score reaches the threshold of the model; an image is
called `<sample_id>` there. Each image has `<sample_id>_overlay.png`, the image with these boxes on it; and where it is
a DICOM file `<sample_id>.dcm`, a structured report of them. This one refers to the image by its UIDs and names the
patient by the pseudonym of the sample.
"""

from collections import Counter
from collections.abc import Mapping
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import pydicom

from medloop import boxes, imaging
from medloop.answers import detection as answers
from medloop.errors import Refused
from medloop.operations.inputs import Input

COLUMN = "boxes"  # of a served model that returns boxes
WHAT = "boxes"
TABLE = "boxes.json"


class Folder:
    """Takes boxes one image at a time; they appear when all are there.

    Args:
        partial: where they are written until then.
        card: of the model.
        model: what found the boxes, as a DICOM report says it.
        version: of the model.
    """

    def __init__(self, partial: Path, card: Mapping[str, Any], model: str, version: str) -> None:
        self._partial, self._card, self._model, self._version = partial, card, model, version
        self._images: list[dict[str, Any]] = []
        self._found: list[np.ndarray] = []
        self.without = Counter[str]()  # why DICOM files have no report

    @property
    def count(self) -> int:
        """Return how many images came."""
        return len(self._images)

    def add(self, asked: Input, row: dict[str, Any]) -> None:
        """Take the boxes out of a row of the served model, and write what is made of them."""
        text = row.pop(COLUMN, None)
        if text is None or asked.content is None:
            return
        rows = answers.decided(answers.read(text, self._card["classes"]), self._card)
        pixels, bit_depth = imaging.decode(asked.content)
        self._images.append({"file_name": asked.sample_id, "height": pixels.shape[0], "width": pixels.shape[1]})
        self._found.append(rows)
        (self._partial / f"{asked.sample_id}_overlay.png").write_bytes(boxes.overlay(pixels, rows, bit_depth))
        if imaging.is_dicom(asked.content):
            self._report(asked, rows)

    def finish(self) -> None:
        """Write the COCO file."""
        (self._partial / TABLE).write_text(boxes.coco(self._images, self._found, self._card["classes"]))

    def told(self) -> str:
        """Return how many DICOM files have no report, and why."""
        if not self.without:
            return ""
        reasons = "; ".join(f"{reason} ({number})" for reason, number in self.without.most_common())
        return f"; without a DICOM report: {reasons}"

    def _report(self, asked: Input, rows: np.ndarray) -> None:
        assert asked.content is not None
        source = pydicom.dcmread(BytesIO(asked.content))
        if not source.get("StudyInstanceUID"):  # packed samples and single frames are files of ours
            return
        try:
            content = boxes.dicom_sr(
                source,
                rows,
                self._card["classes"],
                model=self._model,
                version=self._version,
                pseudonym=asked.sample_id,
            )
        except Refused as error:
            self.without[str(error)] += 1
        else:
            (self._partial / f"{asked.sample_id}.dcm").write_bytes(content)
