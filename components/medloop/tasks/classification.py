"""One label per sample: loss, gating metric, and the metrics of a report.

With two classes the metrics speak of the positive class. With more, AUC is the mean over classes of one against the
rest, as MedMNIST's evaluator has it, and sensitivity, specificity, PPV, NPV and F1 are such means too.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from medloop import params
from medloop import predictions as parts
from medloop.answers.classification import decide, probabilities, said
from medloop.errors import Refused

__all__ = ["said"]

KINDS = ("image", "sequence", "volume", "table")
NUMBERS = False
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
CENTRED = ("ece",)
MIN_PER_CLASS = 5  # samples of a group: with fewer there are values without intervals
TEMPERATURES = (0.05, 20.0)
BISECTIONS = 50
ECE_BINS = 10  # of equal width, closed on the right, as in scikit-learn's calibration_curve


@dataclass(frozen=True)
class Predictions(parts.Predictions):
    """What a model said of each sample."""

    labels: np.ndarray  # (N,) class indices
    probabilities: np.ndarray  # (N, classes), calibrated
    decisions: np.ndarray  # (N,) class indices
    classes: list[str]
    positive: int

    def frame(self) -> pd.DataFrame:
        """Return predictions.parquet: who, the label, p_0 to p_k-1 and the decision."""
        columns = dict(zip(stored(self.classes), self.probabilities.T, strict=True))
        return self.who().assign(
            label=self.labels.astype(np.int32), **columns, decision=self.decisions.astype(np.int32)
        )

    def metrics(self, weights: np.ndarray | None = None) -> dict[str, np.ndarray]:
        """Return each of METRICS under each row of sample weights (R, N)."""
        return metrics(self.labels, self.probabilities, self.decisions, positive=self.positive, weights=weights)

    def counts(self) -> dict[str, Any]:
        """Return the number of samples, of patients (None where they are unknown) and of samples by class."""
        by_class = np.bincount(self.labels, minlength=len(self.classes)).tolist()
        return {**super().counts(), "classes": dict(zip(self.classes, by_class, strict=True))}

    def too_small(self) -> str | None:
        """Return why a group of these gets no interval, or None."""
        few = min(self.counts()["classes"].values()) < MIN_PER_CLASS
        return f"fewer than {MIN_PER_CLASS} samples of a class" if few else None


def check(facts: Mapping[str, Any]) -> None:
    """Raise Refused for a data set without classes, or whose samples carry several labels at once."""
    if facts.get("multi_label"):
        raise Refused(
            f"task classification takes one label per {facts.get('kind', 'image')}, source {facts.get('source')!r} "
            "gives several: choose a data set with exclusive classes"
        )
    if not facts.get("classes"):
        raise Refused(
            f"task classification needs a label for every sample, source {facts.get('source')!r} gives none: choose "
            "another task (base.task), or what the source labels (ingest.options)"
        )


def outputs(classes: Sequence[str]) -> int:
    """Return the number of logits of a network; raise Refused for fewer than two classes."""
    if len(classes) < 2:
        raise Refused(f"classification needs at least two classes, got {len(classes)}: {', '.join(classes) or 'none'}")
    return len(classes)


def targets(rows: pd.DataFrame, classes: Sequence[str]) -> np.ndarray:
    """Return class indices (N,) int32."""
    return pd.Index(classes).get_indexer(pd.Index(rows["label"])).astype(np.int32)


def fitted(labels: np.ndarray) -> dict[str, float]:  # noqa: ARG001
    """Return nothing: classes need no constants."""
    return {}


def scaled(labels: np.ndarray, target: Mapping[str, float]) -> np.ndarray:  # noqa: ARG001
    """Return labels as the loss takes them: as they are."""
    return labels


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


def floors(inputs: np.ndarray, labels: np.ndarray, card: Mapping[str, Any]) -> dict[str, Any]:  # noqa: ARG001
    """Return no rivals: guessing is the floor, an AUC of 0.5."""
    return {}


def rivals(
    floors: Mapping[str, Any],  # noqa: ARG001
    inputs: np.ndarray,  # noqa: ARG001
    predictions: Predictions,  # noqa: ARG001
) -> dict[str, Predictions]:
    """Return what no rivals say."""
    return {}


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
    return float(gate(labels, probabilities, np.ones((1, len(labels))))[0])


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


def gate(labels: np.ndarray, probabilities: np.ndarray, weights: np.ndarray, *, positive: int = -1) -> np.ndarray:
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


def chosen(
    labels: np.ndarray, outputs: np.ndarray, card: Mapping[str, Any], section: params.Evaluate
) -> dict[str, Any]:
    """Return calibration temperature and operating threshold, chosen on validation labels (N,) and logits (N, C)."""
    positive = positive_index(card["classes"], section.positive_class)
    heat, calibrated = temperature(outputs, labels)
    probability = probabilities(outputs, heat)
    target = section.target_sensitivity
    threshold = None if target is None else operating_threshold(labels, probability, positive, target)
    return {
        "temperature": heat,
        "calibrated": calibrated,
        "threshold": threshold,
        "positive_class": card["classes"][positive],
        "operating_point": _operating_point(labels, probability, threshold, positive, target),
    }


def predictions(table: pd.DataFrame, labels: np.ndarray, outputs: np.ndarray, card: Mapping[str, Any]) -> Predictions:
    """Return what the model of the final `card` says by its logits (N, C)."""
    probability, positive = said(outputs, card), positive_index(card["classes"], card["positive_class"])
    decisions = decide(probability, card["threshold"], positive)
    return Predictions(table, labels.astype(np.int64), probability, decisions, list(card["classes"]), positive)


def read(table: pd.DataFrame, card: Mapping[str, Any]) -> Predictions:
    """Return what predictions.parquet says."""
    classes = list(card["classes"])
    return Predictions(
        table,
        table["label"].to_numpy(),
        table[stored(classes)].to_numpy(),
        table["decision"].to_numpy(),
        classes,
        positive_index(classes, card["positive_class"]),
    )


def rarest(labels: np.ndarray, groups: np.ndarray) -> int:
    """Return the number of clusters `groups` (N,) with a sample of the class of `labels` (N,) that has the fewest."""
    return min(len(np.unique(groups[labels == label])) for label in np.unique(labels))


def too_few(labels: np.ndarray, classes: Sequence[str], rule: params.Promote) -> str | None:
    """Return why `promote` cannot decide on these labels, or None."""
    counts = np.bincount(labels, minlength=len(classes))
    fewest = int(counts.argmin())
    if counts[fewest] >= rule.min_per_class:
        return None
    return (
        f"cannot decide, {counts[fewest]} test samples of class {classes[fewest]} are fewer than "
        f"promote.min_per_class {rule.min_per_class}"
    )


def stored(classes: Sequence[str]) -> list[str]:
    """Return the columns of predictions.parquet that hold probabilities."""
    return [f"p_{index}" for index in range(len(classes))]


def served(classes: Sequence[str]) -> list[str]:
    """Return the same columns of the served model."""
    return [f"p_{name}" for name in classes]


def positive_index(classes: Sequence[str], name: str | None) -> int:
    """Return the index of the class that sensitivity speaks of; raise Refused for one that does not exist."""
    if name is None:
        return len(classes) - 1
    if name not in classes:
        raise Refused(f"evaluate.positive_class: unknown class {name!r}; known: {', '.join(classes)}")
    return list(classes).index(name)


def temperature(logits: np.ndarray, labels: np.ndarray) -> tuple[float, bool]:
    """Return what divides logits (N, classes) to make labels (N,) likeliest, and whether there is such a number.

    Without one between TEMPERATURES, as where validation data are told apart without an error, it stays 1.

    Source: Guo et al., On calibration of modern neural networks, 2017.
    """
    hit = logits[np.arange(len(labels)), labels]

    def too_cool(heat: float) -> bool:
        expected = (probabilities(logits, heat) * logits).sum(axis=1)
        return float(np.mean(expected - hit)) > 0  # the slope of the loss over 1 / temperature, which only rises

    low, high = TEMPERATURES
    if not too_cool(low) or too_cool(high):
        return 1.0, False
    for _ in range(BISECTIONS):
        middle = float(np.sqrt(low * high))
        low, high = (middle, high) if too_cool(middle) else (low, middle)
    return float(np.sqrt(low * high)), True


def operating_threshold(labels: np.ndarray, probability: np.ndarray, positive: int, target: float) -> float | None:
    """Return the highest threshold with a sensitivity of at least `target`; None for more than two classes.

    Args:
        labels: (N,) class indices.
        probability: (N, classes).
        positive: index of the class whose probability is held against the threshold.
        target: sensitivity, 0 to 1.

    Raises:
        Refused: no sample is positive.
    """
    if probability.shape[1] > 2:
        return None
    scores = np.sort(probability[labels == positive, positive])[::-1]
    if not len(scores):
        raise Refused("the operating threshold needs validation samples of the positive class, there are none")
    reached = np.arange(1, len(scores) + 1) / len(scores) >= target
    return float(scores[reached.argmax()])


def _operating_point(
    labels: np.ndarray, probability: np.ndarray, threshold: float | None, positive: int, target: float | None
) -> dict[str, Any]:
    """Return what the decision was set to do, and what it does on validation data."""
    decisions = decide(probability, threshold, positive)
    found = metrics(labels, probability, decisions, positive=positive)
    reached = {f"validation_{name}": float(found[name][0]) for name in ("sensitivity", "specificity")}
    return {"target_sensitivity": None if threshold is None else target, **reached}


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
