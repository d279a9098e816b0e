"""From encoded images to the pixels that a model takes.

Stands alone: it is shipped inside every registered model, where there is no medloop.
"""

import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import lru_cache
from io import BytesIO
from typing import Any

import cv2
import numpy as np
import pydicom
from pydicom.dataset import Dataset
from pydicom.pixels import apply_color_lut, get_decoder, pixel_array
from pydicom.uid import JPEG2000TransferSyntaxes

MONOCHROME = ("MONOCHROME1", "MONOCHROME2")
COLOUR = ("RGB", "YBR_FULL", "YBR_FULL_422", "YBR_ICT", "YBR_RCT")
IMAGE_MAGIC = (b"\x89PNG\r\n\x1a\n", b"\xff\xd8\xff", b"II*\0", b"MM\0*")

MAX_ASPECT = 50

Image = tuple[np.ndarray, int]  # pixels and the bits in use


class Unreadable(ValueError):
    """An image was refused; the message is a sentence of ours and holds nothing that the file said."""


def is_dicom(content: bytes) -> bool:
    """Tell whether `content` begins as a DICOM file does: 128 bytes of preamble, then DICM."""
    return content[128:132] == b"DICM"


cv2.utils.logging.setLogLevel(cv2.utils.logging.LOG_LEVEL_SILENT)  # what is wrong with a file, Unreadable says


def as_input(content: bytes, preprocessing: Mapping[str, Any]) -> np.ndarray:
    """Return an encoded image as the network takes it, (H, W, C) uint8.

    Raises:
        Unreadable: it has colours that the model does not take, or as `decode`.
    """
    pixels, bit_depth = decode(content)
    wanted = {name: preprocessing[name] for name in ("size_px", "channels", "clip_percentiles")}
    try:
        return fit(pixels, bit_depth, **wanted)
    except ValueError as error:
        raise Unreadable(str(error)) from None


def decode(content: bytes) -> Image:
    """Return the first image in a DICOM, PNG, JPEG or TIFF file, and its bits in use.

    Returns:
        (H, W) or (H, W, 3) uint8 or uint16, bright is dense; as `decode_dataset` and `decode_image` say.

    Raises:
        Unreadable: another format, or pixels that this module cannot show. pydicom raises errors of its own as well.
    """
    if is_dicom(content):
        return next(decode_dataset(pydicom.dcmread(BytesIO(content))))
    return decode_image(content)


def decode_image(content: bytes) -> Image:
    """Return the first image in a PNG, JPEG or TIFF file, and its bits: 8 or 16.

    A palette becomes RGB, an alpha channel is dropped, an Exif orientation is left alone.

    Raises:
        Unreadable: another format, damaged, or neither 8 nor 16 bits.
    """
    if not content.startswith(IMAGE_MAGIC):
        raise Unreadable("neither DICOM nor PNG, JPEG or TIFF")
    pixels = cv2.imdecode(np.frombuffer(content, np.uint8), cv2.IMREAD_UNCHANGED)
    if pixels is None:
        raise Unreadable("truncated or damaged PNG, JPEG or TIFF")
    if pixels.dtype not in (np.uint8, np.uint16):
        raise Unreadable(f"pixels must be unsigned with 8 or 16 bits, got {pixels.dtype}")
    if pixels.ndim == 3:
        pixels = np.ascontiguousarray(pixels[..., 2::-1])  # BGR or BGRA to RGB
    return pixels, 8 * pixels.itemsize


def decode_dataset(ds: Dataset) -> Iterator[Image]:
    """Yield each frame of a DICOM dataset as it is meant to be seen, and its bits in use.

    Gray: the modality LUT or rescale; then the first VOI LUT, else the first window (LINEAR, LINEAR_EXACT, SIGMOID);
    then MONOCHROME1 is inverted. The window's range fills 0..2**bits - 1. Without a window the whole range that the
    stored bits can express fills it, so that two images of one device stay comparable; floats and integers of more
    than 16 bits, whose stored range says nothing of the range in use, take the frame's own minimum and maximum.
    Colour: YBR and palette become RGB, as they are stored.

    Yields:
        (H, W) or (H, W, 3), uint8 for 8 bits and else uint16; 8 to 16 bits.

    Raises:
        Unreadable: an unknown colour space, a faulty table or window. pydicom raises errors of its own.
    """
    for index in range(int(ds.get("NumberOfFrames") or 1)):
        yield _shown_frame(_stored(ds, index), ds, index)


def fit(
    pixels: np.ndarray,
    bit_depth: int,
    *,
    size_px: tuple[int, int],
    channels: int,
    clip_percentiles: tuple[float, float] = (0.0, 100.0),
) -> np.ndarray:
    """Return (H, W, channels) uint8 of `size_px`, the aspect ratio kept by padding with the image's minimum.

    Args:
        pixels: (H, W) or (H, W, 3), uint8 or uint16.
        bit_depth: bits in use.
        size_px: rows and columns wanted.
        channels: 1 or 3. Gray becomes RGB; RGB becomes gray only where its three channels are equal.
        clip_percentiles: of the image, mapped to 0 and 255; (0, 100) maps the full range of the bit depth.

    Raises:
        ValueError: a colour image for a model that takes gray.
    """
    if max(pixels.shape[:2]) > MAX_ASPECT * min(pixels.shape[:2]):  # padding it would take gigabytes
        raise Unreadable(f"one side is more than {MAX_ASPECT} times the other")
    pixels = _with_channels(pixels, channels)
    low, high = _range(pixels, bit_depth, clip_percentiles)
    image = _resize(_pad(pixels, size_px).astype(np.float32), size_px)
    image = (image - low) * (255.0 / (high - low)) if high > low else np.zeros_like(image)
    image = np.floor(np.clip(image, 0, 255) + 0.5).astype(np.uint8)
    return image.reshape(*size_px, channels)


def windows(
    pixels: np.ndarray, bit_depth: int, preprocessing: Mapping[str, Any]
) -> tuple[np.ndarray, list[tuple[int, int]]]:
    """Return an image (H, W, C) uint8 at its own size, and (top, left) of the windows of `size_px` that cover it.

    Below and right of an image that is smaller than a window stands its least gray level.

    Raises:
        ValueError: as `fit`.
    """
    size = preprocessing["size_px"]
    more = [max(0, side - have) for side, have in zip(size, pixels.shape[:2], strict=True)]
    margins = [(0, more[0]), (0, more[1]), (0, 0)]
    large = np.pad(pixels, margins[: pixels.ndim], constant_values=pixels.min()) if any(more) else pixels
    wanted = {name: preprocessing[name] for name in ("channels", "clip_percentiles")}
    image = fit(large, bit_depth, size_px=(large.shape[0], large.shape[1]), **wanted)
    return image, places(image.shape[:2], size, preprocessing["overlap"])


def places(size: Sequence[int], window: Sequence[int], overlap: float) -> list[tuple[int, int]]:
    """Return (top, left) of windows that cover an image, each over its neighbours by `overlap` (a share) or more.

    One that is larger than the image begins where the image does.
    """
    starts = []
    for have, side in zip(size, window, strict=True):
        left = max(0, have - side)
        steps = math.ceil(left / max(1, side - round(overlap * side)))
        starts.append([int(place) for place in np.rint(np.linspace(0, left, 1 + steps))])
    return [(top, left) for top in starts[0] for left in starts[1]]


def fit_mask(mask: np.ndarray, size_px: tuple[int, ...]) -> np.ndarray:
    """Return a mask or instance map (H, W) under its image that `fit` made: the nearest value, 0 where it is padded."""
    padded = np.pad(mask, _margins(mask.shape, size_px))
    return cv2.resize(padded, (size_px[1], size_px[0]), interpolation=cv2.INTER_NEAREST_EXACT)


def fit_boxes(boxes: np.ndarray, size: tuple[int, ...], size_px: tuple[int, ...]) -> np.ndarray:
    """Return boxes (M, 5), corners first, of an image of `size` in the pixels of what `fit` makes of it."""
    (above, _), (left, _) = _margins(size, size_px)
    by, across = shrunk(size, size_px)
    moved = boxes + np.array([left, above, left, above, 0])
    return moved / np.array([across, by, across, by, 1])


def cut_boxes(boxes: np.ndarray, size: tuple[int, ...], least: float) -> np.ndarray:
    """Return those of boxes (M, 5) of which an image of `size` shows a share of `least` or more, cut at its edge."""
    inside = boxes.copy()
    inside[:, [0, 2]] = boxes[:, [0, 2]].clip(0, size[1])
    inside[:, [1, 3]] = boxes[:, [1, 3]].clip(0, size[0])
    areas = [np.prod(each[:, 2:4] - each[:, :2], axis=1) for each in (inside, boxes)]
    return inside[(areas[0] > 0) & (areas[0] >= least * areas[1])]


def shrunk(size: tuple[int, ...], size_px: tuple[int, ...]) -> tuple[float, float]:
    """Return how many of its rows and of its columns an image of `size` has for each that `fit` makes of them."""
    (above, below), (left, right) = _margins(size, size_px)
    return (above + size[0] + below) / size_px[0], (left + size[1] + right) / size_px[1]


def perceptual_hash(pixels: np.ndarray) -> int:
    """Return 64 bits, alike for images that look alike: the signs of the 8 x 8 lowest cosine frequencies.

    Bit 63 - (8 * row + column) stands for one frequency; the constant one is left 0, so brightness and contrast do not
    matter. A mirrored image has the bits of the odd columns (left-right) or rows (up-down) flipped.
    """
    gray = pixels.astype(np.float32) if pixels.ndim == 2 else pixels.astype(np.float32).mean(axis=2)
    frequencies = np.abs(cosines := cv2.dct(_resize(gray, (32, 32)))[:8, :8]).ravel()[1:]
    signs = cosines > 1e-3 * frequencies.max()  # what is only rounding stays 0
    signs[0, 0] = False
    return int.from_bytes(np.packbits(signs).tobytes(), "big")


@dataclass(frozen=True)
class _Lut:
    first: int  # input that the first entry stands for
    bits: int
    entries: bytes  # uint16

    def __call__(self, values: np.ndarray) -> np.ndarray:
        entries = np.frombuffer(self.entries, np.uint16)
        index = np.clip(values.astype(np.float64) - self.first, 0, len(entries) - 1).astype(np.intp)
        return entries[index].astype(np.float64)


@dataclass(frozen=True)
class _Display:
    """What turns the stored values of a gray frame into what is seen."""

    bits: int  # stored
    signed: bool
    inverted: bool
    modality: _Lut | None
    rescale: tuple[float, float]  # slope, intercept
    voi: _Lut | None
    window: tuple[float, float, str] | None  # centre, width, function

    @property
    def out_bits(self) -> int:
        """Bits of the result."""
        table = self.voi or self.modality
        return min(max(table.bits if table else self.bits, 8), 16)


def _display(ds: Dataset, frame: int) -> _Display:
    pixel = _group(ds, frame, "PixelValueTransformationSequence")
    voi = _group(ds, frame, "FrameVOILUTSequence")
    slope, intercept = _number(pixel, "RescaleSlope"), _number(pixel, "RescaleIntercept")
    centre, width = _number(voi, "WindowCenter"), _number(voi, "WindowWidth")
    function = str(voi.get("VOILUTFunction") or "LINEAR").upper()
    return _Display(
        bits=int(ds.get("BitsStored") or 32),  # float pixel data has none
        signed=ds.get("PixelRepresentation") == 1,
        inverted=ds.PhotometricInterpretation == "MONOCHROME1",
        modality=_lut(ds, "ModalityLUTSequence"),
        rescale=(1.0, 0.0) if slope is None or intercept is None else (slope, intercept),
        voi=_lut(ds, "VOILUTSequence"),
        window=None if centre is None or width is None else (centre, width, function),
    )


def _group(ds: Dataset, frame: int, keyword: str) -> Dataset:
    """Return where the attributes of one frame stand: its functional group, the shared one, or the dataset itself."""
    per_frame = ds.get("PerFrameFunctionalGroupsSequence") or []
    for groups in (*per_frame[frame : frame + 1], *(ds.get("SharedFunctionalGroupsSequence") or [])):
        if groups.get(keyword):
            return groups[keyword].value[0]
    return ds


def _number(ds: Dataset, keyword: str) -> float | None:
    value = ds.get(keyword)
    if value is not None and not isinstance(value, (str, int, float)):
        value = value[0] if len(value) else None
    return None if value in (None, "") else float(value)


def _lut(ds: Dataset, keyword: str) -> _Lut | None:
    """Return the first table of a sequence.

    pydicom's own functions refuse modality tables of 10 to 15 bits, and count the entries of an 8-bit VOI table modulo
    256.
    """
    if not ds.get(keyword):
        return None
    item = ds[keyword].value[0]
    count, first, bits = (int(value) for value in item.LUTDescriptor)
    count, data = count or 2**16, item.LUTData
    if isinstance(data, bytes):
        order = "<" if ds.original_encoding[1] is not False else ">"
        data = np.frombuffer(data, f"{order}u2" if len(data) >= 2 * count else "u1")
    entries = np.atleast_1d(np.asarray(data, np.uint16))[:count]
    if len(entries) < count or not 8 <= bits <= 16:
        raise Unreadable("a lookup table has too few entries, or entries of less than 8 or more than 16 bits")
    return _Lut(first, bits, entries.tobytes())


def _stored(ds: Dataset, index: int) -> np.ndarray:
    syntax = ds.file_meta.get("TransferSyntaxUID")
    if syntax in JPEG2000TransferSyntaxes and "pylibjpeg" in get_decoder(syntax).available_plugins:
        with suppress(RuntimeError):  # a quarter faster than what pydicom would ask first; the others have their turn
            return pixel_array(ds, index=index, decoding_plugin="pylibjpeg")
    return pixel_array(ds, index=index)


def _shown_frame(frame: np.ndarray, ds: Dataset, index: int) -> Image:
    photometric = ds.get("PhotometricInterpretation")
    if photometric in MONOCHROME and frame.ndim == 2:
        return _gray(frame, _display(ds, index))
    if photometric == "PALETTE COLOR" and frame.ndim == 2:
        frame = apply_color_lut(frame, ds)
        return _colour(frame, 8 * frame.itemsize)
    if photometric in COLOUR and frame.ndim == 3:
        return _colour(frame, max(8, int(ds.BitsStored)))
    raise Unreadable("the photometric interpretation is none of MONOCHROME, PALETTE COLOR, RGB or YBR")


def _gray(stored: np.ndarray, display: _Display) -> Image:
    stored = stored.astype(stored.dtype.newbyteorder("="), copy=False)
    if stored.dtype.itemsize > 2 or stored.dtype.kind == "f":
        return _shown(stored, display), display.out_bits
    table = _table(stored.dtype.str, display)
    return table.take(stored.view(f"u{stored.itemsize}"), mode="clip"), display.out_bits


@lru_cache(maxsize=32)
def _table(dtype: str, display: _Display) -> np.ndarray:
    """Return what is seen for every value that `dtype` can store: quicker than to compute each pixel."""
    kind = np.dtype(dtype)
    stored = np.arange(2 ** (8 * kind.itemsize), dtype=f"u{kind.itemsize}").view(kind)
    return _shown(stored, display)


def _shown(stored: np.ndarray, display: _Display) -> np.ndarray:
    share = _share(stored, display)
    if display.inverted:
        share = 1 - share
    top = 2**display.out_bits - 1
    return np.floor(share * top + 0.5).astype(np.uint8 if display.out_bits == 8 else np.uint16)


def _share(stored: np.ndarray, display: _Display) -> np.ndarray:
    """Return where each value stands in the range that is shown, 0 to 1."""
    slope, intercept = display.rescale
    values = display.modality(stored) if display.modality else stored.astype(np.float64) * slope + intercept
    if display.voi:
        return display.voi(values) / (2**display.voi.bits - 1)
    if display.window:
        return _windowed(values, *display.window)
    low, high = _limits(values, display)
    return np.clip((values - low) / (high - low), 0, 1) if high > low else np.zeros_like(values)


def _limits(values: np.ndarray, display: _Display) -> tuple[float, float]:
    if display.modality:
        return 0, 2**display.modality.bits - 1
    if display.bits > 16:
        if not np.isfinite(values).all():
            raise Unreadable("pixels are infinite or not a number")
        return values.min(), values.max()
    low = -(2 ** (display.bits - 1)) if display.signed else 0
    slope, intercept = display.rescale
    low, high = sorted(bound * slope + intercept for bound in (low, low + 2**display.bits - 1))
    return low, high


def _windowed(values: np.ndarray, centre: float, width: float, function: str) -> np.ndarray:
    """Return PS3.3 C.11.2.1.2 and C.11.2.1.3: where each value stands in the window, 0 to 1."""
    if width < 1 and (function == "LINEAR" or width <= 0):
        raise Unreadable(f"window width must be at least 1 (LINEAR) or more than 0, got {width:g}")
    if function == "SIGMOID":
        return 1 / (1 + np.exp(np.clip(-4 * (values - centre) / width, -700, 700)))
    if function == "LINEAR":
        centre, width = centre - 0.5, width - 1
    elif function != "LINEAR_EXACT":
        raise Unreadable("the VOI LUT function is none of LINEAR, LINEAR_EXACT and SIGMOID")
    return np.clip((values - centre) / width + 0.5, 0, 1) if width else (values > centre).astype(np.float64)


def _colour(frame: np.ndarray, bits: int) -> Image:
    if frame.shape[2] != 3 or frame.dtype.itemsize > 2:
        raise Unreadable("colour must have 3 channels of 8 or 16 bits")
    return np.ascontiguousarray(frame, frame.dtype.newbyteorder("=")), bits


def _with_channels(pixels: np.ndarray, channels: int) -> np.ndarray:
    if pixels.ndim == 2:
        return pixels if channels == 1 else np.repeat(pixels[..., None], channels, axis=2)
    if pixels.shape[2] == channels:
        return pixels
    if channels == 1 and (pixels == pixels[..., :1]).all():
        return pixels[..., 0]
    raise ValueError(f"the model takes images of {channels} channel(s), got one of {pixels.shape[2]}")


def _range(pixels: np.ndarray, bit_depth: int, percentiles: tuple[float, float]) -> Any:
    if tuple(percentiles) == (0.0, 100.0):
        return 0.0, 2.0**bit_depth - 1
    return np.percentile(pixels, percentiles)


def _pad(pixels: np.ndarray, size_px: tuple[int, int]) -> np.ndarray:
    """Return `pixels` in the middle of the smallest image around them that has the aspect ratio of `size_px`."""
    margins = [*_margins(pixels.shape, size_px), (0, 0)]
    if not np.any(margins):
        return pixels
    return np.pad(pixels, margins[: pixels.ndim], constant_values=pixels.min())


def _margins(size: tuple[int, ...], size_px: tuple[int, ...]) -> list[tuple[int, int]]:
    """Return how many rows and how many columns `fit` adds on both sides."""
    height, width = size[:2]
    rows = max(height, round(width * size_px[0] / size_px[1])) - height
    columns = max(width, round(height * size_px[1] / size_px[0])) - width
    return [(rows // 2, rows - rows // 2), (columns // 2, columns - columns // 2)]


def _resize(image: np.ndarray, size_px: tuple[int, int]) -> np.ndarray:
    rows, columns = size_px
    if image.shape[:2] == (rows, columns):
        return image.copy()
    way = cv2.INTER_AREA if image.shape[0] >= rows and image.shape[1] >= columns else cv2.INTER_LINEAR
    return cv2.resize(image, (columns, rows), interpolation=way)
