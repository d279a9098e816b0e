"""Several labels per sample, or none: each of them a yes or no of its own, with a threshold of its own.

The metrics of a report are means over labels ("macro"), but for two: `exact_match` asks for all labels of a sample, and
`micro_f1` counts every label of every sample alike. A label that no sample has, or every sample, has no part in a mean.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from medloop import calibration, measures, params
from medloop import predictions as parts
from medloop.answers.multilabel import decide, probabilities, said
from medloop.errors import Refused

__all__ = ["said"]

KINDS = ("image", "sequence", "volume", "table")
NUMBERS = False
GATE = "auc"
MACRO = ("auc", "accuracy", "sensitivity", "specificity", "f1", "brier", "ece")
METRICS = (*MACRO, "average_precision", "micro_f1", "exact_match")
CENTRED = ("ece",)
MIN_PER_CLASS = 5  # samples of a group with a label, and without: with fewer there are values without intervals


@dataclass(frozen=True)
class Label(parts.Predictions):
    """What a model said of one label."""

    labels: np.ndarray  # (N,) 0 or 1
    probability: np.ndarray  # (N,)
    decisions: np.ndarray  # (N,) 0 or 1

    def frame(self) -> pd.DataFrame:
        """Return who, the label, its probability and the decision."""
        return self.who().assign(label=self.labels, probability=self.probability, decision=self.decisions)

    def metrics(self, weights: np.ndarray | None = None) -> dict[str, np.ndarray]:
        """Return the metrics of a classification, and `average_precision`, under sample weights (R, N)."""
        weights = np.ones((1, len(self.labels))) if weights is None else weights
        both = np.stack([1 - self.probability, self.probability], axis=1)
        found = measures.of_classes(self.labels, both, self.decisions, positive=1, weights=weights)
        return found | {"average_precision": measures.average_precision(self.labels, self.probability, weights)}

    def too_small(self) -> str | None:
        """Return why a group of these gets no interval, or None."""
        return None if min(_both(self.labels[:, None])[0]) >= MIN_PER_CLASS else _FEW


_FEW = f"fewer than {MIN_PER_CLASS} samples with or without a label"


@dataclass(frozen=True)
class Predictions(parts.Predictions):
    """What a model said of each sample."""

    labels: np.ndarray  # (N, L) 0 or 1
    probabilities: np.ndarray  # (N, L), calibrated
    decisions: np.ndarray  # (N, L) 0 or 1
    classes: list[str]

    def frame(self) -> pd.DataFrame:
        """Return predictions.parquet: who, and for each label label_i, p_i and decision_i."""
        columns = {
            f"{name}_{i}": values[:, i]
            for name, values in (("label", self.labels), ("p", self.probabilities), ("decision", self.decisions))
            for i in range(len(self.classes))
        }
        return self.who().assign(**columns)

    def by_label(self) -> dict[str, Label]:
        """Return what was said of each label."""
        columns = zip(self.classes, self.labels.T, self.probabilities.T, self.decisions.T, strict=True)
        return {name: Label(self.table, *of_label) for name, *of_label in columns}

    def metrics(self, weights: np.ndarray | None = None) -> dict[str, np.ndarray]:
        """Return each of METRICS under each row of sample weights (R, N)."""
        weights = np.ones((1, len(self.labels))) if weights is None else weights
        each = list(self.by_label().values())
        found = [each[i].metrics(weights) for i in _defined(self.labels)] or [each[0].metrics(weights)]
        total = weights.sum(axis=1)
        right = (self.labels == self.decisions).all(axis=1)
        hits = weights @ (self.labels & self.decisions).sum(axis=1)
        named = weights @ (self.labels.sum(axis=1, dtype=np.int64) + self.decisions.sum(axis=1, dtype=np.int64))
        with np.errstate(invalid="ignore", divide="ignore"):
            return {
                **{name: np.mean([of_one[name] for of_one in found], axis=0) for name in MACRO},
                "average_precision": np.mean([of_one["average_precision"] for of_one in found], axis=0),
                "micro_f1": 2 * hits / named,
                "exact_match": weights @ right / total,
            }

    def counts(self) -> dict[str, Any]:
        """Return the number of samples, of patients (None where they are unknown) and of samples with each label."""
        having = self.labels.sum(axis=0, dtype=np.int64).tolist()
        return {**super().counts(), "classes": dict(zip(self.classes, having, strict=True))}

    def too_small(self) -> str | None:
        """Return why a group of these gets no interval, or None."""
        return None if _both(self.labels).min() >= MIN_PER_CLASS else _FEW


def check(facts: Mapping[str, Any]) -> None:
    """Raise Refused for a data set whose samples have one label each."""
    if not facts.get("multi_label"):
        raise Refused(
            f"task multilabel takes several labels per {facts.get('kind', 'image')}, source {facts.get('source')!r} "
            "gives one or none: take task classification or ordinal (base.task), or say in the source's options that "
            "there are several"
        )


def outputs(classes: Sequence[str]) -> int:
    """Return the number of logits of a network, one for each label; raise Refused where there is none."""
    if not classes:
        raise Refused("multilabel needs at least one label, got none")
    return len(classes)


def targets(rows: pd.DataFrame, classes: Sequence[str]) -> np.ndarray:
    """Return 1 (N, L) uint8 where a sample has a label, else 0."""
    found = [set(joined.split("|")) for joined in rows["label"]]
    return np.array([[name in labels for name in classes] for labels in found], np.uint8).reshape(-1, len(classes))


def fitted(labels: np.ndarray) -> dict[str, float]:  # noqa: ARG001
    """Return nothing: labels need no constants."""
    return {}


def scaled(labels: np.ndarray, target: Mapping[str, float]) -> np.ndarray:  # noqa: ARG001
    """Return labels as the loss takes them: as they are."""
    return labels


def questions(labels: np.ndarray, classes: Sequence[str]) -> np.ndarray:  # noqa: ARG001
    """Return what the logits answer: (N, L) whether a sample has each label."""
    return labels.astype(np.int64)


def loss(section: params.Train | None = None) -> Any:
    """Return the loss of labels (B, L), logits (B, L) and weights (B, L), (B,) or none: binary, a mean over labels.

    Labels may be shares. None: cross-entropy, as on validation data.

    Raises:
        Refused: a parameter asks for what only exclusive classes know.
    """
    from keras import ops

    from medloop.networks import losses

    section = section or params.Train()
    if section.sampling != "natural":
        raise Refused("task multilabel has no exclusive classes to balance: set train.sampling: natural")

    def log_probabilities(logits: Any) -> Any:
        return ops.stack([ops.log_sigmoid(-logits), ops.log_sigmoid(logits)], axis=-1)  # (B, L, 2)

    def shares(labels: Any, classes: int) -> Any:  # noqa: ARG001
        yes = ops.cast(labels, "float32")
        return ops.stack([1 - yes, yes], axis=-1)

    return losses.of_shares(section, log_probabilities, shares)


def score(labels: np.ndarray, probabilities: np.ndarray) -> float:
    """Return the gating metric, the mean AUC, of probabilities (N, L) for labels (N, L).

    Raises:
        Refused: a probability is no number, or every label is that of all samples or of none.
    """
    if bad := int((~np.isfinite(probabilities).all(axis=1)).sum()):
        raise Refused(f"predictions must be finite numbers, {bad} of {len(probabilities)} are not")
    if not len(_defined(labels)):
        raise Refused("AUC needs samples with a label and without it, there is no such label")
    return float(gate(labels, probabilities, np.ones((1, len(labels))))[0])


def gate(labels: np.ndarray, probabilities: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """Return the mean over labels of the area under the ROC curve (R,), for sample weights (R, N)."""
    found = [measures.binary_auc(labels[:, i] > 0, probabilities[:, i], weights) for i in _defined(labels)]
    return np.mean(found, axis=0) if found else np.full(len(weights), np.nan)


def chosen(
    labels: np.ndarray, outputs: np.ndarray, card: Mapping[str, Any], section: params.Evaluate
) -> dict[str, Any]:
    """Return for each label temperature, bias and threshold, chosen on validation labels and logits (N, L).

    A label that validation data do not have, or have always, is decided where it is likelier than not.
    """
    if section.positive_class is not None:
        raise Refused("evaluate.positive_class must be null for task multilabel: each label is decided by itself")
    heats, biases, calibrated = zip(
        *(calibration.platt(*pair) for pair in zip(outputs.T, labels.T, strict=True)), strict=True
    )
    probability, target = probabilities(outputs, np.array(heats), np.array(biases)), section.target_sensitivity
    known = set(_defined(labels).tolist()) if target is not None else set()
    thresholds = [_threshold(labels[:, i], probability[:, i], target) if i in known else 0.5 for i in range(len(heats))]
    decided = decide(probability, thresholds)
    reached = [float(decided[labels[:, i] > 0, i].mean()) if labels[:, i].any() else None for i in range(len(heats))]
    return {
        "temperature": list(heats),
        "bias": list(biases),
        "uncalibrated": [name for name, done in zip(card["classes"], calibrated, strict=True) if not done],
        "threshold": thresholds,
        "operating_point": {"target_sensitivity": target, "validation_sensitivity": reached},
        "without_threshold": [name for i, name in enumerate(card["classes"]) if i not in known],
    }


def predictions(table: pd.DataFrame, labels: np.ndarray, outputs: np.ndarray, card: Mapping[str, Any]) -> Predictions:
    """Return what the model of the final `card` says by its logits (N, L)."""
    probability = said(outputs, card)
    return Predictions(table, labels, probability, decide(probability, card["threshold"]), list(card["classes"]))


def read(table: pd.DataFrame, card: Mapping[str, Any]) -> Predictions:
    """Return what predictions.parquet says."""
    classes = list(card["classes"])
    labels, probability, decisions = (
        table[[f"{name}_{i}" for i in range(len(classes))]].to_numpy() for name in ("label", "p", "decision")
    )
    return Predictions(table, labels, probability, decisions, classes)


def rarest(labels: np.ndarray, groups: np.ndarray) -> int:
    """Return the number of clusters `groups` (N,) with, or without, the label of `labels` (N, L) or (N,) for which
    they are the fewest; of labels that both occur.
    """
    columns = labels.reshape(len(labels), -1)
    found = [len(np.unique(groups[columns[:, i] == yes])) for i in _defined(columns) for yes in (0, 1)]
    return min(found, default=0)


def too_few(labels: np.ndarray, classes: Sequence[str], rule: params.Promote) -> str | None:
    """Return why `promote` cannot decide on these labels, or None."""
    return measures.too_few(_both(labels).min(axis=1), classes, rule.min_per_class)


def stored(classes: Sequence[str]) -> list[str]:
    """Return the columns of predictions.parquet that hold probabilities."""
    return [f"p_{index}" for index in range(len(classes))]


def served(classes: Sequence[str]) -> list[str]:
    """Return the same columns of the served model."""
    return [f"p_{name}" for name in classes]


def _threshold(labels: np.ndarray, probability: np.ndarray, target: float | None) -> float:
    both = np.stack([1 - probability, probability], axis=1)
    found = calibration.operating_threshold(labels, both, 1, target or 0.0)
    assert found is not None
    return found


def _both(labels: np.ndarray) -> np.ndarray:
    """Return how many samples have each label, and how many do not, (L, 2)."""
    having = labels.sum(axis=0, dtype=np.int64)
    return np.stack([having, len(labels) - having], axis=1)


def _defined(labels: np.ndarray) -> np.ndarray:
    """Return the places of the labels that some samples have and some do not."""
    return np.flatnonzero(_both(labels).min(axis=1) > 0)
