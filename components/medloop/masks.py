"""Masks as files: PNG, an overlay to look at, a DICOM segmentation."""

import copy
import hashlib
from collections.abc import Mapping, Sequence
from io import BytesIO
from typing import Any

import cv2
import numpy as np
from pydicom.dataset import Dataset
from pydicom.uid import ExplicitVRLittleEndian, generate_uid

from medloop.errors import Refused

COLOURS = ((230, 159, 0), (86, 180, 233), (0, 158, 115), (240, 228, 66), (204, 121, 167), (213, 94, 0), (0, 114, 178))
SHADE = 0.35  # of the colour, within its outline
OWN_CODES = "99MEDLOOP"  # coding scheme of classes that have no code
BODY_STRUCTURE = ("123037004", "SCT", "Body structure")
NEEDED = ("SOPClassUID", "SOPInstanceUID", "StudyInstanceUID", "SeriesInstanceUID", "Rows", "Columns")
MAY_BE_EMPTY = (  # type 2
    *("PatientName", "PatientID", "PatientBirthDate", "PatientSex"),
    *("AccessionNumber", "StudyDate", "StudyTime", "StudyID"),
)
GROUPS = ("SharedFunctionalGroupsSequence", "PerFrameFunctionalGroupsSequence")
PLACES = ("PixelMeasuresSequence", "PlanePositionSequence", "PlaneOrientationSequence")  # kept of each group
IMPERSONAL = {
    *NEEDED,
    *GROUPS,
    *("NumberOfFrames", "Modality", "FrameOfReferenceUID", "PositionReferenceIndicator", "DimensionOrganizationType"),
    *("PixelSpacing", "ImagerPixelSpacing", "SliceThickness", "SpacingBetweenSlices"),
    *("ImagePositionPatient", "ImageOrientationPatient"),
}
PIXELS = ("PixelData", "FloatPixelData", "DoubleFloatPixelData")
Code = tuple[str, str, str]  # value, scheme, meaning


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
    from highdicom.content import AlgorithmIdentificationSequence
    from highdicom.sr.coding import CodedConcept

    told = told_of(source, pseudonym)
    frames, size = int(source.get("NumberOfFrames") or 1), (int(source.Rows), int(source.Columns))
    if frame is not None and mask.shape == size and 0 <= frame < frames:
        mask = np.stack([mask if each == frame else np.zeros_like(mask) for each in range(frames)])
    if mask.reshape(-1, *mask.shape[-2:]).shape != (frames, *size):
        raise Refused(f"mask must be {(frames, *size)} like its image (frames, rows, columns), got {mask.shape}")
    if frames > 1 and not source.get("FrameOfReferenceUID"):
        raise Refused("the image has several frames and no FrameOfReferenceUID: a DICOM segmentation cannot place them")
    if mask.max() > len(classes):
        raise Refused(f"mask must hold 0 to {len(classes)}, got {mask.max()}")
    present = [value for value in range(1, 1 + len(classes)) if (mask == value).any()]
    if not present:
        raise Refused("an empty mask makes no DICOM segmentation: it must have a segment")
    made_by = AlgorithmIdentificationSequence(
        name=model, version=version, family=CodedConcept("123109", "DCM", "Artificial Intelligence")
    )
    own = {name: (f"class{place}", OWN_CODES, name) for place, name in enumerate(classes, 1)} | dict(codes or {})
    described = [
        highdicom.seg.SegmentDescription(
            segment_number=number,
            segment_label=classes[value - 1],
            segmented_property_category=CodedConcept(*BODY_STRUCTURE),
            segmented_property_type=CodedConcept(*own[classes[value - 1]]),
            algorithm_type=highdicom.seg.SegmentAlgorithmTypeValues.AUTOMATIC,
            algorithm_identification=made_by,
        )
        for number, value in enumerate(present, 1)
    ]
    stack = np.stack([mask == value for value in present], axis=-1).reshape(frames, *size, len(present))
    entropy = [str(source.SOPInstanceUID), model, version, *classes, hashlib.sha256(stack.tobytes()).hexdigest()]
    try:
        found = highdicom.seg.Segmentation(
            source_images=[told],
            pixel_array=stack.astype(np.uint8),
            segmentation_type=highdicom.seg.SegmentationTypeValues.BINARY,
            segment_descriptions=described,
            series_instance_uid=generate_uid(entropy_srcs=["series", *entropy]),
            series_number=9000,
            sop_instance_uid=generate_uid(entropy_srcs=["instance", *entropy]),
            instance_number=1,
            manufacturer="medloop",
            manufacturer_model_name=model,
            software_versions=version,
            device_serial_number="0",
            content_label="SEGMENTATION",
            series_description=f"Segmentation by {model}",
            transfer_syntax_uid=ExplicitVRLittleEndian,
            omit_empty_frames=True,
        )
    except (AttributeError, KeyError, ValueError) as error:  # its text may quote the header
        raise Refused(f"the image lacks what a DICOM segmentation must say of it ({type(error).__name__})") from None
    return _file(found, source)


def _outline(there: np.ndarray) -> np.ndarray:
    """Return the pixels of a region (H, W) bool that touch what is not of it."""
    return there & (cv2.erode(there.astype(np.uint8), np.ones((3, 3), np.uint8)) == 0)


def told_of(source: Dataset, pseudonym: str | None, what: str = "a DICOM segmentation") -> Dataset:
    """Return the image without its pixels, and where there is a pseudonym without what may tell of the patient.

    Raises:
        Refused: it lacks what a file that is made of it must refer to; `what` names this one.
    """
    if missing := [keyword for keyword in NEEDED if not source.get(keyword)]:
        raise Refused(f"the image lacks {' and '.join(missing)}, to which {what} must refer")
    told = Dataset()
    for element in source:
        kept = element.keyword in IMPERSONAL if pseudonym is not None else element.keyword not in PIXELS
        if kept and not element.tag.is_private:
            told.add(copy.deepcopy(element))
    told.file_meta = source.file_meta
    if not told.get("FrameOfReferenceUID") and "PixelSpacing" in told and not told.get("SliceThickness"):
        del told.PixelSpacing  # highdicom would write measures that it does not read: those of the image count
    for keyword in MAY_BE_EMPTY:
        if keyword not in told:
            setattr(told, keyword, "")
    if pseudonym is not None:
        told.PatientName = told.PatientID = pseudonym
        for group in (each for keyword in GROUPS for each in told.get(keyword) or []):
            for element in [element for element in group if element.keyword not in PLACES]:
                del group[element.tag]
    return told


def _file(ds: Any, source: Dataset) -> bytes:
    """Return the segmentation as a file whose moments and UIDs follow from its image and mask, not from the run."""
    organization = generate_uid(entropy_srcs=["dimensions", ds.SOPInstanceUID])
    for each in (*ds.DimensionOrganizationSequence, *ds.DimensionIndexSequence):
        each.DimensionOrganizationUID = organization
    return file_of(ds, source)


def file_of(ds: Any, source: Dataset) -> bytes:
    """Return what was made of an image as a file whose moments are those of the image, not of the run."""
    moment = {"Date": source.get("ContentDate") or source.get("StudyDate") or "19700101"}
    moment["Time"] = source.get("ContentTime") or source.get("StudyTime") or "000000"
    for kind in ("Content", "InstanceCreation", "Series"):
        for part, value in moment.items():
            if f"{kind}{part}" in ds:
                setattr(ds, f"{kind}{part}", value)
    for each in ds.get("ContributingEquipmentSequence") or []:
        each.pop("ContributionDateTime", None)
    file = BytesIO()
    ds.save_as(file, enforce_file_format=True)
    return file.getvalue()
