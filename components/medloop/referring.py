"""DICOM files that are made of what was found in an image: they refer to it, and say no more of the patient than it.

With a pseudonym they say less: it stands for name and id, and nothing else tells of the patient.
"""

import copy
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from io import BytesIO
from typing import Any

from pydicom.dataset import Dataset
from pydicom.uid import ExplicitVRLittleEndian, generate_uid

from medloop.errors import Refused

OWN_CODES = "99MEDLOOP"  # coding scheme of classes that have no code
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


def told_of(source: Dataset, pseudonym: str | None, what: str) -> Dataset:
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
        told.PatientName, told.PatientID = f"{pseudonym}^", pseudonym
        for group in (each for keyword in GROUPS for each in told.get(keyword) or []):
            for element in [element for element in group if element.keyword not in PLACES]:
                del group[element.tag]
    return told


def codes_of(classes: Sequence[str], codes: Mapping[str, Code] | None) -> dict[str, Code]:
    """Return the code of each class: its own where `codes` has one, else one of medloop's."""
    return {name: (f"class{place}", OWN_CODES, name) for place, name in enumerate(classes, 1)} | dict(codes or {})


def instance(description: str, series: int, entropy: Sequence[str]) -> dict[str, Any]:
    """Return what highdicom must know of any file: of a series of its own, with UIDs that follow from `entropy`."""
    return {
        "series_instance_uid": generate_uid(entropy_srcs=["series", *entropy]),
        "series_number": series,
        "series_description": description,
        "sop_instance_uid": generate_uid(entropy_srcs=["instance", *entropy]),
        "instance_number": 1,
        "manufacturer": "medloop",
        "transfer_syntax_uid": ExplicitVRLittleEndian,
    }


@contextmanager
def complete(what: str) -> Iterator[None]:
    """Raise Refused where highdicom does not find in an image what `what` must say of it."""
    try:
        yield
    except (AttributeError, IndexError, KeyError, ValueError) as error:  # its text may quote the header
        raise Refused(f"the image lacks what {what} must say of it ({type(error).__name__})") from None


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
