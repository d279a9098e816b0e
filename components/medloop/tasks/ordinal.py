"""One grade of a scale per sample, such as the severity of a disease: an error counts by how far it is off.

The network gives K - 1 logits for K grades, each of them that a sample which is above a grade is above the next one
too. Their loss is the likelihood of the grade, and the probability of more than a grade falls with the grade.

Source: Shi, Cao and Raschka, Deep neural networks for rank-consistent ordinal regression based on conditional
probabilities (CORN), 2021.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from medloop import calibration, measures, params
from medloop import predictions as parts
from medloop.answers.ordinal import decide, expected, said
from medloop.errors import Refused

__all__ = ["said"]

KINDS = ("image", "sequence", "volume", "table")
NUMBERS = False
GATE = "kappa"
METRICS = ("kappa", "mae", "accuracy", "within_one", "balanced_accuracy", "auc", "brier", "ece")
CENTRED = ("ece",)
MIN_PER_CLASS = 5  # samples of a group: with fewer there are values without intervals


@dataclass(frozen=True)
class Predictions(parts.Predictions):
    """What a model said of each sample."""

    labels: np.ndarray  # (N,) grades from 0
    probabilities: np.ndarray  # (N, grades), calibrated
    decisions: np.ndarray  # (N,) grades
    classes: list[str]  # in their order

    def frame(self) -> pd.DataFrame:
        """Return predictions.parquet: who, the label, p_0 to p_k-1, the expected grade and the decision."""
        columns = dict(zip(stored(self.classes), self.probabilities.T, strict=True))
        return self.who().assign(
            label=self.labels.astype(np.int32),
            **columns,
            expected=expected(self.probabilities),
            decision=self.decisions.astype(np.int32),
        )

    def metrics(self, weights: np.ndarray | None = None) -> dict[str, np.ndarray]:
        """Return each of METRICS under each row of sample weights (R, N)."""
        return metrics(self.labels, self.probabilities, self.decisions, weights)

    def counts(self) -> dict[str, Any]:
        """Return the number of samples, of patients (None where they are unknown) and of samples by grade."""
        by_class = np.bincount(self.labels, minlength=len(self.classes)).tolist()
        return {**super().counts(), "classes": dict(zip(self.classes, by_class, strict=True))}

    def too_small(self) -> str | None:
        """Return why a group of these gets no interval, or None."""
        few = min(self.counts()["classes"].values()) < MIN_PER_CLASS
        return f"fewer than {MIN_PER_CLASS} samples of a grade" if few else None


def check(facts: Mapping[str, Any]) -> None:
    """Raise Refused for a data set whose classes have no order that somebody stated."""
    if facts.get("multi_label"):
        raise Refused("task ordinal takes one grade per sample, this data set gives several labels: take multilabel")
    if not facts.get("ordered"):
        listed = ", ".join(facts.get("classes", ())) or "none"
        raise Refused(
            f"task ordinal needs classes in a stated order, source {facts.get('source')!r} states none of its classes "
            f"({listed}): name them from the lowest to the highest in ingest.order"
        )


def outputs(classes: Sequence[str]) -> int:
    """Return the number of steps between grades; raise Refused for fewer than three grades."""
    if len(classes) < 3:
        raise Refused(
            f"ordinal needs at least three grades, got {len(classes)}: {', '.join(classes) or 'none'}; take "
            "classification for two classes"
        )
    return len(classes) - 1


def targets(rows: pd.DataFrame, classes: Sequence[str]) -> np.ndarray:
    """Return grades (N,) int32, from 0."""
    return pd.Index(classes).get_indexer(pd.Index(rows["label"])).astype(np.int32)


def fitted(labels: np.ndarray) -> dict[str, float]:  # noqa: ARG001
    """Return nothing: grades need no constants."""
    return {}


def scaled(labels: np.ndarray, target: Mapping[str, float]) -> np.ndarray:  # noqa: ARG001
    """Return labels as the loss takes them: as they are."""
    return labels


def questions(labels: np.ndarray, classes: Sequence[str]) -> np.ndarray:
    """Return what the steps answer: (N, K - 1) whether a sample that reached a grade is above it; -1: it is below."""
    steps = np.arange(outputs(classes))
    return np.where(labels[:, None] >= steps, (labels[:, None] > steps).astype(np.int64), -1)


def loss(section: params.Train | None = None) -> Any:
    """Return the loss of labels, steps (B, K - 1) and sample weights (B,) or none, a mean over the batch.

    Labels are grades (B,) or the share of each grade (B, K). None: cross-entropy, as on validation data.
    """
    from keras import ops

    from medloop.networks import losses

    def log_probabilities(steps: Any) -> Any:
        none = ops.zeros_like(steps[:, :1])
        climbed = ops.cumsum(ops.log_sigmoid(steps), axis=1)
        stopped = ops.log_sigmoid(-steps)
        return ops.concatenate([none, climbed], axis=1) + ops.concatenate([stopped, none], axis=1)  # (B, K)

    return losses.of_shares(section or params.Train(), log_probabilities)


def score(labels: np.ndarray, probabilities: np.ndarray) -> float:
    """Return the gating metric, quadratic kappa, of probabilities (N, K) for grades (N,).

    Raises:
        Refused: a probability is no number, or all labels are of one grade.
    """
    if bad := int((~np.isfinite(probabilities).all(axis=1)).sum()):
        raise Refused(f"predictions must be finite numbers, {bad} of {len(probabilities)} are not")
    if len(np.unique(labels)) < 2:
        raise Refused("quadratic kappa needs samples of two grades at least, all are of one")
    return float(gate(labels, probabilities, np.ones((1, len(labels))))[0])


def gate(labels: np.ndarray, probabilities: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """Return quadratic kappa (R,) for sample weights (R, N); NaN where all that weighs is of one grade."""
    counts = measures.confusion(labels, decide(probabilities), weights, probabilities.shape[1])
    return measures.quadratic_kappa(counts)


def metrics(
    labels: np.ndarray, probabilities: np.ndarray, decisions: np.ndarray, weights: np.ndarray | None = None
) -> dict[str, np.ndarray]:
    """Return each of METRICS under each row of sample weights (R, N), as (R,) float64; NaN where it is undefined.

    Distances are in grades. AUC is the mean over the steps of the scale: of the samples above it against the others.
    """
    weights = np.ones((1, len(labels))) if weights is None else weights
    of_classes = measures.of_classes(labels, probabilities, decisions, positive=-1, weights=weights)
    off, total = np.abs(labels - decisions), weights.sum(axis=1)
    counts = measures.confusion(labels, decisions, weights, probabilities.shape[1])
    above = np.cumsum(probabilities[:, ::-1], axis=1)[:, ::-1]  # (N, K): of at least this grade
    steps = range(1, probabilities.shape[1])
    return {
        "kappa": measures.quadratic_kappa(counts),
        "mae": weights @ off / total,
        "accuracy": of_classes["accuracy"],
        "within_one": weights @ (off <= 1) / total,
        "balanced_accuracy": of_classes["balanced_accuracy"],
        "auc": np.mean([measures.binary_auc(labels >= k, above[:, k], weights) for k in steps], axis=0),
        "brier": of_classes["brier"],
        "ece": of_classes["ece"],
    }


def chosen(
    labels: np.ndarray,
    outputs: np.ndarray,
    card: Mapping[str, Any],  # noqa: ARG001
    section: params.Evaluate,
) -> dict[str, Any]:
    """Return temperature and bias of each step, chosen on validation grades (N,) and steps (N, K - 1).

    A step is calibrated on the samples that reach it, so that the probability of more still falls with the grade.
    """
    if section.positive_class is not None:
        raise Refused("evaluate.positive_class must be null for task ordinal: no grade is the positive one")
    reached = [labels >= step for step in range(outputs.shape[1])]
    heats, biases, calibrated = zip(
        *(calibration.platt(outputs[here, step], labels[here] > step) for step, here in enumerate(reached)), strict=True
    )
    return {"temperature": list(heats), "bias": list(biases), "calibrated": all(calibrated)}


def predictions(table: pd.DataFrame, labels: np.ndarray, outputs: np.ndarray, card: Mapping[str, Any]) -> Predictions:
    """Return what the model of the final `card` says by its steps (N, K - 1)."""
    probability = said(outputs, card)
    return Predictions(table, labels.astype(np.int64), probability, decide(probability), list(card["classes"]))


def read(table: pd.DataFrame, card: Mapping[str, Any]) -> Predictions:
    """Return what predictions.parquet says."""
    classes = list(card["classes"])
    probability = table[stored(classes)].to_numpy()
    return Predictions(table, table["label"].to_numpy(), probability, table["decision"].to_numpy(), classes)


def rarest(labels: np.ndarray, groups: np.ndarray) -> int:
    """Return the number of clusters `groups` (N,) with a sample of the grade of `labels` (N,) that has the fewest."""
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
