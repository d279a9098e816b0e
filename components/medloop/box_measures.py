"""What detections say of a test set, in numbers: average precision as COCO defines it, FROC, and the operating point.

Of every image up to MOST detections are kept, each with its score, the number of its class, and for which IoU it is
right: detections are matched image by image, so that everything else follows from these numbers, under any weights of
the images.

Source: the COCO detection challenge (pycocotools, cocoeval.py): greedy matching by score, precision interpolated at 101
recalls, sizes by area in pixels of the image. Setio et al., LUNA16, 2017, for the score of FROC.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pandas as pd

from medloop import predictions as parts
from medloop.answers.detection import MOST, overlaps

IOUS = np.linspace(0.5, 0.95, 10)  # at which a detection may be right: bit i of its hits stands for IOUS[i]
SIZES = {"small": (0.0, 32.0**2), "medium": (32.0**2, 96.0**2), "large": (96.0**2, 1e10)}  # pixels of area
ALL = (0.0, 1e10)
RECALLS = np.linspace(0.0, 1.0, 101)
RATES = (0.125, 0.25, 0.5, 1.0, 2.0, 4.0, 8.0)  # false positives an image, at which FROC's score takes the sensitivity
METRICS = (
    *("map_50", "map", "map_small", "map_medium", "map_large"),
    *("froc", "sensitivity", "ppv", "f1", "false_positives"),
)
CHUNK = 4_000_000  # numbers held at once
KINDS = len(IOUS)  # bits


@dataclass(frozen=True)
class Predictions(parts.Predictions):
    """What a model said of each image; a detection of class 0 only fills up."""

    labels: np.ndarray  # (N, C) how many true boxes there are
    scores: np.ndarray  # (N, MOST) the highest first
    kinds: np.ndarray  # (N, MOST) number of the class from 1 on
    hits: np.ndarray  # (N, MOST) bits: at which of IOUS it is right
    sized: np.ndarray  # (N, MOST) int64, bits: for each of SIZES its hits, then where it is of another size
    of_size: np.ndarray  # (N, 3 C) true boxes of each of SIZES, of each class
    classes: list[str]
    threshold: float

    def frame(self) -> pd.DataFrame:
        """Return predictions.parquet: who, and each of the numbers of an image."""
        columns = {
            f"{name}_{i}": values[:, i]
            for name, field in _STORED.items()
            for values in (getattr(self, field),)
            for i in range(values.shape[1])
        }
        return pd.concat([self.who().reset_index(drop=True), pd.DataFrame(columns)], axis=1)

    def by_label(self) -> dict[str, "Predictions"]:
        """Return what was said of each class, where there are several."""
        count = len(self.classes)
        if count == 1:
            return {}
        return {
            name: replace(
                self,
                classes=[name],
                labels=self.labels[:, i : i + 1],
                of_size=self.of_size[:, i::count],
                kinds=(self.kinds == i + 1).astype(self.kinds.dtype),
            )
            for i, name in enumerate(self.classes)
        }

    def metrics(self, weights: np.ndarray | None = None) -> dict[str, np.ndarray]:
        """Return each of METRICS (R,) under each row of image weights (R, N): means over the classes that are there.

        Of a size that no object has there is none.
        """
        weights = np.ones((1, len(self.labels))) if weights is None else weights
        each = [self._of_class(i, weights) for i in range(len(self.classes))]
        found = {name: mean_of([one[name] for one in each]) for name in each[0]}
        sensitivity, ppv = found["sensitivity"], found["ppv"]
        both = sensitivity + ppv
        found["f1"] = np.divide(2 * sensitivity * ppv, both, out=np.zeros_like(both), where=both > 0)
        found["false_positives"] = np.sum([one["false_positives"] for one in each], axis=0)
        of_size = self.of_size.reshape(-1, len(SIZES), len(self.classes)).sum(axis=(0, 2)).tolist()
        without = {f"map_{name}" for name, there in zip(SIZES, of_size, strict=True) if not there}
        return {name: found[name] for name in METRICS if name not in without}

    def _of_class(self, place: int, weights: np.ndarray) -> dict[str, np.ndarray]:
        count, mine = len(self.classes), self.kinds == place + 1
        curves = [Curve.of(self, place, i, weights) for i in range(KINDS)]
        found = {"map_50": curves[0].average(), "map": np.mean([each.average() for each in curves], axis=0)}
        for size, name in enumerate(SIZES):
            there = self.of_size[:, size * count + place]
            if there.any():
                of_iou = [Curve.of(self, place, i, weights, size).average() for i in range(KINDS)]
                found[f"map_{name}"] = np.mean(of_iou, axis=0)
            else:
                found[f"map_{name}"] = np.full(len(weights), np.nan)
        found["froc"] = np.mean([curves[0].sensitivity(rate) for rate in RATES], axis=0)
        reached = mine & (self.scores >= self.threshold)
        right = weights @ (reached & (self.hits & 1 > 0)).sum(axis=1)
        said, there = weights @ reached.sum(axis=1), weights @ self.labels[:, place]
        found["sensitivity"] = np.divide(right, there, out=np.full(len(there), np.nan), where=there > 0)
        found["ppv"] = np.divide(right, said, out=np.zeros(len(said)), where=said > 0)
        found["ppv"][there == 0] = np.nan
        found["false_positives"] = (said - right) / weights.sum(axis=1)
        return found

    def counts(self) -> dict[str, Any]:
        """Return the number of images, of patients (None: unknown), of images with each class, and of objects."""
        having = dict(zip(self.classes, (self.labels > 0).sum(axis=0).tolist(), strict=True))
        objects = dict(zip(self.classes, self.labels.sum(axis=0).astype(int).tolist(), strict=True))
        return {**super().counts(), "classes": having, "objects": objects}

    def too_small(self) -> str | None:
        """Return None: an image without any object counts too."""
        return None


_STORED = {
    "label": "labels",
    "score": "scores",
    "kind": "kinds",
    "hits": "hits",
    "sized": "sized",
    "of_size": "of_size",
}


@dataclass(frozen=True)
class Curve:
    """Detections of one class from the highest score on, under R rows of image weights: what is right among them.

    It has a point for each of T right ones; between them precision only falls.
    """

    right: np.ndarray  # (R, T) sum of weights of the right ones up to each of them
    said: np.ndarray  # (R, T) likewise of all
    there: np.ndarray  # (R,) of the true objects
    images: np.ndarray  # (R,) of the images
    scores: np.ndarray  # (T,)

    @classmethod
    def of(cls, found: Predictions, place: int, iou: int, weights: np.ndarray, size: int | None = None) -> "Curve":
        """Return the curve of the class at a place of the list, at IOUS[iou], of objects of one of SIZES or of all."""
        count, bit = len(found.classes), 1 << iou
        chosen = found.kinds == place + 1
        hits = found.hits & bit > 0
        there = found.labels[:, place]
        if size is not None:
            shift = 2 * KINDS * size
            hits = (found.sized >> shift) & bit > 0
            chosen &= (found.sized >> (shift + KINDS)) & bit == 0
            there = found.of_size[:, size * count + place]
        return cls.drawn(found.scores, chosen, hits, there, weights)

    @classmethod
    def drawn(
        cls, scores: np.ndarray, chosen: np.ndarray, hits: np.ndarray, there: np.ndarray, weights: np.ndarray
    ) -> "Curve":
        """Return the curve of the `chosen` detections (N, D), some of which are `hits`, of `there` (N,) objects."""
        image, _ = np.nonzero(chosen)
        score, hit = scores[chosen], hits[chosen]
        order = np.argsort(-score, kind="mergesort")
        image, hit = image[order], hit[order]
        at = np.flatnonzero(hit)  # ranks of the right ones
        rank = np.argsort(image, kind="stable")  # ranks, image by image
        ends = np.searchsorted(image[rank], np.arange(len(there) + 1))
        said = np.zeros((len(there), len(at)))
        for i in np.unique(image):
            said[i] = np.searchsorted(rank[ends[i] : ends[i + 1]], at, side="right")
        right = np.cumsum(weights[:, image[at]], axis=1)
        return cls(right, weights @ said, weights @ there, weights.sum(axis=1), score[order][at])

    def average(self) -> np.ndarray:
        """Return COCO's average precision (R,): the mean over RECALLS of the best precision from each on.

        NaN where there is no object.
        """
        if not self.right.shape[1]:
            return np.where(self.there > 0, 0.0, np.nan)
        there = self.there[:, None]
        with np.errstate(invalid="ignore", divide="ignore"):
            recall = np.where(there > 0, self.right / there, np.nan)
        precision = np.divide(self.right, self.said, out=np.zeros_like(self.right), where=self.said > 0)
        best = np.maximum.accumulate(precision[:, ::-1], axis=1)[:, ::-1]
        steps = np.searchsorted(RECALLS, recall.ravel(), side="right").reshape(recall.shape)
        new = np.diff(steps, axis=1, prepend=0)  # recalls that are reached here first
        return np.where(self.there > 0, (new * best).sum(axis=1) / len(RECALLS), np.nan)

    def sensitivity(self, rate: float) -> np.ndarray:
        """Return the sensitivity (R,) at `rate` false positives an image, or fewer; NaN where there is no object."""
        within = (self.said - self.right) / self.images[:, None] <= rate
        best = np.where(within, self.right, 0).max(axis=1, initial=0)
        return np.divide(best, self.there, out=np.full(len(best), np.nan), where=self.there > 0)


def matched(
    rows: np.ndarray, truth: np.ndarray, classes: int, sizes: tuple[float, float] = ALL
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return for each detection the IOUS at which it is right and at which it is of another size, both bits (D,), and
    how many true boxes of the size each class has (C,).

    Args:
        rows: (D, 6), the highest score first: corners, score, class number.
        truth: (M, 5) corners and class number, 0 for a row that only fills up.
        classes: how many there are.
        sizes: least and greatest area; what is of another size neither counts nor is wrong.
    """
    hits, beyond = np.zeros(len(rows), np.int64), np.zeros(len(rows), np.int64)
    counted = np.zeros(classes, np.int64)
    for number in range(1, classes + 1):
        mine = np.flatnonzero(rows[:, 5] == number)
        there = truth[truth[:, 4] == number, :4].astype(np.float64)
        other = ~_of_size(there, sizes)
        there, other = there[np.argsort(other, kind="stable")], np.sort(other)  # those that count come first
        counted[number - 1] = np.count_nonzero(~other)
        shared, aside = overlaps(rows[mine, :4], there), ~_of_size(rows[mine, :4], sizes)
        for i, least in enumerate(IOUS):
            found = _pairs(shared, other, min(least, 1 - 1e-10))
            right = (found >= 0) & ~other[found] if len(there) else np.zeros(len(mine), bool)
            none = (found < 0) & aside
            hits[mine] |= right.astype(np.int64) << i
            beyond[mine] |= (none | ((found >= 0) & ~right)).astype(np.int64) << i
    return hits, beyond, counted


def _pairs(shared: np.ndarray, other: np.ndarray, least: float) -> np.ndarray:
    """Return for each detection (D,) the place of its true box, or -1: each in turn takes the one it overlaps most.

    Args:
        shared: (D, M) IoU.
        other: (M,) which true boxes do not count; they come last, and are taken only where none that counts is left.
        least: IoU.
    """
    taken, found = np.zeros(len(other), bool), np.full(len(shared), -1)
    counts = int(np.count_nonzero(~other))
    for place in np.flatnonzero((shared >= least).any(axis=1)):
        row = shared[place]
        for part in (slice(0, counts), slice(counts, None)):
            free = np.where(taken[part], -1.0, row[part])
            if len(free) and free.max() >= least:
                best = part.start + len(free) - 1 - int(free[::-1].argmax())  # of equals the last, as COCO has it
                taken[best], found[place] = True, best
                break
    return found


def _of_size(boxes: np.ndarray, sizes: tuple[float, float]) -> np.ndarray:
    area = np.prod(boxes[:, 2:4] - boxes[:, :2], axis=1)
    return (area >= sizes[0]) & (area <= sizes[1])


def measured(rows: np.ndarray, truth: np.ndarray, classes: int) -> dict[str, np.ndarray]:
    """Return the numbers of one image by their name in `Predictions`; the arguments are those of `matched`."""
    hits, _, counted = matched(rows, truth, classes)
    sized, of_size = np.zeros(len(rows), np.int64), []
    for i, sizes in enumerate(SIZES.values()):
        right, beyond, there = matched(rows, truth, classes, sizes)
        sized |= (right | beyond << KINDS) << (2 * KINDS * i)
        of_size.append(there)
    filled = {"scores": rows[:, 4], "kinds": rows[:, 5].astype(np.int64), "hits": hits, "sized": sized}
    return {
        "labels": counted,
        "of_size": np.concatenate(of_size),
        **{name: np.pad(values, (0, MOST - len(values))) for name, values in filled.items()},
    }


def gathered(table: pd.DataFrame, numbers: Iterable[Mapping[str, np.ndarray]], card: Mapping[str, Any]) -> Predictions:
    """Return the `Predictions` of images of which `measured` gave the numbers; the table has a row for each."""
    rows = list(numbers)
    arrays = {name: np.stack([row[name] for row in rows]) for name in _STORED.values()}
    return Predictions(table, classes=list(card["classes"]), threshold=float(card["threshold"]), **arrays)


def read(table: pd.DataFrame, card: Mapping[str, Any]) -> Predictions:
    """Return what predictions.parquet says."""
    count = len(card["classes"])
    widths = {"labels": count, "of_size": len(SIZES) * count}
    arrays = {
        field: table[[f"{name}_{i}" for i in range(widths.get(field, MOST))]].to_numpy()
        for name, field in _STORED.items()
    }
    return Predictions(table, classes=list(card["classes"]), threshold=float(card["threshold"]), **arrays)


def mean_of(each: list[np.ndarray]) -> np.ndarray:
    """Return the mean (R,) over classes of those that are no NaN; NaN where all are."""
    rows = np.array(each)
    known = np.isfinite(rows).sum(axis=0)
    return np.divide(np.nansum(rows, axis=0), known, out=np.full(rows.shape[1], np.nan), where=known > 0)
