"""One label per sample: loss, gating metric, and the metrics of a report.

With two classes the metrics speak of the positive class. With more, AUC is the mean over classes of one against the
rest, as MedMNIST's evaluator has it, and sensitivity, specificity, PPV, NPV and F1 are such means too.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from medloop import calibration, measures, params
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
CENTRED = ("ece",)
MIN_PER_CLASS = 5  # samples of a group: with fewer there are values without intervals


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
        said = (self.labels, self.probabilities, self.decisions)
        return measures.of_classes(*said, positive=self.positive, weights=weights)

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
            "gives several: take task multilabel (base.task)"
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
    """
    import keras

    from medloop.networks import losses

    section = section or params.Train()
    if section.loss == "cross_entropy" and not section.label_smoothing and not section.mixup:
        return keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    return losses.of_shares(section, keras.ops.log_softmax)


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


def gate(labels: np.ndarray, probabilities: np.ndarray, weights: np.ndarray, *, positive: int = -1) -> np.ndarray:
    """Return AUC (R,) for sample weights (R, N), see `measures.auc`."""
    return measures.auc(labels, probabilities, weights, positive=positive)


def chosen(
    labels: np.ndarray, outputs: np.ndarray, card: Mapping[str, Any], section: params.Evaluate
) -> dict[str, Any]:
    """Return calibration temperature and operating threshold, chosen on validation labels (N,) and logits (N, C)."""
    positive = positive_index(card["classes"], section.positive_class)
    heat, calibrated = calibration.temperature(outputs, labels)
    probability = probabilities(outputs, heat)
    target = section.target_sensitivity
    threshold = None if target is None else calibration.operating_threshold(labels, probability, positive, target)
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
    return measures.too_few(np.bincount(labels, minlength=len(classes)), classes, rule.min_per_class)


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


def _operating_point(
    labels: np.ndarray, probability: np.ndarray, threshold: float | None, positive: int, target: float | None
) -> dict[str, Any]:
    """Return what the decision was set to do, and what it does on validation data."""
    decisions = decide(probability, threshold, positive)
    found = measures.of_classes(labels, probability, decisions, positive=positive)
    reached = {f"validation_{name}": float(found[name][0]) for name in ("sensitivity", "specificity")}
    return {"target_sensitivity": None if threshold is None else target, **reached}
