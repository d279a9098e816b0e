"""The kernel distance (KID) between two sets of images: how well a test tells them apart by the features of a network.

The features of every image of the one set are kept beside what the other set says of it, so that the distance can be
computed for any weights of the images: of a resample of the patients, say.

Source: Binkowski et al., Demystifying MMD GANs, 2018: the unbiased estimate of the squared maximum mean discrepancy,
with the kernel (x y / F + 1)^3. Being unbiased it may fall below zero where the sets are of one distribution.
"""

import numpy as np

BLOCK = 4096  # images whose kernel with others is held at once


def kernel(first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """Return (N, M) float64 of features (N, F) and (M, F)."""
    return (first.astype(np.float64) @ second.astype(np.float64).T / first.shape[1] + 1) ** 3


def own(features: np.ndarray) -> float:
    """Return the mean kernel of two different ones of features (N, F), N at least 2."""
    count, total = len(features), 0.0
    for begin in range(0, count, BLOCK):
        total += float(kernel(features[begin : begin + BLOCK], features).sum())
    alone = (np.square(features.astype(np.float64)).sum(axis=1) / features.shape[1] + 1) ** 3
    return (total - float(alone.sum())) / (count * (count - 1))


def cross(features: np.ndarray, others: np.ndarray) -> np.ndarray:
    """Return the mean kernel (N,) of each of features (N, F) with all of `others` (M, F)."""
    parts = [kernel(features[begin : begin + BLOCK], others).mean(axis=1) for begin in range(0, len(features), BLOCK)]
    return np.concatenate(parts)


def weighted(features: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """Return the mean kernel (R,) of two different images of features (N, F), drawn by weights (R, N).

    Of an image that a resample drew twice the two are no pair: they would make any set look narrow. NaN where one image
    has all the weight. Memory: N x N numbers.
    """
    found = kernel(features, features)
    np.fill_diagonal(found, 0)
    pairs = weights.sum(axis=1) ** 2 - np.square(weights).sum(axis=1)
    with np.errstate(invalid="ignore", divide="ignore"):
        return np.where(pairs > 0, np.einsum("rn,rn->r", weights @ found, weights) / pairs, np.nan)


def distance(features: np.ndarray, crossed: np.ndarray, other: float, weights: np.ndarray) -> np.ndarray:
    """Return KID (R,) under weights (R, N) of the images of features (N, F).

    Args:
        features: of the images that have weights.
        crossed: (N,) of `cross` with the other set.
        other: of `own` of the other set.
        weights: e.g. how often a bootstrap drew each image.
    """
    return weighted(features, weights) + other - 2 * (weights @ crossed) / weights.sum(axis=1)
