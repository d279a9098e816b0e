"""A folder tree of DICOM images with DICOM segmentations (SEG) of them.

A segmentation is read with pydicom: all that is wanted of it are its frames, one at a time, and which image each is of.
"""

import hashlib
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache, partial
from io import BytesIO
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pydicom
from pydantic import Field
from pydicom.dataset import Dataset
from pydicom.pixels import pixel_array

from medloop import drawing, folders, imaging, marks, params, privacy
from medloop.drawing import OVERLAP, Overlap
from medloop.errors import Refused
from medloop.imaging import Unreadable
from medloop.labels import Classes
from medloop.sources import Item, Sample

SEGMENTATIONS = ("1.2.840.10008.5.1.4.1.1.66.4", "1.2.840.10008.5.1.4.1.1.66.7")  # SEG, label map SEG
HEADER = ["SOPClassUID", "SOPInstanceUID", "SeriesInstanceUID"]
Frames = dict[tuple[str, int], list[tuple[int, int]]]  # by image and its frame: frames of a SEG, and their segments
LABEL_MAP = 0  # in place of a segment: the values of the frame are segments


class Options(params.Section):
    """`ingest.options.dicom_seg:`"""

    classes: Classes = Field(
        min_length=1, description="SegmentLabel of the segments taken, in label order; others are background"
    )
    overlap: Overlap = Field("refuse", description=f"of segments: {OVERLAP}")
    unreferenced: Literal["refuse", "empty"] = Field(
        "refuse", description="an image to which no segmentation refers: refuse it, or take it as one without an object"
    )
    site: privacy.SiteTag | None = Field(None, description="the tag that tells the site; null: unknown")
    allow_burned_in: bool = Field(False, description="take images whose BurnedInAnnotation is YES")


@dataclass(frozen=True)
class Segmentation:
    """What the header of a SEG says."""

    file: str
    digest: str  # of the file
    images: frozenset[str]  # SOPInstanceUID of those that it refers to
    series: frozenset[str]  # SeriesInstanceUID of those that it refers to
    labels: frozenset[str]


def items(root: Path, options: Options, *, seed: int) -> Iterator[Item]:  # noqa: ARG001
    """Yield one item an image, and one for each file that will be rejected: no DICOM, or a SEG of images elsewhere.

    Raises:
        Refused: a class is the name of no segment.
    """
    found, images, others = _listed(root)
    if missing := [name for name in options.classes if not any(name in each.labels for each in found)]:
        raise Refused(
            f"none of the {len(found)} segmentations below ingest.root has a segment called {', '.join(missing)}: "
            "ingest.options.dicom_seg.classes must name segments by their SegmentLabel"
        )
    by_image, by_series = defaultdict[str, set[Segmentation]](set), defaultdict[str, set[Segmentation]](set)
    here = {image for image, _ in images.values()}
    for each in found:
        for names, index in ((each.images, by_image), (each.series if each.images & here else (), by_series)):
            for name in names:
                index[name].add(each)
    used = set[str]()
    for file in sorted([*images, *others]):
        if file in others:
            yield Item(file, partial(_reject, others[file]), file, others[file])
            continue
        image, series = images[file]
        own = sorted(by_image.get(image, set()) | by_series.get(series, set()), key=lambda each: each.file)
        used |= {each.file for each in own}
        row = tuple((each.file, each.digest) for each in own)
        yield Item(file, partial(_samples, root, file, row, options), file, row)
    for each in found:
        if each.file not in used:
            reason = "a segmentation of images that are not here"
            yield Item(each.file, partial(_reject, reason), each.file, reason)


def facts(root: Path, options: Options) -> dict[str, Any]:  # noqa: ARG001
    """Return that every image has a mask, and of which classes."""
    return {"masks": True, "classes": options.classes}


def notes(options: Options) -> list[str]:
    """Return what a reader must know."""
    return ["Images with burned-in annotations were allowed: they may show names."] if options.allow_burned_in else []


def _listed(root: Path) -> tuple[list[Segmentation], dict[str, tuple[str, str]], dict[str, str]]:
    """Return the segmentations, image and series of the images by file, and why other files are rejected."""
    found: list[Segmentation] = []
    images, others = dict[str, tuple[str, str]](), dict[str, str]()
    for file in folders.files(root, None, "DICOM images and segmentations"):
        if file.rpartition("/")[2] == "DICOMDIR":
            continue
        try:
            header = pydicom.dcmread(root / file, stop_before_pixels=True, specific_tags=HEADER)
            if header.get("SOPClassUID") in SEGMENTATIONS:
                found.append(_segmentation(root, file))
            else:
                images[file] = str(header.get("SOPInstanceUID")), str(header.get("SeriesInstanceUID"))
        except Unreadable as error:
            others[file] = str(error)
        except Exception as error:  # a damaged header raises anything
            others[file] = f"could not be decoded ({type(error).__name__})"
    return found, images, others


def _segmentation(root: Path, file: str) -> Segmentation:
    content = (root / file).read_bytes()
    ds = pydicom.dcmread(BytesIO(content), stop_before_pixels=True)
    images = {image for image, _ in _frames(ds)}
    series = {str(each.SeriesInstanceUID) for each in ds.get("ReferencedSeriesSequence") or []}
    labels = frozenset(_labels(ds).values())
    return Segmentation(file, hashlib.sha256(content).hexdigest(), frozenset(images), frozenset(series), labels)


def _labels(ds: Dataset) -> dict[int, str]:
    """Return the label of each segment by its number."""
    return {int(each.SegmentNumber): str(each.SegmentLabel).strip() for each in ds.get("SegmentSequence") or []}


def _frames(ds: Dataset) -> Frames:
    """Return which frames are of which image, by its UID and frame, counted from 1."""
    shared = (ds.get("SharedFunctionalGroupsSequence") or [Dataset()])[0]
    found: Frames = defaultdict(list)
    described = _labels(ds)
    if not ds.get("PerFrameFunctionalGroupsSequence"):
        raise Unreadable("a segmentation without frames (PerFrameFunctionalGroupsSequence)")
    for number, own in enumerate(ds.PerFrameFunctionalGroupsSequence):
        derivations = own.get("DerivationImageSequence") or shared.get("DerivationImageSequence") or []
        sources = [source for each in derivations for source in each.get("SourceImageSequence") or []]
        if len(sources) != 1:
            raise Unreadable("a segmentation whose frames do not each refer to one image (DerivationImageSequence)")
        frame = sources[0].get("ReferencedFrameNumber", 1)
        segment = LABEL_MAP
        if ds.get("SegmentationType") != "LABELMAP":
            named = own.get("SegmentIdentificationSequence") or shared.get("SegmentIdentificationSequence")
            segment = int(named[0].ReferencedSegmentNumber)
            if segment not in described:
                raise Unreadable("a segmentation with a frame of a segment that it does not describe (SegmentSequence)")
        found[str(sources[0].ReferencedSOPInstanceUID), int(frame)].append((number, segment))
    return dict(found)


@lru_cache(maxsize=2)
def _opened(path: Path, digest: str) -> tuple[Dataset, Frames, dict[int, str]]:  # noqa: ARG001
    """Return a segmentation: images of one series stand beside each other, and ask for the same one."""
    ds = pydicom.dcmread(path)
    return ds, _frames(ds), _labels(ds)


def _reject(reason: str) -> Iterator[Sample]:
    raise Unreadable(reason)
    yield


def _samples(root: Path, file: str, row: tuple[tuple[str, str], ...], options: Options) -> Iterator[Sample]:
    content = (root / file).read_bytes()
    if not imaging.is_dicom(content):
        raise Unreadable("no DICOM file: it has no DICM after 128 bytes")
    ds = pydicom.dcmread(BytesIO(content))
    if privacy.burned_in(ds) and not options.allow_burned_in:
        raise Unreadable("BurnedInAnnotation is YES (ingest.options.dicom_seg.allow_burned_in takes such images)")
    if not row and options.unreferenced == "refuse":
        raise Unreadable("no segmentation refers to it or to its series (option unreferenced: empty)")
    header = privacy.allowed_header(ds, options.site)
    image = str(ds.SOPInstanceUID)
    for index, (pixels, bits) in enumerate(imaging.decode_dataset(ds)):
        objects = [each for seg, digest in row for each in _objects(root / seg, digest, (image, index + 1), options)]
        mask, _, flaws = drawing.of_objects(pixels.shape[:2], objects, options.overlap)
        yield Sample(
            f"{image}#{index}", pixels, bits, mask=mask, flaws=flaws, **header, synthetic=marks.in_file(content)
        )


def _objects(path: Path, digest: str, image: tuple[str, int], options: Options) -> Iterator[tuple[int, np.ndarray]]:
    """Yield what a segmentation says of one image: the number of a class and (H, W) bool."""
    ds, frames, labels = _opened(path, digest)
    half = int(ds.get("MaximumFractionalValue") or 1) / 2  # of FRACTIONAL segments
    for number, segment in frames.get(image, []):
        values = pixel_array(ds, index=number)
        for place in np.unique(values[values > 0]).tolist() if segment == LABEL_MAP else [segment]:
            if (name := labels.get(place)) in options.classes:
                there = values == place if segment == LABEL_MAP else values >= half
                yield options.classes.index(str(name)) + 1, there
