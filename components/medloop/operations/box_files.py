"""Writes the boxes that a model returned into a folder beside the table of a prediction: to use, and to look at.

`boxes.json` is a COCO file of all images, with the boxes whose score reaches the threshold of the model; an image is
called `<sample_id>` there, or by its path where paths are asked for. Each image has `<sample_id>_overlay.png`, the
image with these boxes on it; and where it is a DICOM file `<sample_id>.dcm`, a structured report of them. This one
refers to the image by its UIDs and names the patient by the pseudonym that `ingest` gives.
"""

from typing import Any

import numpy as np

from medloop import boxes
from medloop.answers import detection as answers
from medloop.operations import drawn_files
from medloop.operations.inputs import Input

TABLE = "boxes.json"


class Folder(drawn_files.Folder):
    """Takes boxes (D, 6), see `medloop.boxes`."""

    COLUMN = "boxes"
    WHAT = "boxes"
    MADE = "a DICOM report"
    overlay = staticmethod(boxes.overlay)
    dicom = staticmethod(boxes.dicom_sr)

    def __init__(self, *args: Any) -> None:
        super().__init__(*args)
        self._images: list[dict[str, Any]] = []
        self._found: list[np.ndarray] = []

    def take(self, asked: Input, said: Any, pixels: np.ndarray) -> np.ndarray:
        """Return the boxes whose score reaches the threshold, and keep them for the COCO file."""
        rows = answers.decided(answers.read(said, self._card["classes"]), self._card)
        name = asked.path if self._paths else asked.sample_id
        self._images.append({"file_name": name, "height": pixels.shape[0], "width": pixels.shape[1]})
        self._found.append(rows)
        return rows

    def finish(self) -> None:
        """Write the COCO file."""
        (self._partial / TABLE).write_text(boxes.coco(self._images, self._found, self._card["classes"]))
