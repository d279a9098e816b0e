"""Boxes around objects, each of a class: loss, gating metric, and the metrics of a report.

Networks say something at thousands of places of an image, so that no set of that is ever held: of each image its
strongest detections are kept, matched with the true boxes while those are there. Wherever tasks speak of the labels of
samples, here it is how many true boxes of each class an image has (N, C); and what is said of samples (N, 3 MOST) is
the score of each detection, its class, and at which IoU it is right.

`box_measures` has the matching, and the metrics of a report.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from medloop import box_measures, models, pairing, params
from medloop.amounts import fitted, rarest, scaled, too_few
from medloop.answers import detection as answers
from medloop.box_measures import METRICS, MOST, Curve, Predictions, gathered, read
from medloop.errors import Refused

__all__ = ["METRICS", "Predictions", "fitted", "gathered", "rarest", "read", "scaled", "too_few"]

GIVES = "boxes"
KINDS = ("image",)
NUMBERS = False
GATE = "map_50"
CENTRED = ()
THRESHOLDS = np.linspace(0.05, 0.95, 91)  # scores that are tried
OTHERS = answers.NUMBERS + 1  # numbers of a place beside its logits of classes


def check(facts: Mapping[str, Any]) -> None:
    """Raise Refused for a data set without boxes, or without a name for what they show."""
    if not facts.get("boxes") or not facts.get("classes"):
        raise Refused(
            f"task detection needs a list of boxes for every {facts.get('kind', 'image')}, and a name for each of its "
            f"classes; source {facts.get('source')!r} gives none: choose another task (base.task) or source"
        )


def outputs(classes: Sequence[str]) -> int:
    """Return the number of logits of a place, one for each class; raise Refused for no class."""
    if not classes:
        raise Refused("detection needs at least one class, got none")
    return len(classes)


def loss(section: params.Train | None = None) -> Any:
    """Return the loss of boxes (B, M, 5), outputs (B, A, K) and image weights (B,) or none, of the one architecture.

    `train.loss` and `train.class_weights` have no part in it: it is the focal loss, which is made for rare objects.

    Raises:
        Refused: a parameter asks for what only one class an image knows.
    """
    from medloop.networks import box_losses

    section = section or params.Train()
    plain = {"mixup": 0, "sampling": "natural", "label_smoothing": 0}
    if other := [f"train.{name}: {value}" for name, value in plain.items() if getattr(section, name) != value]:
        raise Refused(f"task detection has a class for every object, not for an image: set {', '.join(other)}")
    [architecture] = section.architectures
    return getattr(box_losses, pairing.assigned(models, architecture, "LOSS"))(section)


def areas(boxes: np.ndarray, classes: int) -> np.ndarray:
    """Return how many of the boxes (N, M, 5) are of each class (N, C) int64."""
    kinds = np.asarray(boxes[:, :, 4]).astype(np.int64)
    return np.stack([(kinds == place).sum(axis=1) for place in range(1, 1 + classes)], axis=1)


def reduced(outputs: np.ndarray, boxes: np.ndarray) -> np.ndarray:
    """Return the numbers (B, 3 MOST) that are kept of outputs (B, A, K) on inputs with `boxes` (B, M, 5).

    Where a number is none, all are NaN.
    """
    return np.stack([_reduced(*pair) for pair in zip(outputs, boxes, strict=True)])


def _reduced(outputs: np.ndarray, boxes: np.ndarray) -> np.ndarray:
    if not np.isfinite(outputs).all():
        return np.full(3 * MOST, np.nan)
    return _told(answers.found(outputs), boxes, outputs.shape[-1] - OTHERS)


def _told(rows: np.ndarray, boxes: np.ndarray, classes: int) -> np.ndarray:
    """Return the score, the class and the hits (3 MOST,) of detections (D, 6) on an image with `boxes` (M, 5)."""
    hits, _, _ = box_measures.matched(rows, boxes, classes)
    return np.concatenate([np.pad(each, (0, MOST - len(each))) for each in (rows[:, 4], rows[:, 5], hits)])


def said(outputs: np.ndarray, card: Mapping[str, Any]) -> np.ndarray:  # noqa: ARG001
    """Return the numbers of `reduced` (N, 3 MOST)."""
    return outputs


def score(labels: np.ndarray, said: np.ndarray) -> float:
    """Return the gating metric, mean average precision at an IoU of .5, of `said` (N, 3 MOST) for counts (N, C).

    Raises:
        Refused: one is no number.
    """
    if bad := int((~np.isfinite(said).all(axis=1)).sum()):
        raise Refused(f"predictions must be finite numbers, those of {bad} of {len(said)} images are not")
    return float(gate(labels, said, np.ones((1, len(labels))))[0])


def gate(labels: np.ndarray, said: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """Return the mean over classes of the average precision at an IoU of .5 (R,), for image weights (R, N)."""
    scores, kinds, hits = np.split(said, 3, axis=1)
    right = hits.astype(np.int64) & 1 > 0
    each = [
        Curve.drawn(scores, kinds == place, right, labels[:, place - 1], weights).average()
        for place in range(1, 1 + labels.shape[1])
    ]
    return box_measures.mean_of(each)


def chosen(
    labels: np.ndarray, outputs: np.ndarray, card: Mapping[str, Any], section: params.Evaluate
) -> dict[str, Any]:
    """Return the threshold of the highest F1 at an IoU of .5, a mean over classes, on the numbers of validation images.

    Scores are left as they are, so that the temperature is 1. A target sensitivity, which is about samples, has no part
    in it.
    """
    if section.positive_class is not None:
        raise Refused("evaluate.positive_class must be null for task detection: every class has a metric of its own")
    reached = [_f1(labels, outputs, threshold, len(card["classes"])) for threshold in THRESHOLDS]
    best = int(np.argmax(reached))
    point = {"validation_f1": float(reached[best])}
    threshold = round(float(THRESHOLDS[best]), 2)
    return {"temperature": 1.0, "calibrated": False, "threshold": threshold, "operating_point": point}


def _f1(labels: np.ndarray, said: np.ndarray, threshold: float, classes: int) -> float:
    """Return the mean over the classes that are there of 2 TP / (2 TP + FP + FN)."""
    scores, kinds, hits = np.split(said, 3, axis=1)
    reached, right = scores >= threshold, hits.astype(np.int64) & 1 > 0
    found = []
    for place in range(1, 1 + classes):
        mine = reached & (kinds == place)
        there = labels[:, place - 1].sum()
        if there:
            found.append(2 * (mine & right).sum() / (mine.sum() + there))
    return float(np.mean(found)) if found else 0.0


def measured(rows: np.ndarray, truth: np.ndarray, card: Mapping[str, Any]) -> dict[str, np.ndarray]:
    """Return the numbers of one image that its detections (D, 6) make beside its boxes (M, 5), both in its pixels."""
    return box_measures.measured(rows, truth, len(card["classes"]))


def stored(classes: Sequence[str]) -> list[str]:  # noqa: ARG001
    """Return the columns of predictions.parquet that hold what is said."""
    return [f"{name}_{i}" for name in ("score", "kind", "hits") for i in range(MOST)]


def served(classes: Sequence[str]) -> list[str]:  # noqa: ARG001
    """Return the column of the served model that says it, together with the truth: see `compared`."""
    return ["boxes"]


def compared(texts: Sequence[str], truths: Sequence[np.ndarray], classes: Sequence[str]) -> np.ndarray:
    """Return what is said (N, 3 MOST) by boxes of the served model, JSON, of images with true boxes (M, 5) each."""
    rows = [
        _told(answers.read(text, list(classes)), truth, len(classes)) for text, truth in zip(texts, truths, strict=True)
    ]
    return np.array(rows, np.float64).reshape(len(rows), 3 * MOST)
