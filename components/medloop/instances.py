"""Single objects in a mask, and how well they are found.

Average precision is that of the 2018 Data Science Bowl: at each overlap from .5 to .95, step .05, the share
TP / (TP + FP + FN) of an image; the mean over the overlaps, and over the images.
"""

from collections.abc import Iterator
from typing import Any, NamedTuple

import cv2
import numpy as np
from scipy import ndimage

OVERLAPS = np.round(np.arange(0.5, 1.0, 0.05), 2)
DEPTH = 1.0  # pixels by which two objects that touch are narrower between them
SMOOTHING = 1.0  # pixels, of the landscape


class Matches(NamedTuple):
    """Objects of one image, true against predicted."""

    areas: np.ndarray  # (T,) pixels of each true object
    best: np.ndarray  # (T,) IoU of each true object with the predicted one that covers it best
    predicted: int  # objects

    def found(self, overlap: float) -> int:
        """Return how many true objects are found with more than an IoU of `overlap`, which is .5 at least.

        No two objects can then claim the same one.
        """
        return int((self.best > overlap).sum())


def watershed(mask: np.ndarray, *, depth: float = DEPTH) -> np.ndarray:
    """Return the objects (H, W) int32, 1 to n, of a mask (H, W) of bool: touching ones are cut where they are narrow.

    The landscape is the distance to the edge, smoothed a little. Every pixel goes up the steepest way, and those that
    come to one peak are one object. A peak counts where the way to a higher one goes down by at least `depth` pixels.

    Source: Grimaud, A new measure of contrast: the dynamics, 1992.
    """
    if not mask.any():
        return np.zeros(mask.shape, np.int32)
    inside = np.pad(mask.astype(np.uint8), 1)  # beyond the image there is nothing
    height = cv2.GaussianBlur(cv2.distanceTransform(inside, cv2.DIST_L2, cv2.DIST_MASK_PRECISE), (0, 0), SMOOTHING)
    height = np.where(inside, height, -1)
    own = np.flatnonzero(inside)
    peaks, basin = np.unique(_peak_of_each(height)[own], return_inverse=True)
    basins = np.full(inside.shape, -1)
    basins.ravel()[own] = basin
    joined = _joined(height.ravel()[peaks], *_saddles(basins, height), depth)
    objects = np.where(inside, joined[basins] + 1, 0)
    return renumbered(objects[1:-1, 1:-1])


def _peak_of_each(height: np.ndarray) -> np.ndarray:
    """Return where (H * W,) the steepest way up from each pixel ends, among its eight neighbours at each step."""
    own = np.arange(height.size).reshape(height.shape)
    best, up = height.copy(), own.copy()
    for here, there in _neighbours(height.shape, (-1, 0, 1)):
        higher = height[there] > best[here]
        best[here] = np.where(higher, height[there], best[here])
        up[here] = np.where(higher, own[there], up[here])
    way = up.ravel()
    while not np.array_equal(further := way[way], way):
        way = further
    return way


def _saddles(basins: np.ndarray, height: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the pairs (S, 2) of basins that touch, and how high (S,) one can stay from one to the other."""
    pairs, passes = [], []
    for here, there in _neighbours(basins.shape, (0, 1)):
        one, other = basins[here].ravel(), basins[there].ravel()
        touch = np.flatnonzero((one != other) & (one >= 0) & (other >= 0))
        pairs.append(np.sort(np.stack([one[touch], other[touch]], axis=1), axis=1))
        passes.append(np.minimum(height[here].ravel()[touch], height[there].ravel()[touch]))
    both, place = np.unique(np.concatenate(pairs), axis=0, return_inverse=True)
    highest = np.full(len(both), -np.inf)
    np.maximum.at(highest, place.ravel(), np.concatenate(passes))
    return both, highest


def _joined(peaks: np.ndarray, pairs: np.ndarray, saddles: np.ndarray, depth: float) -> np.ndarray:
    """Return for each basin (P,) the one whose object it belongs to: over the highest saddles first."""
    leader = np.arange(len(peaks))

    def of(basin: int) -> int:
        while leader[basin] != basin:
            leader[basin] = leader[leader[basin]]
            basin = leader[basin]
        return basin

    for place in np.argsort(-saddles, kind="stable"):
        low, high = sorted((of(each) for each in pairs[place]), key=lambda each: (peaks[each], -each))
        if low != high and peaks[low] - saddles[place] < depth:
            leader[low] = high
    return np.array([of(basin) for basin in range(len(peaks))])


def _neighbours(shape: tuple[int, ...], steps: tuple[int, ...]) -> Iterator[tuple[Any, Any]]:
    """Yield the parts of an array in which each pixel of the one is a neighbour of that of the other."""
    rows, columns = shape
    for down in steps:
        for right in (-1, 0, 1):
            if (down, right) != (0, 0):
                here = slice(max(0, -down), rows - max(0, down)), slice(max(0, -right), columns - max(0, right))
                there = slice(max(0, down), rows - max(0, -down)), slice(max(0, right), columns - max(0, -right))
                yield here, there


def components(mask: np.ndarray) -> np.ndarray:
    """Return the objects (H, W) int32, 1 to n, of a mask (H, W) of bool: what hangs together, corners too, is one."""
    return ndimage.label(mask, np.ones((3, 3)))[0].astype(np.int32)


def renumbered(objects: np.ndarray) -> np.ndarray:
    """Return objects (H, W) with the numbers 1 to n, 0 for none."""
    found, numbers = np.unique(objects, return_inverse=True)
    first = 0 if found[0] == 0 else 1
    return (numbers.reshape(objects.shape) + first).astype(np.int32)


def matches(truth: np.ndarray, predicted: np.ndarray) -> Matches:
    """Return how well each true object is met; both (H, W) hold the numbers 0 (none) and 1 to n."""
    rows, columns = int(truth.max()) + 1, int(predicted.max()) + 1
    shared = np.bincount(truth.ravel().astype(np.int64) * columns + predicted.ravel(), minlength=rows * columns)
    shared = shared.reshape(rows, columns)
    areas, others = shared.sum(axis=1)[1:], shared.sum(axis=0)[1:]
    union = areas[:, None] + others - shared[1:, 1:]
    share = shared[1:, 1:] / np.maximum(union, 1)
    best = share.max(axis=1) if columns > 1 else np.zeros(rows - 1)
    return Matches(areas, best, columns - 1)


def average_precision(found: Matches) -> float:
    """Return the mean over OVERLAPS of TP / (TP + FP + FN); 1 where there is no object and none is predicted."""
    true = len(found.areas)
    if not true and not found.predicted:
        return 1.0
    hits = np.array([found.found(overlap) for overlap in OVERLAPS])
    return float(np.mean(hits / (true + found.predicted - hits)))
