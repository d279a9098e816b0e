"""Two samples as one: their values and their labels in the same proportion.

Source: Zhang et al., mixup: Beyond empirical risk minimization, 2017.
"""

import numpy as np


def inputs(first: np.ndarray, second: np.ndarray, share: np.ndarray, *, mask: bool = False) -> np.ndarray:
    """Return `share` (N,) of the first inputs (N, ...) plus the rest of the second ones; whole numbers are rounded.

    With a `mask` their last channel says what is real of them: here it is what is real of one of both.
    """
    part = share.astype(np.float32).reshape(-1, *[1] * (first.ndim - 1))
    mixed = part * first + (1 - part) * second
    if mask:
        mixed[..., -1] = np.maximum(first[..., -1], second[..., -1])
    return (np.rint(mixed) if first.dtype.kind in "iu" else mixed).astype(first.dtype)


def labels(
    classes: np.ndarray, weights: np.ndarray, first: np.ndarray, second: np.ndarray, share: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Return the share of each class (N, classes) float32, and the weight (N, ..) float32, of pairs.

    The loss of a pair is then `share` of the first sample's weighted loss plus the rest of the second one's.

    Args:
        classes: class indices of all samples (N,), or 1 (N, classes) for each label that they have.
        weights: of all samples (N,), or of each of their labels (N, classes).
        first: (N,) one sample of each pair.
        second: (N,) the other one.
        share: (N,) of the first one, 0 to 1.
    """
    part = share.reshape(-1, *[1] * (weights.ndim - 1))
    one, other = part * weights[first], (1 - part) * weights[second]
    known = [
        classes[rows] if classes.ndim > 1 else np.eye(classes.max() + 1)[classes[rows]] for rows in (first, second)
    ]
    total = one + other
    each = one.shape if weights.ndim > 1 else (-1, 1)
    mixed = (one.reshape(each) * known[0] + other.reshape(each) * known[1]) / total.reshape(each)
    return mixed.astype(np.float32), total.astype(np.float32)
