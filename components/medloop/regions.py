"""Regions of an image as COCO stores them: polygons and run lengths.

Source: the format as the COCO API defines it (pycocotools, maskApi.c); columns come first in run lengths.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from medloop.imaging import Unreadable


def region(stored: Any, size: tuple[int, ...]) -> np.ndarray:
    """Return what a `segmentation` covers, (H, W) bool.

    Args:
        stored: polygons [[x, y, x, y, ...], ...] whose union counts, or {"size": [H, W], "counts": ...} with run
            lengths as a list, or compressed, as a string.
        size: height and width of the image.

    Raises:
        Unreadable: it is none of these, or of another size.
    """
    if isinstance(stored, Mapping):
        if list(stored.get("size") or []) != list(size):
            raise Unreadable(f"run lengths must be of {list(size)} like their image, got another size")
        counts = stored.get("counts")
        return of_runs(uncompressed(counts) if isinstance(counts, str) else counts, size)
    if not isinstance(stored, Sequence) or isinstance(stored, str):
        raise Unreadable("a segmentation must be polygons or run lengths")
    covered = np.zeros(size, bool)
    for polygon in stored:
        covered |= of_polygon(polygon, size)
    return covered


def of_runs(counts: Any, size: tuple[int, ...]) -> np.ndarray:
    """Return (H, W) bool of run lengths, of pixels outside and inside in turn, down the columns."""
    runs = np.asarray(counts if isinstance(counts, list) else [], np.float64)
    if runs.ndim != 1 or (runs < 0).any() or (runs % 1).any() or runs.sum() != size[0] * size[1]:
        raise Unreadable("run lengths must be whole numbers that add up to the pixels of the image")
    inside = np.arange(len(runs)) % 2 == 1
    return np.repeat(inside, runs.astype(np.int64)).reshape(size[1], size[0]).T.copy()


def uncompressed(text: str) -> list[int]:
    """Return the run lengths of a compressed string: five bits a character, and from the third on differences."""
    counts: list[int] = []
    value = shift = 0
    for character in text.encode("ascii", "replace"):
        bits = character - 48
        if not 0 <= bits < 64:
            raise Unreadable("compressed run lengths hold a character that is none of theirs")
        value |= (bits & 31) << shift
        shift += 5
        if bits & 32:
            continue
        if bits & 16:  # negative
            value -= 1 << shift
        counts.append(value + (counts[-2] if len(counts) > 2 else 0))
        value = shift = 0
    if shift:
        raise Unreadable("compressed run lengths end within a number")
    return counts


def of_polygon(polygon: Any, size: tuple[int, ...]) -> np.ndarray:
    """Return (H, W) bool: the pixels whose centre lies inside a polygon [x, y, x, y, ...], by the even-odd rule."""
    try:
        corners = np.asarray(polygon, np.float64).reshape(-1, 2)
    except (TypeError, ValueError):
        corners = np.empty((0, 2))
    if len(corners) < 3 or not np.isfinite(corners).all():
        raise Unreadable("a polygon must have at least three corners of two numbers each")
    height, width = size
    crossed = np.zeros((height, width + 1), np.int64)
    for (x0, y0), (x1, y1) in zip(corners, np.roll(corners, -1, axis=0), strict=True):
        low, high = sorted((y0, y1))  # rows whose centre lies in [low, high)
        rows = np.arange(max(int(np.ceil(low - 0.5)), 0), min(int(np.ceil(high - 0.5)), height))
        if not len(rows):
            continue
        x = x0 + (rows + 0.5 - y0) * (x1 - x0) / (y1 - y0)
        first = np.clip(np.ceil(x - 0.5), 0, width).astype(np.int64)  # pixel whose centre lies right of the edge
        np.add.at(crossed, (rows, first), 1)
    return np.asarray(np.cumsum(crossed, axis=1)[:, :width] % 2 == 1)
