"""Finds the same picture twice, re-encoded, shifted by a pixel, mirrored, or in another brightness or contrast.

Images of one kind all look alike (chest radiographs of two patients correlate up to .95), so pixels alone do not tell
twins from neighbours, and hashes of 64 bits tell less. Two images count as one where, aligned, both their pixels and
their detail agree: what is left of them once the smooth anatomy is taken away. Every pair is compared: by short
descriptors in blocks of matrix products first, and the few candidates left on their pixels.
"""

import math
import os
import tempfile
from collections.abc import Iterable, Iterator, Sequence

import cv2
import numpy as np
import pandas as pd

from medloop import manifest, params

SIDES_PX = (28, 96)  # images are compared at their own size within these
MARGIN_PX = 3  # left out all round: what a shift brings in at the border is no part of the picture
SHIFT_PX = 2  # searched in each direction
FINE, COARSE = 0.5, 1.2  # pixels: detail lies between these two Gaussian blurs
DESCRIBED_PX = 64  # larger images are described as if they had this size,
GRID = 12 / 28  # with so many rows of detail for each of theirs,
WHOLE = 12  # and so many rows of everything
HALFWAY_LOSS = 0.05  # of correlation, by standing half a pixel off
FIRST, SECOND = 512, 256  # images compared in one block: 5 windows of each of the first, 2.5 MB of products
ROUGH = 4096  # candidates looked at once
PAIRS = 512  # those confirmed at once
PICKED = 64  # images read from a scratch file before its memory is let go
WRITTEN = 1000  # images written to a scratch file before its memory is let go


def scratch(each: Iterable[np.ndarray], shape: tuple[int, ...]) -> np.ndarray:
    """Return images (N, ...) as an array of this shape, float32, in a file without a name, which goes with it.

    Raises:
        OSError: no room for it; writing to a mapped file that finds none would kill the process.
    """
    with tempfile.TemporaryFile() as file:
        os.posix_fallocate(file.fileno(), 0, 4 * math.prod(shape))
        images = np.memmap(file, np.float32, "r+", shape=shape)
    for place, image in enumerate(each):
        images[place] = image
        if place % WRITTEN == 0:
            manifest.let_go(images)
    return images


def prepared(each: Iterable[np.ndarray], count: int, side: float) -> np.ndarray:
    """Return `count` images (H, W), (H, W, 1) or (H, W, 3) as `find` compares them, in a file without a name.

    Returns gray images (count, S, S) float32 of zero mean and unit variance, a constant one zeros; S is `side`, held
    within SIDES_PX.
    """
    side = int(np.clip(side, *SIDES_PX))
    return scratch((_small(image, side) for image in each), (count, side, side))


def find(images: np.ndarray, first: np.ndarray, second: np.ndarray, thresholds: params.LeakThresholds) -> pd.DataFrame:
    """Return the pairs that are one picture: columns `a`, `b` (positions in `images`) and `correlation`.

    Each image of `first` is compared with each of `second`, both positions in `images`: (N, S, S) float32, gray, of
    zero mean and unit variance, S at least 24.
    """
    confirmed = [pd.DataFrame({"a": np.empty(0, int), "b": np.empty(0, int), "correlation": np.empty(0, np.float32)})]
    for a, b, mirror in _candidates(images, first, second, thresholds):
        for start in range(0, len(a), PAIRS):
            part = slice(start, start + PAIRS)
            one, other = _picked(images, a[part]), _picked(images, b[part])
            same, correlation = _same(_mirrored(one, mirror), other, thresholds)
            confirmed.append(pd.DataFrame({"a": a[part][same], "b": b[part][same], "correlation": correlation}))
    best = pd.concat(confirmed).sort_values("correlation", ascending=False, kind="stable").drop_duplicates(["a", "b"])
    return best.sort_values(["a", "b"], ignore_index=True)


def _small(image: np.ndarray, side: int) -> np.ndarray:
    fitted = cv2.resize(image, (side, side), interpolation=cv2.INTER_AREA)
    gray = fitted.astype(np.float32) if fitted.ndim == 2 else fitted.mean(axis=2, dtype=np.float32)
    gray -= gray.mean()
    return np.asarray(gray / max(gray.std(), 1e-3))


def _candidates(
    images: np.ndarray, first: np.ndarray, second: np.ndarray, thresholds: params.LeakThresholds
) -> Iterator[tuple[np.ndarray, np.ndarray, int]]:
    """Yield positions of pairs whose descriptors agree, and which mirror of the first it was.

    Shifts are met halfway: of four windows half a pixel off in both directions, one is at most half a pixel from any
    shift of up to a pixel. A fifth is not shifted: of a noisy image little is left half a pixel away.
    """
    size = images.shape[1] - 2 * MARGIN_PX
    for start in range(0, len(first), FIRST):
        query = first[start : start + FIRST]
        picked = _picked(images, query)
        shifted = _descriptors(_between(picked), (MARGIN_PX - 1, MARGIN_PX), size)
        windows = [*map(np.concatenate, zip(_descriptors(picked, (MARGIN_PX,), size), shifted, strict=True))]
        for block in range(0, len(second), SECOND):
            other = second[block : block + SECOND]
            beside = _descriptors(_picked(images, other), (MARGIN_PX,), size)
            other_detail, other_whole = (_rows(grids) for grids in beside)
            for mirror in range(4):
                detail, whole = (_rows(_mirrored(grids, mirror)) for grids in windows)  # (5 Q, d) each
                row, column = np.divmod(np.flatnonzero(detail @ other_detail.T > thresholds.candidate), len(other))
                likely = _products(whole, other_whole, row, column) > thresholds.correlation - HALFWAY_LOSS
                pair = np.unique(np.stack([row[likely] % len(query), column[likely]]), axis=1)
                yield query[pair[0]], other[pair[1]], mirror


def _picked(images: np.ndarray, places: np.ndarray) -> np.ndarray:
    """Return images at `places`, a few at a time: with each page of a mapped file come those around it."""
    found = np.empty((len(places), *images.shape[1:]), images.dtype)
    for start in range(0, len(places), PICKED):
        part = slice(start, start + PICKED)
        found[part] = images[places[part]]
        manifest.let_go(images)
    return found


def _products(first: np.ndarray, second: np.ndarray, row: np.ndarray, column: np.ndarray) -> np.ndarray:
    """Return the products (P,) of rows of the first with rows of the second, a part of them at a time."""
    found = np.empty(len(row), np.float32)
    for start in range(0, len(row), ROUGH):
        part = slice(start, start + ROUGH)
        found[part] = np.einsum("pd,pd->p", first[row[part]], second[column[part]])
    return found


def _same(first: np.ndarray, second: np.ndarray, thresholds: params.LeakThresholds) -> tuple[np.ndarray, np.ndarray]:
    """Return which of the pairs (P, S, S) are one picture, their positions, and the correlation of their pixels."""
    scores = _scores(first, second)
    correlation = scores.max(axis=(1, 2))
    close = np.flatnonzero(correlation >= thresholds.correlation)
    same = close[_detail_agreement(first[close], second[close], scores[close]) >= thresholds.detail]
    return same, correlation[same]


def _detail_agreement(first: np.ndarray, second: np.ndarray, scores: np.ndarray) -> np.ndarray:
    """Return the correlation of detail (P,) of images (P, S, S), aligned where their `scores` (P, k, k) are best.

    Aligned to the pixel, or to a fraction of it, whichever agrees better: interpolation costs detail.
    """
    count, steps, size = len(scores), scores.shape[1], first.shape[1] - 2 * MARGIN_PX
    row, column = np.divmod(scores.reshape(count, steps**2).argmax(axis=1), steps)
    pair, start = np.arange(count), MARGIN_PX - SHIFT_PX
    up, left = _peak(scores[pair, :, column], row), _peak(scores[pair, row], column)  # fractions of a pixel
    agreement = np.full(count, -1.0, np.float32)
    for y, x in ((0 * up, 0 * left), (up / 2, left / 2)):  # half of it each, so that both lose as much
        moved = _detail(_cut(first, MARGIN_PX - y, MARGIN_PX - x, size))
        met = _detail(_cut(second, start + row + y, start + column + x, size))
        agreement = np.maximum(agreement, np.einsum("pi,pi->p", _unit(moved), _unit(met)))
    return agreement


def _scores(first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """Return the correlation of the core of the first with each window of the second, (P, k, k)."""
    core = _core(first)
    size, steps = core.shape[1], 2 * SHIFT_PX + 1
    wanted = _unit(core).reshape(core.shape)
    scores = np.empty((len(core), steps, steps), np.float32)
    for row, column in np.ndindex(steps, steps):
        top, left = row + MARGIN_PX - SHIFT_PX, column + MARGIN_PX - SHIFT_PX
        window = second[:, top : top + size, left : left + size]
        variance = np.einsum("pij,pij->p", window, window) - np.einsum("pij->p", window) ** 2 / size**2
        scores[:, row, column] = np.einsum("pij,pij->p", wanted, window) / np.sqrt(np.maximum(variance, 1e-3))
    return scores


def _peak(scores: np.ndarray, place: np.ndarray) -> np.ndarray:
    """Return how far off `place` (P,) the parabola through it and its neighbours in scores (P, k) has its top."""
    pair, inner = np.arange(len(place)), np.clip(place, 1, scores.shape[1] - 2)
    before, here, after = (scores[pair, inner + step] for step in (-1, 0, 1))
    bend = np.minimum(before - 2 * here + after, -1e-6)
    return np.where(inner == place, np.clip((before - after) / (2 * bend), -0.5, 0.5), 0)


def _cut(images: np.ndarray, top: np.ndarray, left: np.ndarray, size: int) -> np.ndarray:
    """Return (P, size, size) of (P, S, S) from `top`, `left` (P,) on, in fractions of a pixel, interpolated."""
    row, column = np.floor(top).astype(int), np.floor(left).astype(int)
    span = np.arange(size + 1)
    last = images.shape[1] - 1
    rows, columns = np.minimum(row[:, None] + span, last), np.minimum(column[:, None] + span, last)
    part = images[np.arange(len(images))[:, None, None], rows[:, :, None], columns[:, None, :]]
    down, right = (top - row).astype(np.float32)[:, None, None], (left - column).astype(np.float32)[:, None, None]
    part = part[:, :-1] * (1 - down) + part[:, 1:] * down
    return part[:, :, :-1] * (1 - right) + part[:, :, 1:] * right


def _unit(images: np.ndarray) -> np.ndarray:
    """Return (P, ...) as rows of zero mean and unit length; a constant image gives zeros."""
    rows = _rows(images)
    rows = rows - rows.mean(axis=1, keepdims=True)
    return rows / np.maximum(np.linalg.norm(rows, axis=1, keepdims=True), 1e-3)


def _core(images: np.ndarray) -> np.ndarray:
    return images[:, MARGIN_PX:-MARGIN_PX, MARGIN_PX:-MARGIN_PX]


def _between(images: np.ndarray) -> np.ndarray:
    """Return the means of (Q, S, S) over two by two pixels, (Q, S - 1, S - 1): half a pixel off in both directions."""
    total = images[:, 1:, 1:] + images[:, 1:, :-1]
    for other in (images[:, :-1, 1:], images[:, :-1, :-1]):
        total += other
    total /= 4
    return total


def _rows(grids: np.ndarray) -> np.ndarray:
    return grids.reshape(len(grids), grids.shape[1] * grids.shape[2])


def _mirrored(images: np.ndarray, mirror: int) -> np.ndarray:
    """Return (P, S, S) as it is (0), upside down (1), left to right (2) or both (3)."""
    rows, columns = (-1 if mirror & 1 else 1), (-1 if mirror & 2 else 1)
    return images[:, ::rows, ::columns]


def _detail(images: np.ndarray, scale: float = 1.0) -> np.ndarray:
    """Return what lies between the two blurs, (P, n, n), within -1 and 1.

    A collimator's edge or a marker is a thousand times as strong as a vessel: it must not speak for the whole image.
    """
    detail = np.empty_like(images)
    for place, image in zip(detail, images, strict=True):
        place[:] = _blur(image, FINE * scale) - _blur(image, COARSE * scale)
    size = np.abs(detail)
    size += size.mean(axis=(1, 2), keepdims=True)
    detail /= np.maximum(size, 1e-6, out=size)
    return detail


def _descriptors(images: np.ndarray, starts: Iterable[int], size: int) -> tuple[np.ndarray, np.ndarray]:
    """Return the detail and the whole of windows of (P, S, S) in few numbers.

    Windows of `size` pixels begin at each row and column of `starts`. Returns two arrays (W P, g, g), window after
    window, each grid of zero mean and unit length. A mirrored image has its grids mirrored.
    """
    side = size + 2 * MARGIN_PX
    detail = _detail(images, max(side / DESCRIBED_PX, 1))
    few = round(min(side, DESCRIBED_PX) * GRID)
    cut = [(slice(None), slice(top, top + size), slice(left, left + size)) for top in starts for left in starts]
    return _grids(detail, cut, few), _grids(images, cut, WHOLE)


def _grids(images: np.ndarray, windows: Sequence[tuple[slice, ...]], few: int) -> np.ndarray:
    """Return the means over few x few areas of each window of (P, S, S): (W P, few, few)."""
    grids = [cv2.resize(part, (few, few), interpolation=cv2.INTER_AREA) for cut in windows for part in images[cut]]
    return _unit(np.stack(grids)).reshape(-1, few, few)


def _blur(image: np.ndarray, sigma: float) -> np.ndarray:
    return cv2.GaussianBlur(image, (0, 0), sigma, borderType=cv2.BORDER_REFLECT)
