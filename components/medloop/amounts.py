"""What tasks share whose labels are how much of each class an image holds (N, C): pixels of its mask, or boxes."""

from collections.abc import Mapping, Sequence

import numpy as np

from medloop import measures, params


def fitted(labels: np.ndarray) -> dict[str, float]:  # noqa: ARG001
    """Return nothing: what is drawn on images needs no constants."""
    return {}


def scaled(labels: np.ndarray, target: Mapping[str, float]) -> np.ndarray:  # noqa: ARG001
    """Return masks, or boxes, as the loss takes them: as they are."""
    return labels


def rarest(labels: np.ndarray, groups: np.ndarray) -> int:
    """Return the number of clusters `groups` (N,) with an image of the class of `labels` (N, C) that has the fewest."""
    found = [len(np.unique(groups[column > 0])) for column in labels.T if column.any()]
    return min(found, default=len(np.unique(groups)))


def too_few(labels: np.ndarray, classes: Sequence[str], rule: params.Promote) -> str | None:
    """Return why `promote` cannot decide on images with these amounts (N, C), or None."""
    return measures.too_few((labels > 0).sum(axis=0), classes, rule.min_per_class)
