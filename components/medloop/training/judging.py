"""What a network says of labelled data, in numbers.

Of maps (N, H, W, K), and of what is said at many places (N, A, K), a few numbers for each image stand for outputs and
labels, and are taken while its map is there: the maps of all images would fill the memory. A network that makes images
says how wrong it is itself.
"""

from collections.abc import Iterator, Sequence
from types import ModuleType
from typing import Any

import numpy as np

from medloop.training import feeding
from medloop.training.data import Split

Parts = Iterator[tuple[slice, np.ndarray]]


def of_maps(task: ModuleType) -> bool:
    """Return whether the networks of a task give a map of each image, or say something at many places of it."""
    return hasattr(task, "reduced")


def of_images(task: ModuleType) -> bool:
    """Return whether the networks of a task make images."""
    return hasattr(task, "fed")


def inputs(split: Split, task: ModuleType) -> Any:
    """Return the inputs (N, ...) of a split as the networks of a task take them."""
    return feeding.Fed(split, task) if of_images(task) else split.inputs


def outputs(parts: Parts, labels: np.ndarray, task: ModuleType) -> np.ndarray:
    """Return the outputs (N, K) of all parts, of maps what the task keeps of them beside `labels` (N, ..).

    Of networks that make images it is how wrong they are, (N, 1).
    """
    if of_images(task):
        return np.concatenate([_wrong(part) for _, part in parts])
    if not of_maps(task):
        return np.concatenate([part for _, part in parts])
    return np.concatenate([task.reduced(part, labels[rows]) for rows, part in parts])


def labels(split: Split, task: ModuleType, classes: Sequence[str]) -> np.ndarray:
    """Return the labels of samples, (N,) or (N, L), of masks what the task keeps of them."""
    found: np.ndarray = task.areas(split.labels, len(classes)) if of_maps(task) else split.labels
    return found


def outputs_and_loss(parts: Parts, labels: np.ndarray, task: ModuleType, loss: Any) -> tuple[np.ndarray, float]:
    """Return what is kept of maps (N, K), and their mean `loss`, of labels and maps."""
    kept, lost = [], 0.0
    for rows, part in parts:
        truth = labels[rows]
        kept.append(task.reduced(part, truth))
        lost += float(loss(truth, part)) * len(part)
    return np.concatenate(kept), lost / len(labels)


def _wrong(outputs: np.ndarray) -> np.ndarray:
    """Return how wrong (B, 1) a network is that makes images, of its outputs (B, H, W, C + 1)."""
    return outputs[..., -1].mean(axis=(1, 2), dtype=np.float64)[:, None]
