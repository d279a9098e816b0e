"""Finds the same volume twice, re-encoded, shifted by a voxel, mirrored, or in another brightness or contrast.

Seen along an axis a volume is a picture like a radiograph, and two volumes that are one are the same picture along all
three: `twins` compares every pair so. Bodies of one outline may agree in that too; what is left is compared on the
detail of the voxels themselves, in the place and the mirror where it agrees best.
"""

import itertools
from collections.abc import Iterable, Sequence
from typing import Any

import cv2
import numpy as np
import pandas as pd

from medloop import manifest, params, twins, volumes

VIEWS_PX = (24, 96)  # volumes are compared by square views of their own size within these,
CUBE = (24, 48)  # and then as cubes with as many voxels a side within these
FINE, COARSE = 0.5, 1.2  # voxels: detail lies between these two Gaussian blurs
AGREEMENT = 0.75  # correlation of detail in three dimensions: bodies of one outline, with nothing in them, reach 0.72


def find(
    rows: pd.DataFrame,
    values: manifest.Values,
    sides: Sequence[tuple[np.ndarray, np.ndarray]],
    thresholds: params.LeakThresholds,
) -> pd.DataFrame:
    """Return the pairs that are one volume: columns `a`, `b` (places in `rows`) and `correlation`.

    Each place of the first of two `sides` is compared with each of the second. `correlation` is that of the view which
    agrees least.
    """
    usual = int(np.median([min(shape) for shape in rows["shape"]]))
    views = _views(values.each(rows), len(rows), int(np.clip(usual, *VIEWS_PX)))
    found = pd.concat([_alike(views, a, b, thresholds) for a, b in sides], ignore_index=True)
    table = list[Any](rows.itertuples())
    side = int(np.clip(usual, *CUBE))
    pairs = found[["a", "b"]].to_numpy(np.int64)
    same = [_agreement(values[table[a]], values[table[b]], side) > AGREEMENT for a, b in pairs]
    return found[np.array(same, bool)].reset_index(drop=True)


def _views(each: Iterable[np.ndarray], count: int, size: int) -> np.ndarray:
    """Return (N, 3, S, S) float32: the sums along each axis, of zero mean and unit variance; constant ones are zeros.

    What lies in the middle of an axis counts most, and less and less towards its ends, so that there is detail to
    compare and a shift by a voxel changes little.
    """

    def three(volume: np.ndarray) -> np.ndarray:
        views = np.empty((3, size, size), np.float32)
        for axis, side in enumerate(volume.shape):
            seen = np.tensordot(np.hanning(side + 2)[1:-1].astype(np.float32), volume, (0, axis))
            view = cv2.resize(seen.astype(np.float32), (size, size), interpolation=cv2.INTER_AREA)
            view -= view.mean()
            views[axis] = view / max(float(view.std()), 1e-3)
        return views

    return twins.scratch(map(three, each), (count, 3, size, size))


def _alike(views: np.ndarray, first: np.ndarray, second: np.ndarray, thresholds: params.LeakThresholds) -> pd.DataFrame:
    """Return the pairs of which all three views are the same picture."""
    found = pd.concat([twins.find(views[:, axis], first, second, thresholds) for axis in range(views.shape[1])])
    pairs = found.groupby(["a", "b"], as_index=False)["correlation"].agg(["min", "size"])
    return pairs[pairs["size"] == views.shape[1]][["a", "b", "min"]].rename(columns={"min": "correlation"})


def _agreement(first: np.ndarray, second: np.ndarray, side: int) -> float:
    """Return the correlation of the detail of two volumes (D, H, W), the best over shifts and mirrors."""
    one, other = _detail(first, side), _detail(second, side)
    wanted = np.conj(np.fft.rfftn(one))
    best = -1.0
    for signs in itertools.product((1, -1), repeat=3):
        mirrored = other[tuple(slice(None, None, sign) for sign in signs)]
        best = max(best, float(np.fft.irfftn(wanted * np.fft.rfftn(mirrored), one.shape, axes=(0, 1, 2)).max()))
    return best


def _detail(volume: np.ndarray, side: int) -> np.ndarray:
    """Return what lies between the two blurs of a volume as a cube of `side` voxels, of zero mean and unit length.

    The border of a bone is a hundred times as strong as that of a vessel: it must not speak for the whole volume.
    """
    from scipy.ndimage import gaussian_filter

    cube = volumes.resampled(volume.astype(np.float32), [side] * 3, [have / side for have in volume.shape])
    detail = gaussian_filter(cube, FINE) - gaussian_filter(cube, COARSE)
    size = np.abs(detail)
    detail = detail / np.maximum(size + size.mean(), 1e-6)
    detail = detail - detail.mean()
    return np.asarray(detail / max(float(np.linalg.norm(detail)), 1e-6))
