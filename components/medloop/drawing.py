"""Masks, instance maps and boxes, of what annotation files hold.

A mask is (H, W) uint8, 0 for the background and i for the i-th class; an instance map (H, W) uint16, 0 for the
background, else the number of the object; a box x0, y0, x1, y1 in pixels and parts of them, ends exclusive.
"""

import math
import struct
import zlib
from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Literal

import numpy as np

from medloop import imaging, marks
from medloop.errors import some
from medloop.imaging import Unreadable

Box = tuple[float, float, float, float]
Overlap = Literal["refuse", "smaller"]
OVERLAP = "pixels of several objects: refuse the image, or give them to the smaller object"
MOST = 2**16 - 1  # objects of one image
PNG, PALETTE, GRAY = b"\x89PNG\r\n\x1a\n", 3, 0


def opened(path: Path) -> tuple[np.ndarray, int, bool]:
    """Return the pixels of an image that was drawn on, its bits in use, and whether it is marked as synthetic.

    Raises:
        Unreadable: no PNG, JPEG or TIFF file.
    """
    content = path.read_bytes()
    if imaging.is_dicom(content):
        raise Unreadable("a DICOM file: its header may name people, use the source dicom_seg")
    return *imaging.decode_image(content), marks.in_file(content)


def decoded(content: bytes) -> np.ndarray:
    """Return the values of a mask file (PNG or TIFF), (H, W) uint8 or uint16; of a palette, the indices.

    Raises:
        Unreadable: the file is empty or damaged, or in colour.
    """
    if not content:
        raise Unreadable("its mask file is empty")
    bits = _palette_bits(content)
    try:
        pixels, _ = imaging.decode_image(_without_palette(content) if bits else content)
    except Unreadable as error:
        raise Unreadable(f"its mask: {error}") from None
    if pixels.ndim == 3 and (pixels == pixels[..., :1]).all():
        pixels = pixels[..., 0]
    if pixels.ndim != 2:
        raise Unreadable("its mask is in colour: it must hold one value a pixel")
    return pixels // (255 // (2**bits - 1)) if bits else pixels  # a decoder stretches few bits over all eight


def of_values(pixels: np.ndarray, values: Sequence[int]) -> np.ndarray:
    """Return the mask of pixels (H, W) that hold 0, or the value of a class: `values`, in the order of the classes.

    Raises:
        Unreadable: another value.
    """
    table = np.full(np.iinfo(pixels.dtype).max + 1, 255, np.uint8)
    for place, value in enumerate(values, 1):
        if value < len(table):
            table[value] = place
    table[0] = 0
    mask = table[pixels]
    if (strange := np.unique(pixels[mask == 255])).size:
        known = ", ".join(map(str, (0, *values)))
        strange_ones = some(map(str, strange.tolist()), 3)
        raise Unreadable(f"its mask holds {strange_ones}, which is no class: known are {known} (option values)")
    return mask


def of_numbers(pixels: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return mask and instance map of pixels (H, W) that hold 0, or the number of an object; there is one class."""
    return (pixels > 0).astype(np.uint8), pixels.astype(np.uint16)


def of_objects(
    size: tuple[int, ...], objects: Iterable[tuple[int, np.ndarray]], overlap: Overlap
) -> tuple[np.ndarray, np.ndarray, tuple[str, ...]]:
    """Return mask, instance map and flaws of objects, each the number of its class and (H, W) bool.

    Raises:
        Unreadable: they overlap, where that is refused; one is of another size; there are too many.
    """
    kept, lost = [], 0
    for name, there in objects:
        if there.shape != tuple(size):
            raise Unreadable(f"mask must be {tuple(size)} like its image, got {there.shape}")
        if there.any():
            kept.append((name, there))
        else:
            lost += 1
    if len(kept) > MOST:
        raise Unreadable(f"it has {len(kept)} objects, an instance map tells {MOST} apart at most")
    counted = np.zeros(size, np.int32)
    for _, there in kept:
        counted += there
    if overlap == "refuse" and (several := int((counted > 1).sum())):
        raise Unreadable(f"{several} of its pixels belong to several objects at once (option overlap: smaller)")
    mask, instances = np.zeros(size, np.uint8), np.zeros(size, np.uint16)
    numbered = sorted(enumerate(kept, 1), key=lambda each: -np.count_nonzero(each[1][1]))  # the larger first
    for number, (name, there) in numbered:
        mask[there], instances[there] = name, number
    hidden = len(kept) - len(np.unique(instances[instances > 0]))
    told = {
        "objects without a pixel were left out": lost,
        "pixels of several objects were given to the smaller one": int((counted > 1).sum()),
        "objects have no pixel left, others cover them": hidden,
    }
    return mask, instances, tuple(f"{count} {what}" for what, count in told.items() if count)


def by_boxes(mask: np.ndarray, boxes: Sequence[Box]) -> tuple[np.ndarray, tuple[str, ...]]:
    """Return the instance map of a mask (H, W) of one class whose objects are known by their boxes, and its flaws.

    Each pixel of the mask goes to the box that holds it; where several do, to the one whose centre is nearest relative
    to the size of the box. Objects that touch are told apart by this rule alone, not by their true border.

    Raises:
        Unreadable: a pixel of the mask lies in no box.
    """
    nearest = np.full(mask.shape, np.inf)
    instances = np.zeros(mask.shape, np.uint16)
    for number, box in enumerate(boxes, 1):
        x0, y0, x1, y1 = *map(math.floor, box[:2]), *map(math.ceil, box[2:])
        here = slice(y0, y1), slice(x0, x1)
        down = (np.arange(y0, y1) + 0.5 - (y0 + y1) / 2) / (y1 - y0)
        right = (np.arange(x0, x1) + 0.5 - (x0 + x1) / 2) / (x1 - x0)
        distance = down[:, None] ** 2 + right**2
        closer = (mask[here] > 0) & (distance < nearest[here])
        nearest[here][closer], instances[here][closer] = distance[closer], number
    if outside := int(((mask > 0) & (instances == 0)).sum()):
        raise Unreadable(f"{outside} pixels of its mask lie in none of its {len(boxes)} boxes")
    without = len(boxes) - len(np.unique(instances[instances > 0]))
    return instances, (f"{without} boxes have no pixel of the mask for themselves",) if without else ()


def boxes_of(instances: np.ndarray) -> tuple[Box, ...]:
    """Return the box of each object of an instance map, in the order of their numbers."""
    found = []
    for number in np.unique(instances[instances > 0]):
        rows, columns = np.nonzero(instances == number)
        found.append((int(columns.min()), int(rows.min()), int(columns.max()) + 1, int(rows.max()) + 1))
    return tuple(found)


def within(
    boxes: Sequence[Sequence[float]], names: Sequence[str], size: tuple[int, ...]
) -> tuple[tuple[Box, ...], tuple[str, ...], tuple[str, ...]]:
    """Return boxes, their names, and flaws: some are left out, and those that are too large are cut."""
    kept, flaws = dict[tuple[Box, str], None](), Counter[str]()
    height, width = size[:2]
    for (x0, y0, x1, y1), name in zip(boxes, names, strict=True):
        if not np.isfinite((x0, y0, x1, y1)).all():
            flaws["boxes whose corners are no numbers were left out"] += 1
        elif x1 < x0 or y1 < y0:
            flaws["boxes that end before they begin were left out"] += 1
        elif x1 == x0 or y1 == y0:
            flaws["boxes of no size were left out"] += 1
        elif x1 <= 0 or y1 <= 0 or x0 >= width or y0 >= height:
            flaws["boxes outside of the image were left out"] += 1
        else:
            inside = (max(x0, 0), max(y0, 0), min(x1, width), min(y1, height))
            if inside != (x0, y0, x1, y1):
                flaws["boxes reach beyond the image and were cut"] += 1
            if (inside, name) in kept:  # of which no more than one could be found
                flaws["boxes stood there twice and count once"] += 1
            kept[inside, name] = None
    found, found_names = zip(*kept, strict=True) if kept else ((), ())
    return found, found_names, tuple(f"{count} {what}" for what, count in flaws.items())


def _palette_bits(content: bytes) -> int:
    """Return how many bits an index into the palette of a PNG file has; 0 where it has no palette."""
    return content[24] if content.startswith(PNG) and len(content) > 33 and content[25] == PALETTE else 0


def _without_palette(content: bytes) -> bytes:
    """Return a PNG file with a palette as one whose gray levels are the indices."""
    header = content[12:25] + bytes([GRAY]) + content[26:29]
    content = content[:12] + header + struct.pack(">I", zlib.crc32(header)) + content[33:]
    kept, place = [PNG], len(PNG)
    while place + 8 <= len(content):
        (length,) = struct.unpack(">I", content[place : place + 4])
        if content[place + 4 : place + 8] not in (b"PLTE", b"tRNS"):
            kept.append(content[place : place + 12 + length])
        place += 12 + length
    return b"".join(kept)
