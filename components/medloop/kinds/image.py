"""Images: photographs, radiographs, slices; DICOM, PNG, JPEG and TIFF files."""

from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from io import BytesIO
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pandas as pd
import pydicom
from pydicom.dataset import FileMetaDataset
from pydicom.uid import ExplicitVRLittleEndian, SecondaryCaptureImageStorage, generate_uid

from medloop import augmentation, imaging, manifest, marks, params, twins
from medloop.errors import Refused
from medloop.kinds import Form, Part
from medloop.sources import Sample

NOUN, NOUNS = "image", "images"
WINDOWS = False
SIZED_BY = "preprocess.size_px"
INPUT_UNITS = "uint8 gray levels or RGB, 0 to 255, as medloop's preprocessing makes them"
Unreadable = imaging.Unreadable

PACKAGES = ("numpy", "opencv-python-headless")
GEOMETRY = ["height", "width", "spacing_y_mm", "spacing_x_mm"]
INDEX = ["sample_id", "patient_id", "site", "sex", "age_years", "label", "content_sha256"]
KEPT = 0.3  # share of a box that a window must show: of less than that it says nothing
BLOCK = 256  # images fitted at once, so that memory stays flat
SMALLEST_PX = 24  # of a side, below which nothing tells a copy from a neighbour

COLUMN = "image"
DECODER = imaging
REQUIREMENTS = ("opencv-python-headless", "pydicom", "pyjpegls", "pylibjpeg", "pylibjpeg-openjpeg", "python-gdcm")
SUFFIXES = {".png", ".jpg", ".jpeg", ".tif", ".tiff", ".dcm", ".dicom", ".ima"}
WANTED = f"files that end in {', '.join(sorted(SUFFIXES))}, DICOM files"
HEADER = ["SOPInstanceUID", "NumberOfFrames"]


def units(preprocessing: Mapping[str, Any]) -> str:  # noqa: ARG001
    """Return what one array is called, in the plural."""
    return NOUNS


def check(sample: Sample) -> None:
    """Raise Unreadable unless the pixels are (H, W) or (H, W, 3) of the type that their bits want."""
    pixels, bits = sample.values, sample.bit_depth or 0
    wanted = np.uint8 if bits <= 8 else np.uint16
    if pixels.dtype != wanted or pixels.shape[2:] not in ((), (3,)) or pixels.ndim < 2 or not pixels.size:
        raise Unreadable(
            f"pixels must be (H, W) or (H, W, 3) {wanted.__name__} for {bits} bits, got {pixels.shape} {pixels.dtype}"
        )
    for name, layer in (("mask", sample.mask), ("instance map", sample.instances)):
        if layer is not None and layer.shape != pixels.shape[:2]:
            raise Unreadable(f"{name} must be {pixels.shape[:2]} like its image, got {layer.shape}")


def perceptual_hash(values: np.ndarray) -> int | None:
    """Return 64 bits, alike for images that look alike."""
    return imaging.perceptual_hash(values)


def synthetic(values: np.ndarray) -> bool:
    """Tell whether pixels carry the visible mark of an image that a model made."""
    return marks.in_pixels(values)


def near_copies(
    rows: pd.DataFrame,
    values: manifest.Values,
    sides: Sequence[tuple[np.ndarray, np.ndarray]],
    thresholds: params.LeakThresholds,
) -> pd.DataFrame:
    """Return the pairs (a, b, correlation) of rows on both `sides` that hold the same picture.

    Memory: about 60 MB, however many samples there are to compare; on disk, for its time, 3 to 37 kB a sample.
    """
    usual = np.median([min(shape[:2]) for shape in rows["shape"]])
    images = twins.prepared(values.each(rows), len(rows), usual)
    return pd.concat([twins.find(images, a, b, thresholds) for a, b in sides])


def copies(inputs: Any) -> np.ndarray:
    """Return the pairs (P, 2) of places in arrays (N, H, W, C) uint8, the lesser first, that show one picture.

    None are looked for in images of fewer than 24 pixels, which look alike. Memory: as `near_copies`.
    """
    if min(inputs.shape[1:3]) < SMALLEST_PX:
        return np.empty((0, 2), np.int64)
    places = np.arange(len(inputs))
    parts = (inputs[places[start : start + BLOCK]] for start in range(0, len(inputs), BLOCK))
    images = twins.prepared((image for part in parts for image in part), len(inputs), min(inputs.shape[1:3]))
    pairs = twins.find(images, places, places, params.LeakThresholds())[["a", "b"]].to_numpy(np.int64)
    return pairs[pairs[:, 0] < pairs[:, 1]]


def form(
    table: pd.DataFrame,
    values: manifest.Values,  # noqa: ARG001
    facts: manifest.Facts,
    section: params.Preprocess,
) -> Form:
    """Return the form of the arrays: (H, W, C) uint8, as params.yaml says; of masks, (H, W); of boxes, the most."""
    wanted: dict[str, Any] = {
        "size_px": list(section.size_px),
        "channels": section.channels,
        "clip_percentiles": list(section.clip_percentiles),
    }
    if section.larger == "slide":
        if not facts.masks and not facts.boxes:
            raise Refused(
                "preprocess.larger: slide is for masks and boxes, of which these samples have none: set it to resize"
            )
        wanted |= {"larger": "slide", "overlap": section.overlap}
    most = max(1, *map(len, table["boxes"])) if facts.boxes else 0
    return Form((*section.size_px, section.channels), "uint8", wanted, facts.masks, most)


def notes(rows: pd.DataFrame, values: manifest.Values, form: Form) -> list[str]:
    """Return what is lost of what was drawn, and how many images are smaller than a window."""
    height, width = form.shape[:2]
    found = []
    if form.preprocessing.get("larger") == "slide":
        if small := sum(shape[0] < height or shape[1] < width for shape in rows["shape"]):
            found.append(
                f"{small} of {len(rows)} images are smaller than a window, {height} x {width}: the rest of it is empty."
            )
    elif form.masks:
        lost, drawn = _lost(rows, values, form.shape[:2])
        if lost:
            found.append(
                f"{lost} of {drawn} drawn objects have no pixel left in images of {height} x {width}, and are scored "
                "nowhere: a larger preprocess.size_px, or preprocess.larger: slide, keeps them."
            )
    if form.masks:
        test = rows[rows["split"] == "test"]
        unknown = int(test["spacing_mm"].isna().sum())
        if 0 < unknown < len(test):
            found.append(f"{unknown} of {len(test)} test images do not tell how far pixels are: none is scored in mm.")
    return found


def _lost(rows: pd.DataFrame, values: manifest.Values, size_px: tuple[int, ...]) -> tuple[int, int]:
    """Return how many objects vanish when masks are fitted, and how many there are; untold, all of a class are one."""
    lost = drawn = 0
    for row in manifest.rows(rows):
        instances = values.instances(row)
        whole: Any = values.mask(row) if instances is None else instances
        fitted = imaging.fit_mask(whole, size_px)
        before, after = (int(np.count_nonzero(np.bincount(each.ravel())[1:])) for each in (whole, fitted))
        lost, drawn = lost + before - after, drawn + before
    return lost, drawn


def counts(rows: pd.DataFrame, form: Form) -> np.ndarray:
    """Return how many arrays each image gives (N,): one, or the windows that cover it."""
    return np.array([len(_places(shape, form)) for shape in rows["shape"]], np.int64)


def _places(shape: Sequence[int], form: Form) -> list[tuple[int, int]]:
    if form.preprocessing.get("larger") != "slide":
        return [(0, 0)]
    return imaging.places([int(side) for side in shape[:2]], form.shape[:2], form.preprocessing["overlap"])


def index(rows: pd.DataFrame, form: Form) -> pd.DataFrame:
    """Return what is known of each array: with masks or boxes its size before, and mm from pixel to pixel in it.

    Windows say where they lie in their image, too: `top` and `left`. What a model made is `synthetic`.
    """
    known = rows[INDEX].assign(synthetic=rows["synthetic"].eq(True))
    if not form.masks and not form.boxes:
        return known
    sliding = form.preprocessing.get("larger") == "slide"
    found = []
    for shape, spacing in zip(rows["shape"], rows["spacing_mm"], strict=True):
        shrunk = (1.0, 1.0) if sliding else imaging.shrunk(tuple(map(int, shape[:2])), form.shape[:2])
        mm = (None, None) if spacing is None else [float(a * b) for a, b in zip(spacing, shrunk, strict=True)]
        found.append((int(shape[0]), int(shape[1]), *mm))
    geometry = pd.DataFrame(found, rows.index, GEOMETRY).astype(dict.fromkeys(GEOMETRY[2:], "float64"))
    table = pd.concat([known, geometry], axis=1)
    if not sliding:
        return table
    at = [place for shape in rows["shape"] for place in _places(shape, form)]
    return (
        table.loc[table.index.repeat(counts(rows, form))]
        .reset_index(drop=True)
        .assign(top=[top for top, _ in at], left=[left for _, left in at])
    )


def arrays(rows: pd.DataFrame, values: manifest.Values, form: Form) -> Iterator[memoryview]:
    """Yield images (N, H, W, C) uint8, block after block, in the order of `rows`; OpenCV leaves other threads free."""
    sliding = form.preprocessing.get("larger") == "slide"

    def fit(row: Any) -> np.ndarray:
        try:
            if sliding:
                return _cut(imaging.windows(values[row], row.bit_depth, form.preprocessing)[0], row.shape, form)
            return imaging.fit(values[row], row.bit_depth, **form.preprocessing)
        except ValueError as error:
            where = f"sample {row.sample_id} ({row.split})"
            raise Refused(f"{where}: {error}; {manifest.WHICH_FILES}; see preprocess.channels") from None

    if sliding:
        for row in manifest.rows(rows):
            yield fit(row).data
        return
    with ThreadPoolExecutor() as pool:
        for start in range(0, len(rows), BLOCK):
            yield np.stack(list(pool.map(fit, rows.iloc[start : start + BLOCK].itertuples()))).data


def _cut(image: np.ndarray, shape: Sequence[int], form: Form) -> np.ndarray:
    """Return the windows (N, h, w, ..) of an image (H, W, ..); zeros stand where it is smaller than one."""
    height, width = form.shape[:2]
    more = [(0, max(0, side - have)) for side, have in zip((height, width), image.shape, strict=False)]
    image = np.pad(image, [*more, *[(0, 0)] * (image.ndim - 2)])
    return np.stack([image[top : top + height, left : left + width] for top, left in _places(shape, form)])


def layers(rows: pd.DataFrame, values: manifest.Values, form: Form, name: str) -> Iterator[memoryview]:
    """Yield masks (N, H, W) uint8, or instances uint16, block after block, under exactly the geometry of the arrays."""
    read: Any = {"mask": values.mask, "instances": values.instances}[name]
    if form.preprocessing.get("larger") == "slide":
        for row in manifest.rows(rows):
            yield _cut(read(row), row.shape, form).data
        return
    for start in range(0, len(rows), BLOCK):
        block = list[Any](rows.iloc[start : start + BLOCK].itertuples())
        yield np.stack([imaging.fit_mask(read(row), form.shape[:2]) for row in block]).data


def boxes(rows: pd.DataFrame, form: Form, classes: Sequence[str]) -> np.ndarray:
    """Return the boxes (N, M, 5) float32 of each array: x0, y0, x1, y1 in its pixels, and the class number from 1.

    Rows of zeros fill up. They have moved as the image has; of windows each has those of which it shows a share of KEPT
    or more, cut at its edge.
    """
    height, width = form.shape[:2]
    sliding, found = form.preprocessing.get("larger") == "slide", []
    for corners, names, shape in zip(rows["boxes"], rows["box_labels"], rows["shape"], strict=True):
        own = np.array([(*box, 1 + classes.index(name)) for box, name in zip(corners, names, strict=True)], np.float64)
        own, size = own.reshape(-1, 5), (int(shape[0]), int(shape[1]))
        if sliding:
            shifts = [np.array([left, top, left, top, 0]) for top, left in _places(shape, form)]
            found += [imaging.cut_boxes(own - shift, (height, width), KEPT) for shift in shifts]
        else:
            found.append(imaging.fit_boxes(own, size, (height, width)))
    packed = np.zeros((len(found), form.boxes, 5), np.float32)
    for place, own in zip(packed, found, strict=True):
        place[: len(own)] = own
    return packed


def targets(rows: pd.DataFrame, values: manifest.Values, form: Form) -> np.ndarray | None:  # noqa: ARG001
    """Return None: an image says nothing of its own future."""
    return None


def augment(
    images: np.ndarray,
    section: params.Augment,
    random: np.random.Generator,
    part: Part | None = None,
    masks: np.ndarray | None = None,
    boxes: np.ndarray | None = None,
) -> Any:
    """Return changed copies of images (N, H, W, C) uint8; what they are is decided by the state of `random` alone.

    With `masks` (N, H, W) uint8 or `boxes` (N, M, 5) float32 it is a pair, images and these, that have moved alike;
    without them the images are the same to the byte. `part`: of which whole they are. `augmentation` says what is done,
    and in which order.
    """
    drawn = masks if boxes is None else boxes
    if section == params.Augment():
        return images if drawn is None else (images, drawn)
    whole = part or Part(len(images), slice(None))
    changed, moved, moved_boxes = augmentation.changed(images, section, random, whole, masks, boxes)
    return changed if drawn is None else (changed, moved if boxes is None else moved_boxes)


def described(card: Mapping[str, Any]) -> str:
    """Return the network's input in words."""
    height, width, channels = card["input_shape"]
    return f"{height} × {width} pixels, {'gray' if channels == 1 else 'RGB'}"


def picture(array: np.ndarray, card: Mapping[str, Any], marks: Mapping[str, float]) -> tuple[str, bytes]:  # noqa: ARG001
    """Return (H, W, 1) or (H, W, 3) RGB uint8 as a PNG file."""
    pixels = np.ascontiguousarray(array[..., ::-1] if array.shape[-1] == 3 else array)
    return "image/png", bytes(cv2.imencode(".png", pixels)[1])


def example(card: Mapping[str, Any]) -> bytes:
    """Return one image of noise, which is nobody's, as a PNG file."""
    noise = np.random.default_rng(0).integers(0, 256, card["input_shape"], np.uint8)
    return bytes(cv2.imencode(".png", noise)[1])


def is_input(path: Path) -> bool:
    """Tell whether a file is an image: by its suffix, or as a DICOM file; one that cannot be opened counts as one."""
    if path.name == "DICOMDIR":
        return False
    if path.suffix.lower() in SUFFIXES:
        return True
    try:
        with path.open("rb") as file:
            return imaging.is_dicom(file.read(132))
    except OSError:
        return True


def cells(content: bytes, name: str, preprocessing: Mapping[str, Any]) -> Iterator[tuple[str, str, bytes]]:  # noqa: ARG001
    """Yield a file as it is, or a DICOM file of several frames as a file for each; the keys are those of `ingest`."""
    if not imaging.is_dicom(content):
        yield name, name, content
        return
    header = pydicom.dcmread(BytesIO(content), stop_before_pixels=True, specific_tags=HEADER)
    instance, frames = header.get("SOPInstanceUID") or name, int(header.get("NumberOfFrames") or 1)
    if frames == 1:
        yield f"{instance}#0", name, content
        return
    for number, (pixels, bits) in enumerate(imaging.decode_dataset(pydicom.dcmread(BytesIO(content)))):
        yield f"{instance}#{number}", f"{name}#{number}", file_of(pixels, bits)


def encoded(row: Any, values: np.ndarray, preprocessing: Mapping[str, Any]) -> Iterator[tuple[int | None, bytes]]:  # noqa: ARG001
    """Yield the one cell of a packed image."""
    yield None, file_of(values, int(row.bit_depth))


def paired(preprocessing: Mapping[str, Any]) -> dict[str, Any]:  # noqa: ARG001
    """Return nothing: each model makes of an image what it needs."""
    return {}


def file_of(pixels: np.ndarray, bit_depth: int) -> bytes:
    """Return pixels as a file that decodes to the same pixels and bits: PNG, or DICOM for 9 to 15 bits."""
    if bit_depth in (8, 16):
        stored = pixels if pixels.ndim == 2 else pixels[..., ::-1]
        return cv2.imencode(".png", stored, [cv2.IMWRITE_PNG_COMPRESSION, 1])[1].tobytes()
    if pixels.ndim != 2:
        raise Refused(f"colour images must have 8 or 16 bits, got {bit_depth}")
    ds = pydicom.Dataset()
    ds.file_meta = FileMetaDataset()
    ds.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    ds.SOPClassUID, ds.SOPInstanceUID = SecondaryCaptureImageStorage, generate_uid()
    ds.set_pixel_data(np.ascontiguousarray(pixels), "MONOCHROME2", bit_depth)
    file = BytesIO()
    ds.save_as(file, enforce_file_format=True)
    return file.getvalue()
