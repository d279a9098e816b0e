"""One label per image: loss, gating metric, and the metrics of a report.

With two classes the metrics speak of the positive class. With more, AUC is the mean over classes of one against the
rest, as MedMNIST's evaluator has it, and sensitivity, specificity, PPV, NPV and F1 are such means too.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from medloop import params
from medloop.errors import Refused

GATE = "auc"
METRICS = (
    "auc",
    "accuracy",
    "balanced_accuracy",
    "sensitivity",
    "specificity",
    "ppv",
    "npv",
    "f1",
    "brier",
    "ece",
)
TINY = 1e-7  # the least of 1 - p: at 0 its powers below one have no slope
ECE_BINS = 10  # of equal width, closed on the right, as in scikit-learn's calibration_curve


def check(facts: Mapping[str, Any]) -> None:
    """Raise Refused for a data set whose images carry several labels at once."""
    if facts.get("multi_label"):
        raise Refused(
            f"task classification takes one label per image, source {facts.get('source')!r} gives several: "
            "choose a data set with exclusive classes"
        )


def outputs(classes: Sequence[str]) -> int:
    """Return the number of logits of a network; raise Refused for fewer than two classes."""
    if len(classes) < 2:
        raise Refused(f"classification needs at least two classes, got {len(classes)}: {', '.join(classes) or 'none'}")
    return len(classes)


def loss(section: params.Train | None = None) -> Any:
    """Return the loss of labels, logits (B, classes) and sample weights (B,) or none, a mean over the batch.

    Labels are class indices (B,) or the share of each class (B, classes). None: cross-entropy, as on validation data.
    The focal loss is the cross-entropy times (1 - p)^gamma, class by class, for p the probability of the class.

    Source: Lin et al., Focal loss for dense object detection, 2017.
    """
    from keras import losses, ops

    section = section or params.Train()
    if section.loss == "cross_entropy" and not section.label_smoothing and not section.mixup:
        return losses.SparseCategoricalCrossentropy(from_logits=True)
    smoothing, gamma = section.label_smoothing, section.focal_gamma if section.loss == "focal" else 0

    def mean(labels: Any, logits: Any, weights: Any = 1.0) -> Any:
        classes = logits.shape[-1]
        shares = labels if len(labels.shape) > 1 else ops.one_hot(labels, classes)
        shares = shares * (1 - smoothing) + smoothing / classes
        log_p = ops.log_softmax(logits)
        missed = ops.maximum(1 - ops.exp(log_p), TINY) ** gamma if gamma else 1.0
        return -ops.mean(ops.sum(shares * missed * log_p, axis=-1) * weights)

    return mean


def score(labels: np.ndarray, probabilities: np.ndarray) -> float:
    """Return the gating metric, AUC, of probabilities (N, classes) for labels (N,).

    Raises:
        Refused: a probability is no number, or a class has no sample.
    """
    if not np.isfinite(probabilities).all():
        bad = int((~np.isfinite(probabilities).all(axis=1)).sum())
        raise Refused(f"predictions must be finite numbers, {bad} of {len(probabilities)} are not")
    missing = sorted(set(range(probabilities.shape[1])) - set(np.unique(labels).tolist()))
    if missing:
        raise Refused(f"AUC needs samples of every class, there are none of class {', '.join(map(str, missing))}")
    return float(gate(labels, probabilities, np.ones((1, len(labels))), positive=-1)[0])


def metrics(
    labels: np.ndarray,
    probabilities: np.ndarray,
    decisions: np.ndarray,
    *,
    positive: int,
    weights: np.ndarray | None = None,
) -> dict[str, np.ndarray]:
    """Return each of METRICS under each row of sample weights, as (R,) float64; NaN where it is undefined.

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
        "auc": gate(labels, probabilities, weights, positive=positive),
        **_of_decisions(labels, decisions, weights, probabilities.shape[1], positive),
        "brier": weights @ _squared_errors(labels, probabilities, positive) / total,
        "ece": np.abs(weights @ _calibration_gaps(labels, probabilities, positive)).sum(axis=1) / total,
    }


def gate(labels: np.ndarray, probabilities: np.ndarray, weights: np.ndarray, *, positive: int) -> np.ndarray:
    """Return the area under the ROC curve (R,) for sample weights (R, N); NaN where a class has no weight.

    Two classes: of the positive class's column (MedMNIST's evaluator takes the last). More: mean of one against rest.
    """
    classes = probabilities.shape[1]
    chosen = [positive % classes] if classes == 2 else range(classes)
    return np.mean([_binary_auc(labels == index, probabilities[:, index], weights) for index in chosen], axis=0)


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


def _binary_auc(truth: np.ndarray, scores: np.ndarray, weights: np.ndarray) -> np.ndarray:
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
