"""Whether images that a model made are copies of images that it learned from.

An image is too near to a train image where the distance of their pixels is below what only QUANTILE of the train images
keep from their nearest neighbour, or where `twins` finds that both are one picture: mirrored, shifted, or in another
brightness. Train images that are copies of one another (some data sets have many) are no neighbours in this: else the
limit would be the distance of copies, which nothing but a copy of a copy would fall below.
"""

from dataclasses import dataclass
from itertools import chain

import numpy as np

from medloop import params, twins

QUANTILE = 0.01
BLOCK = 1024  # images compared with all others at once


@dataclass(frozen=True)
class Nearest:
    """Of each of some images the nearest of others."""

    distance: np.ndarray  # (M,) root mean square over pixels, in gray levels of 255
    place: np.ndarray  # (M,) among the others; -1: there is none


def nearest(images: np.ndarray, others: np.ndarray, apart: np.ndarray | None = None) -> Nearest:
    """Return the nearest of `others` (N, H, W, C) of each of images (M, H, W, C), uint8.

    Args:
        images: of which the neighbours are looked for.
        others: among which.
        apart: (P, 2) pairs of places, of an image and of another, that are no neighbours of one another.
    """
    flat = others.reshape(len(others), -1).astype(np.float64)
    squares = np.square(flat).sum(axis=1)
    distances, places = [], []
    for begin in range(0, len(images), BLOCK):
        block = images[begin : begin + BLOCK].reshape(-1, flat.shape[1]).astype(np.float64)
        found = np.square(block).sum(axis=1)[:, None] + squares - 2 * block @ flat.T
        if apart is not None:
            here = apart[(apart[:, 0] >= begin) & (apart[:, 0] < begin + len(block))]
            found[here[:, 0] - begin, here[:, 1]] = np.inf
        place = found.argmin(axis=1)
        least = found[np.arange(len(block)), place]
        distances.append(np.sqrt(np.maximum(least, 0) / flat.shape[1]))
        places.append(np.where(np.isfinite(least), place, -1))
    return Nearest(np.concatenate(distances), np.concatenate(places))


def copies(images: np.ndarray, others: np.ndarray) -> np.ndarray:
    """Return the pairs (P, 2) of places in images (M, H, W, C) and in `others` (N, H, W, C) that are one picture."""
    both = twins.prepared(chain(images, others), len(images) + len(others), min(images.shape[1:3]))
    found = twins.find(both, np.arange(len(images)), np.arange(len(images), len(both)), params.LeakThresholds())
    return found[["a", "b"]].to_numpy(np.int64) - [0, len(images)]


def among(images: np.ndarray) -> tuple[Nearest, int]:
    """Return the nearest other picture of each of images (N, H, W, C), and how many of them have a copy among them."""
    same = copies(images, images)
    itself = np.stack([np.arange(len(images))] * 2, axis=1)
    twice = len(np.unique(same[same[:, 0] != same[:, 1]]))
    return nearest(images, images, np.unique(np.concatenate([itself, same, same[:, ::-1]]), axis=0)), twice


def limit(known: np.ndarray) -> float:
    """Return the distance below which an image is too near, by those (N,) of `among` the train images."""
    finite = known[np.isfinite(known)]
    return float(np.quantile(finite, QUANTILE)) if len(finite) else 0.0
