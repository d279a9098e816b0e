"""Metrics of classes under sample weights, of which the tasks choose: all resamples of a bootstrap at once."""

from collections.abc import Sequence

import numpy as np

ECE_BINS = 10  # of equal width, closed on the right, as in scikit-learn's calibration_curve


def of_classes(
    labels: np.ndarray,
    probabilities: np.ndarray,
    decisions: np.ndarray,
    *,
    positive: int,
    weights: np.ndarray | None = None,
) -> dict[str, np.ndarray]:
    """Return each metric of classes under each row of sample weights, as (R,) float64; NaN where it is undefined.

    Args:
        labels: (N,) class indices.
        probabilities: (N, classes).
        decisions: (N,) class indices.
        positive: index of the class that sensitivity speaks of, where there are two classes.
        weights: (R, N) sample weights, e.g. how often a bootstrap drew each sample; None: (1, N) ones.
    """
    weights = np.ones((1, len(labels))) if weights is None else weights
    total = weights.sum(axis=1)
    return {
        "auc": auc(labels, probabilities, weights, positive=positive),
        **_of_decisions(labels, decisions, weights, probabilities.shape[1], positive),
        "brier": weights @ _squared_errors(labels, probabilities, positive) / total,
        "ece": np.abs(weights @ _calibration_gaps(labels, probabilities, positive)).sum(axis=1) / total,
    }


def auc(labels: np.ndarray, probabilities: np.ndarray, weights: np.ndarray, *, positive: int = -1) -> np.ndarray:
    """Return the area under the ROC curve (R,) for sample weights (R, N); NaN where a class has no weight.

    Two classes: of the positive class's column (MedMNIST's evaluator takes the last). More: mean of one against rest.
    """
    classes = probabilities.shape[1]
    chosen = [positive % classes] if classes == 2 else range(classes)
    return np.mean([binary_auc(labels == index, probabilities[:, index], weights) for index in chosen], axis=0)


def signal(probabilities: np.ndarray, labels: np.ndarray, positive: int) -> tuple[np.ndarray, np.ndarray]:
    """Return the probability (N,) that calibration is about, and whether (N,) what it speaks of came true.

    Two classes: the positive class's. More: the likeliest class's.
    """
    if probabilities.shape[1] == 2:
        return probabilities[:, positive], labels == positive
    top = probabilities.argmax(axis=1)
    return probabilities[np.arange(len(top)), top], labels == top


def calibration_bin(probability: np.ndarray) -> np.ndarray:
    """Return the index (N,) of the calibration bin of each probability (N,)."""
    return np.searchsorted(np.linspace(0, 1, ECE_BINS + 1)[1:-1], probability)


def confusion(labels: np.ndarray, decisions: np.ndarray, weights: np.ndarray, classes: int) -> np.ndarray:
    """Return the weighted counts (R, classes, classes) of true class by decided class."""
    cells = np.eye(classes**2)[labels * classes + decisions]  # (N, classes²)
    return (weights @ cells).reshape(len(weights), classes, classes)


def quadratic_kappa(counts: np.ndarray) -> np.ndarray:
    """Return Cohen's kappa (R,) with quadratic weights of counts (R, K, K); NaN where labels and decisions are alike.

    Source: Cohen, Weighted kappa, 1968.
    """
    grade = np.arange(counts.shape[1])
    cost = (grade[:, None] - grade) ** 2
    by_chance = counts.sum(axis=2)[:, :, None] * counts.sum(axis=1)[:, None] / counts.sum(axis=(1, 2))[:, None, None]
    with np.errstate(invalid="ignore", divide="ignore"):
        return 1 - (counts * cost).sum(axis=(1, 2)) / (by_chance * cost).sum(axis=(1, 2))


def average_precision(truth: np.ndarray, scores: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """Return the mean over positives of the precision at their score (R,); equal scores count together."""
    order = np.argsort(-scores, kind="stable")
    last = np.flatnonzero(np.append(np.diff(scores[order]) != 0, True))
    drawn = weights[:, order]
    hits = np.cumsum(drawn * truth[order], axis=1)[:, last]
    called = np.cumsum(drawn, axis=1)[:, last]
    with np.errstate(invalid="ignore", divide="ignore"):
        precision = np.where(called > 0, hits / called, 0)
        return (np.diff(hits, axis=1, prepend=0) * precision).sum(axis=1) / hits[:, -1]


def too_few(counts: np.ndarray, classes: Sequence[str], least: int) -> str | None:
    """Return why these numbers of samples of each class are too few to decide on a promotion, or None."""
    fewest = int(counts.argmin())
    if counts[fewest] >= least:
        return None
    return (
        f"cannot decide, {counts[fewest]} test samples of class {classes[fewest]} are fewer than "
        f"promote.min_per_class {least}"
    )


def binary_auc(truth: np.ndarray, scores: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """Return the weighted share (R,) of pairs whose positive scores higher; a tie counts one half."""
    order = np.flatnonzero(~truth)[np.argsort(scores[~truth], kind="stable")]
    below = np.zeros((len(weights), len(order) + 1))  # weight of the negatives before each place in `order`
    np.cumsum(weights[:, order], axis=1, out=below[:, 1:])
    lower = np.searchsorted(scores[order], scores[truth], "left")
    upper = np.searchsorted(scores[order], scores[truth], "right")
    drawn = weights[:, truth]
    wins = np.einsum("rn,rn->r", drawn, below[:, lower] + below[:, upper]) / 2
    with np.errstate(invalid="ignore"):
        return wins / (drawn.sum(axis=1) * below[:, -1])


def _of_decisions(
    labels: np.ndarray, decisions: np.ndarray, weights: np.ndarray, classes: int, positive: int
) -> dict[str, np.ndarray]:
    counts = confusion(labels, decisions, weights, classes)  # (R, true, decided)
    total = counts.sum(axis=(1, 2))[:, None]
    actual, decided = counts.sum(axis=2), counts.sum(axis=1)  # (R, classes)
    hit = np.diagonal(counts, axis1=1, axis2=2)
    rejected = total - actual - decided + hit
    with np.errstate(invalid="ignore"):
        by_class = {
            "sensitivity": hit / actual,
            "specificity": rejected / (total - actual),
            "ppv": hit / decided,
            "npv": rejected / (total - decided),
            "f1": 2 * hit / (actual + decided),
        }
    pick = (lambda values: values[:, positive]) if classes == 2 else (lambda values: values.mean(axis=1))
    return {
        "accuracy": hit.sum(axis=1) / total[:, 0],
        "balanced_accuracy": by_class["sensitivity"].mean(axis=1),
        **{name: pick(values) for name, values in by_class.items()},
    }


def _squared_errors(labels: np.ndarray, probabilities: np.ndarray, positive: int) -> np.ndarray:
    """Return each sample's Brier score (N,): 0 to 1 with two classes, the sum over classes (0 to 2) with more."""
    if probabilities.shape[1] == 2:
        return (probabilities[:, positive] - (labels == positive)) ** 2
    return ((probabilities - np.eye(probabilities.shape[1])[labels]) ** 2).sum(axis=1)


def _calibration_gaps(labels: np.ndarray, probabilities: np.ndarray, positive: int) -> np.ndarray:
    """Return (N, bins): probability minus outcome of each sample, in the column of its bin."""
    probability, came_true = signal(probabilities, labels, positive)
    return np.eye(ECE_BINS)[calibration_bin(probability)] * (probability - came_true)[:, None]
