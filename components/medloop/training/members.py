"""The networks that one model is made of: one, several that differ in their seed, or one for each fold.

Under `train.folds` the folds are made of train and validation data together, by patient: every sample is predicted by
the one network that never saw its patient, and these predictions stand for validation.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pyarrow as pa
from scipy.sparse import coo_matrix
from scipy.sparse.csgraph import connected_components

from medloop import dealing, params
from medloop.errors import Refused
from medloop.training.data import DRAWN, Arrays, Split, are_boxes, presence


@dataclass(frozen=True)
class Member:
    """What one network is trained and validated on."""

    seed: int
    arrays: Arrays
    rows: np.ndarray | None = None  # of `whole`, those that it is validated on; None: on the validation data


class Rows:
    """Some rows of several arrays as one array, of which nothing is copied before it is asked for."""

    def __init__(self, parts: Sequence[np.ndarray], rows: np.ndarray) -> None:
        self._parts, self._rows = parts, rows
        self.shape, self.dtype = (len(rows), *parts[0].shape[1:]), parts[0].dtype
        self.ndim = len(self.shape)

    def __len__(self) -> int:
        return len(self._rows)

    def __getitem__(self, key: Any) -> np.ndarray:
        first, *rest = key if isinstance(key, tuple) else (key,)
        wanted = self._rows[first]
        taken, begin = np.empty((len(wanted), *self.shape[1:]), self.dtype), 0
        for part in self._parts:
            here = (wanted >= begin) & (wanted < begin + len(part))
            taken[here] = part[wanted[here] - begin]
            begin += len(part)
        return taken[(slice(None), *rest)]


def plan(arrays: Arrays, section: params.Train, seed: int) -> list[Member]:
    """Return the members of a model.

    Raises:
        Refused: there are more folds than patients of a class, time is split, or images are synthetic.
    """
    if not section.folds:
        return [Member(seed + i, arrays) for i in range(section.members)]
    if arrays.about["facts"]["split_in_time"]:
        raise Refused(
            "train.folds must be 0 where recordings are split in time: the neighbours of a window would stand in other "
            "folds; train.members makes a model of several seeds"
        )
    together = whole(arrays)
    if "synthetic" in together.index.column_names and (made := sum(together.index["synthetic"].to_pylist())):
        raise Refused(
            f"train.folds must be 0 with synthetic images, of which there are {made}: they would stand in validation "
            "data, and were made of patients of every fold; train.members makes a model of several seeds"
        )
    fold = dealt(together, section.folds, seed)
    found = []
    for i in range(section.folds):
        rows = np.flatnonzero(fold == i)
        parts = _part(arrays, np.flatnonzero(fold != i)), _part(arrays, rows)
        found.append(Member(seed + i, Arrays(arrays.about, *parts), rows))
    return found


def whole(arrays: Arrays) -> Split:
    """Return train and validation data as one split, train first."""
    return _part(arrays, np.arange(len(arrays.train.labels) + len(arrays.val.labels)))


def dealt(together: Split, folds: int, seed: int) -> np.ndarray:
    """Return the fold (N,) of each sample: a patient's samples share one, and each fold has its share of every class.

    A sample whose patient is unknown counts as a patient of its own, and patients who share a sample, or of images a
    near copy, as one. A sample with several labels counts for the rarest of them; a mask has the labels of its pixels,
    an image with boxes those of its boxes.

    Raises:
        Refused: a class has fewer patients than there are folds.
    """
    names = _patients(together)
    labels = together.labels
    if labels.ndim == DRAWN:
        shown = presence(labels, int(labels[:, :, 4].max()) if are_boxes(labels) else np.iinfo(labels.dtype).max)
        labels = shown[:, shown.any(axis=0)]
    fold, fewest = dealing.dealt(names, _classes(labels), folds, seed)
    if labels.ndim > 1:
        having = [np.asarray(names)[column > 0] for column in labels.T]
        fewest = min(len(np.unique(each)) for each in having)
    if fewest < folds:
        raise Refused(f"train.folds must be at most {fewest}, the number of patients of the rarest class, got {folds}")
    return fold


def _patients(together: Split) -> list[str]:
    """Return a name (N,) for whom each sample is of."""
    known = zip(together.index["patient_id"].to_pylist(), together.index["sample_id"].to_pylist(), strict=True)
    names = [f"sample {sample}" if patient is None else f"patient {patient}" for patient, sample in known]
    own, place = np.unique(names, return_inverse=True)
    alike = [_identical(together.index)]
    if hasattr(together.kind, "copies"):
        alike.append(together.kind.copies(together.inputs))
    pairs = place[np.concatenate(alike)]
    shared = coo_matrix((np.ones(len(pairs)), pairs.T), (len(own), len(own)))
    group = connected_components(shared, directed=False)[1][place]
    _, first = np.unique(group, return_index=True)
    return [names[first[each]] for each in group]


def _identical(index: pa.Table) -> np.ndarray:
    """Return pairs (P, 2) of places that hold the same: each with the first that does."""
    _, first, which = np.unique(index["content_sha256"].to_numpy(), return_index=True, return_inverse=True)
    return np.stack([first[which], np.arange(len(which))], axis=1)


def _classes(labels: np.ndarray) -> np.ndarray:
    """Return class indices (N,): of several labels (N, L) the rarest that a sample has, or L; of numbers zeros."""
    if labels.ndim > 1:
        rarity = np.where(labels > 0, labels.sum(axis=0, dtype=np.int64), len(labels) + 1)
        return np.where(labels.any(axis=1), rarity.argmin(axis=1), labels.shape[1])
    return labels if labels.dtype.kind == "i" else np.zeros(len(labels), np.int64)


def _part(arrays: Arrays, rows: np.ndarray) -> Split:
    both = [arrays.train.labels, arrays.val.labels]
    labels: Any = Rows(both, rows) if both[0].ndim == DRAWN else np.concatenate(both)[rows]
    index = pa.concat_tables([arrays.train.index, arrays.val.index])
    inputs: Any = Rows([arrays.train.inputs, arrays.val.inputs], rows)
    return replace(arrays.train, inputs=inputs, labels=labels, index=index.take(pa.array(rows)))
