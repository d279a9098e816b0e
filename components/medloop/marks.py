"""The mark of a synthetic image: the one place that recognises it, and writes it into a DICOM file.

Whoever takes an image into samples asks here, by the file and by the pixels: the text in a file is lost when somebody
encodes the picture anew, in another format or size, and the frame round the picture when he cuts it off. Against both
at once no mark helps that can be seen.
"""

from collections.abc import Iterator, Mapping
from io import BytesIO
from typing import Any

import cv2
import numpy as np
import pandas as pd
import pydicom
from pydicom.dataset import FileMetaDataset
from pydicom.uid import ExplicitVRLittleEndian, SecondaryCaptureImageStorage

from medloop.answers import generation

ALIKE = 0.6  # correlation with the frame, of 92 cells; borders of other images stay below .45
LITTLE = 0.2  # of what the fullest row or column holds; the frame fills two fifths of its own
MARGIN = 0.1  # of the range of gray levels: what differs less is of one colour
ROOT = "1.2.826.0.1.3680043.8.498."  # of UIDs, as pydicom makes them


def in_file(content: bytes) -> bool:
    """Tell whether an encoded image says that it is synthetic: any text in it, in any format, holds the key."""
    return generation.KEY.encode() in content


def in_pixels(pixels: np.ndarray) -> bool:
    """Tell whether pixels (H, W) or (H, W, 3) show the frame, at any size from its own cells on, turned or mirrored.

    It is looked for in each colour, and within a margin of one colour, which may hold smaller things beside it.
    """
    layers = [pixels] if pixels.ndim == 2 else [pixels.mean(axis=2, dtype=np.float32), *np.moveaxis(pixels, 2, 0)]
    return any(_framed(each) for layer in layers for each in (layer, *_inside(layer)))


def _framed(gray: np.ndarray) -> bool:
    cells = generation.frame()
    if min(gray.shape) < len(cells):
        return False
    small = cv2.resize(gray.astype(np.float32), cells.shape, interpolation=cv2.INTER_AREA)
    edge = cells >= 0
    seen = _unit(small[edge])
    ways = (turned for image in (cells, cells.T) for turned in (np.rot90(image, times) for times in range(4)))
    return any(abs(float(seen @ _unit(way[edge]))) > ALIKE for way in ways)


def _inside(gray: np.ndarray) -> Iterator[np.ndarray]:
    """Yield what lies within the margin of an image (H, W) that is like its first pixel.

    All of it, and what is left without the rows and columns at its ends that hold little: a letter, a stray pixel.
    """
    other = np.abs(gray.astype(np.float32) - float(gray[0, 0])) > MARGIN * max(float(np.ptp(gray)), 1)
    filled = [other.sum(axis=axis) for axis in (1, 0)]  # of each row and each column
    for share in (0, LITTLE):
        ends = [np.flatnonzero(side > share * side.max()) for side in filled]
        if all(map(len, ends)):
            inner = gray[tuple(slice(end[0], end[-1] + 1) for end in ends)]
            if inner.shape != gray.shape:
                yield inner


def aside(table: pd.DataFrame) -> pd.Series:
    """Tell which samples of a manifest (N,) are synthetic and do not stand in train, or have a patient who does not."""
    elsewhere = set(table.loc[table["split"] != "train", "patient_id"].dropna())
    synthetic = table["synthetic"].eq(True)
    return synthetic & ((table["split"] != "train") | table["patient_id"].isin(elsewhere))


def dicom(content: bytes, about: Mapping[str, Any]) -> bytes:
    """Return a marked PNG file as a DICOM file of nobody, with the same marks, of the same bytes each time.

    Args:
        content: of the PNG file, gray or RGB.
        about: what its text says, and of which model: strings and numbers.
    """
    image = np.asarray(cv2.imdecode(np.frombuffer(content, np.uint8), cv2.IMREAD_UNCHANGED))
    said = ", ".join(f"{name} {value}" for name, value in sorted(about.items()))
    ds = pydicom.Dataset()
    ds.file_meta = FileMetaDataset()
    ds.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    ds.SOPClassUID = SecondaryCaptureImageStorage
    ds.SOPInstanceUID, ds.SeriesInstanceUID, ds.StudyInstanceUID = (
        pydicom.uid.generate_uid(ROOT, [level, said]) for level in ("image", "series", "study")
    )
    ds.ImageType = ["DERIVED", "SECONDARY", "SYNTHETIC"]
    ds.DerivationDescription = f"{generation.KEY}: {generation.NOTICE} {said}"[:1024]
    ds.BurnedInAnnotation, ds.Modality, ds.ConversionType = "NO", "OT", "SYN"
    ds.PatientName, ds.PatientID = "", ""
    pixels = image if image.ndim == 2 else np.ascontiguousarray(image[..., ::-1])
    ds.set_pixel_data(pixels, "MONOCHROME2" if image.ndim == 2 else "RGB", 8, generate_instance_uid=False)
    file = BytesIO()
    ds.save_as(file, enforce_file_format=True)
    return file.getvalue()


def _unit(values: np.ndarray) -> np.ndarray:
    """Return values of zero mean and unit length; constant ones give zeros."""
    away = values - values.mean()
    return away / max(float(np.linalg.norm(away)), 1e-6)
