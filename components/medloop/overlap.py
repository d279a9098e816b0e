"""How two masks agree: by the pixels that they share, and by the distance between their edges.

Where both masks are empty, Dice, IoU and NSD are 1 and the distance is 0; where one of them is, Dice, IoU and NSD are 0
and the distance is the image's diagonal.

Source: Maier-Hein, Reinke et al., Metrics reloaded, 2024.
"""

from typing import NamedTuple

import numpy as np
from scipy import ndimage

CROSS = ndimage.generate_binary_structure(2, 1)  # the four neighbours of a pixel


class Surfaces(NamedTuple):
    """How far the edges of two masks are apart."""

    hd95: float  # the larger of the two 95th percentiles, from each edge to the other mask's
    nsd: float  # share of both edges that lies within the tolerance of the other mask's
    near: float  # pixels of both edges that do
    pixels: float  # of both edges


def counts(truth: np.ndarray, predicted: np.ndarray, classes: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return what both masks share, the predicted and the true area of each class, (C,) int64 pixels.

    Args:
        truth: (H, W) class indices, 0 for the background.
        predicted: likewise.
        classes: how many there are without the background.
    """
    values = classes + 1
    table = np.bincount(truth.ravel().astype(np.int64) * values + predicted.ravel(), minlength=values**2)
    table = table.reshape(values, values)
    return np.diagonal(table)[1:].copy(), table.sum(axis=0)[1:], table.sum(axis=1)[1:]


def dice(shared: np.ndarray, predicted: np.ndarray, true: np.ndarray) -> np.ndarray:
    """Return 2 |A and B| / (|A| + |B|) of areas of any one shape, 1 where both masks are empty."""
    total = np.asarray(predicted, np.float64) + true
    return np.divide(2 * shared, total, out=np.ones_like(total), where=total > 0)


def iou(shared: np.ndarray, predicted: np.ndarray, true: np.ndarray) -> np.ndarray:
    """Return |A and B| / |A or B| of areas of any one shape, 1 where both masks are empty."""
    union = np.asarray(predicted, np.float64) + true - shared
    return np.divide(shared, union, out=np.ones_like(union), where=union > 0)


def surfaces(
    truth: np.ndarray, predicted: np.ndarray, *, tolerance: float, spacing: tuple[float, float] = (1.0, 1.0)
) -> Surfaces:
    """Return the distances between the edges of two masks (H, W) of bool, in the unit of `spacing`.

    The edge of a mask is those of its pixels that have one of the four neighbours outside it, or beyond the image;
    a distance is that of the middles of two pixels.

    Args:
        truth: the true mask.
        predicted: the predicted one.
        tolerance: up to which an edge counts as found, in the same unit.
        spacing: of rows and of columns.

    Source: Nikolov et al., Clinically applicable segmentation of head and neck anatomy, 2021, for the NSD.
    """
    if not truth.any() and not predicted.any():
        return Surfaces(0.0, 1.0, 0, 0)
    if not truth.any() or not predicted.any():
        missed = int(edge(truth | predicted).sum())
        return Surfaces(float(np.hypot(*np.multiply(truth.shape, spacing))), 0.0, 0, missed)
    rows, columns = (np.flatnonzero((truth | predicted).any(axis=axis)) for axis in (1, 0))
    here = slice(rows[0], rows[-1] + 1), slice(columns[0], columns[-1] + 1)
    edges = [edge(mask[here]) for mask in (truth, predicted)]
    away = [ndimage.distance_transform_edt(~each, spacing)[other] for each, other in (edges, edges[::-1])]
    near, pixels = sum(int((each <= tolerance).sum()) for each in away), sum(map(len, away))
    return Surfaces(float(max(np.percentile(each, 95) for each in away)), near / pixels, near, pixels)


def edge(mask: np.ndarray) -> np.ndarray:
    """Return the pixels (H, W) of a mask that lie at its edge."""
    return mask & ~ndimage.binary_erosion(mask, CROSS)
