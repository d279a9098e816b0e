"""Masks as files: PNG, an overlay to look at, a DICOM segmentation."""

import hashlib
from collections.abc import Mapping, Sequence
from typing import Any

import cv2
import numpy as np
from pydicom.dataset import Dataset
from pydicom.uid import generate_uid

from medloop import referring
from medloop.errors import Refused
from medloop.referring import Code

COLOURS = ((230, 159, 0), (86, 180, 233), (0, 158, 115), (240, 228, 66), (204, 121, 167), (213, 94, 0), (0, 114, 178))
SHADE = 0.35  # of the colour, within its outline
SEGMENTATION = "a DICOM segmentation"
BODY_STRUCTURE = ("123037004", "SCT", "Body structure")


def png(mask: np.ndarray) -> bytes:
    """Return a mask (H, W) uint8, or an instance map uint16, as a PNG file with the same values."""
    if mask.ndim != 2 or mask.dtype not in (np.uint8, np.uint16):
        raise ValueError(f"a mask must be (H, W) uint8 or uint16, got {mask.shape} {mask.dtype}")
    return bytes(cv2.imencode(".png", np.ascontiguousarray(mask))[1])


def overlay(pixels: np.ndarray, mask: np.ndarray, bit_depth: int = 8, truth: np.ndarray | None = None) -> bytes:
    """Return an image with its mask on it as a PNG file: each class shaded and outlined in a colour of its own.

    Args:
        pixels: (H, W) or (H, W, 3) RGB, uint8 or uint16.
        mask: (H, W) uint8, 0 for the background.
        bit_depth: bits in use.
        truth: (H, W) uint8, the true mask, whose outline is white.
    """
    if mask.shape != pixels.shape[:2] or (truth is not None and truth.shape != mask.shape):
        raise ValueError(f"a mask must be {pixels.shape[:2]} like its image, got {mask.shape}")
    shown = pixels.astype(np.float32) * (255 / (2**bit_depth - 1))
    shown = np.repeat(shown[..., None], 3, axis=2) if shown.ndim == 2 else shown
    for value in np.unique(mask[mask > 0]).tolist():
        there, colour = mask == value, np.array(COLOURS[(value - 1) % len(COLOURS)], np.float32)
        shown[there] += SHADE * (colour - shown[there])
        shown[_outline(there)] = colour
    if truth is not None:
        for value in np.unique(truth[truth > 0]).tolist():
            shown[_outline(truth == value)] = 255
    rgb = np.clip(np.rint(shown), 0, 255).astype(np.uint8)
    return bytes(cv2.imencode(".png", np.ascontiguousarray(rgb[..., ::-1]))[1])


def dicom_seg(
    source: Dataset,
    mask: np.ndarray,
    classes: Sequence[str],
    *,
    frame: int | None = None,
    model: str = "medloop",
    version: str = "0",
    pseudonym: str | None = None,
    codes: Mapping[str, Code] | None = None,
) -> bytes:
    """Return a DICOM segmentation (SEG) of an image as a file: a binary segment for each class, empty ones left out.

    It refers to the image by its SOPInstanceUID and belongs to its study, as the standard wants: it names the patient
    as its source does, and may go where that may, unless there is a `pseudonym`. The same input gives the same bytes.

    Args:
        source: the image, of one frame or of several.
        mask: (H, W) uint8, or (frames, H, W); 0 for the background, i for classes[i - 1].
        classes: names of the segments.
        frame: the one that a mask (H, W) is of, counted from 0, where the image has several.
        model: what made the mask.
        version: of the model.
        pseudonym: stands for the name and the id of the patient; what else tells of the patient is left out.
        codes: of classes, e.g. {"lung": ("39607008", "SCT", "Lung")}; the others have a code of medloop's own.

    Raises:
        Refused: the mask is empty, of another size than its image, or the image lacks what a SEG must say of it.
    """
    import highdicom  # only who writes SEG pays for its import

    told = referring.told_of(source, pseudonym, SEGMENTATION)
    mask = _of_frames(mask, source, frame)
    present = _present(mask, classes)
    stack = np.stack([mask == value for value in present], axis=-1)  # (frames, H, W, segments)
    entropy = [str(source.SOPInstanceUID), model, version, *classes, hashlib.sha256(stack.tobytes()).hexdigest()]
    segments = _segments(present, classes, referring.codes_of(classes, codes), model, version)
    with referring.complete(SEGMENTATION):
        found = highdicom.seg.Segmentation(
            source_images=[told],
            pixel_array=stack.astype(np.uint8),
            segmentation_type=highdicom.seg.SegmentationTypeValues.BINARY,
            segment_descriptions=segments,
            manufacturer_model_name=model,
            software_versions=version,
            device_serial_number="0",
            content_label="SEGMENTATION",
            omit_empty_frames=True,
            **referring.instance(f"Segmentation by {model}", 9000, entropy),
        )
    return _file(found, told)


def _of_frames(mask: np.ndarray, source: Dataset, frame: int | None) -> np.ndarray:
    """Return a mask (H, W) or (frames, H, W) as (frames, H, W); raise Refused where it does not fit its image."""
    frames, size = int(source.get("NumberOfFrames") or 1), (int(source.Rows), int(source.Columns))
    if frame is not None and mask.shape == size and 0 <= frame < frames:
        mask = np.stack([mask if each == frame else np.zeros_like(mask) for each in range(frames)])
    if mask.reshape(-1, *mask.shape[-2:]).shape != (frames, *size):
        raise Refused(f"mask must be {(frames, *size)} like its image (frames, rows, columns), got {mask.shape}")
    if frames > 1 and not source.get("FrameOfReferenceUID"):
        raise Refused(f"the image has several frames and no FrameOfReferenceUID: {SEGMENTATION} cannot place them")
    return mask.reshape(frames, *size)


def _present(mask: np.ndarray, classes: Sequence[str]) -> list[int]:
    """Return the values of the classes that a mask holds; raise Refused where it holds none, or another value."""
    if mask.max() > len(classes):
        raise Refused(f"mask must hold 0 to {len(classes)}, got {mask.max()}")
    present = [value for value in range(1, 1 + len(classes)) if (mask == value).any()]
    if not present:
        raise Refused("an empty mask makes no DICOM segmentation: it must have a segment")
    return present


def _segments(
    present: Sequence[int], classes: Sequence[str], codes: Mapping[str, Code], model: str, version: str
) -> list[Any]:
    """Return the description of each segment, of the classes that are present."""
    from highdicom import seg
    from highdicom.content import AlgorithmIdentificationSequence
    from highdicom.sr.coding import CodedConcept

    made_by = AlgorithmIdentificationSequence(
        name=model, version=version, family=CodedConcept("123109", "DCM", "Artificial Intelligence")
    )
    return [
        seg.SegmentDescription(
            segment_number=number,
            segment_label=classes[value - 1],
            segmented_property_category=CodedConcept(*BODY_STRUCTURE),
            segmented_property_type=CodedConcept(*codes[classes[value - 1]]),
            algorithm_type=seg.SegmentAlgorithmTypeValues.AUTOMATIC,
            algorithm_identification=made_by,
        )
        for number, value in enumerate(present, 1)
    ]


def _outline(there: np.ndarray) -> np.ndarray:
    """Return the pixels of a region (H, W) bool that touch what is not of it."""
    return there & (cv2.erode(there.astype(np.uint8), np.ones((3, 3), np.uint8)) == 0)


def _file(ds: Any, source: Dataset) -> bytes:
    """Return the segmentation as a file whose moments and UIDs follow from its image and mask, not from the run."""
    organization = generate_uid(entropy_srcs=["dimensions", ds.SOPInstanceUID])
    for each in (*ds.DimensionOrganizationSequence, *ds.DimensionIndexSequence):
        each.DimensionOrganizationUID = organization
    return referring.file_of(ds, source)
