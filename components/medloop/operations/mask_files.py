"""Writes the masks that a model returned into a folder beside the table of a prediction: to use, and to look at.

Each image has `<sample_id>.png`, the class of each pixel at the image's own size, 0 for none;
`<sample_id>_overlay.png`, the image with its mask on it; and where it is a DICOM file `<sample_id>.dcm`, a DICOM
segmentation. This one refers to the image by its UIDs and names the patient by the pseudonym that `ingest` gives.
"""

from typing import Any

import cv2
import numpy as np

from medloop import masks
from medloop.operations import drawn_files
from medloop.operations.inputs import Input


class Folder(drawn_files.Folder):
    """Takes masks (H, W)."""

    COLUMN = "mask"
    WHAT = "masks"
    MADE = "a DICOM segmentation"
    overlay = staticmethod(masks.overlay)
    dicom = staticmethod(masks.dicom_seg)

    def take(self, asked: Input, said: Any, pixels: np.ndarray) -> np.ndarray:  # noqa: ARG002
        """Return the mask, after writing it as it came."""
        self._write(asked, ".png", said)
        return np.asarray(cv2.imdecode(np.frombuffer(said, np.uint8), cv2.IMREAD_UNCHANGED))
