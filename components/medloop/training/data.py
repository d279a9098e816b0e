"""The arrays that `preprocess` wrote, mapped into memory, and the order in which training sees them."""

import json
import math
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from medloop import kinds, manifest, params, plugins
from medloop.errors import Refused
from medloop.kinds import Part
from medloop.training import mixup

SCHEMA_VERSION = 2
SEGMENT_BYTES = 32 * 2**20  # of inputs in memory at a time; two segments are alive at once
COUNTED_PIXELS = 2**22  # at a time, 8 bytes each while they are counted
Segment = tuple[np.ndarray, np.ndarray, np.ndarray]  # inputs (S, B, ...), labels (S, B, ..), weights (S, B, ..)
DRAWN = 3  # axes of labels that are masks, or boxes
PARTNERS, SHARES = 1, 2  # streams of random numbers beside those of the order and the augmentation


@dataclass(frozen=True)
class Split:
    """One side of the development data."""

    inputs: np.ndarray  # (N, H, W, C) uint8 or (N, L, C) float32, mapped into memory
    # (N,) int32 of classes, else float32; (N, L) uint8 of several labels at once; (N, H, W) uint8, mapped, of masks;
    # (N, M, 5) float32, mapped, of boxes: corners in pixels and the number of the class, 0 where it only fills up
    labels: np.ndarray
    index: pa.Table  # sample_id, patient_id, ... a row per input
    kind: ModuleType  # of sample
    mask: bool = False  # whether the last channel of an input says which of its moments are real


@dataclass(frozen=True)
class Arrays:
    """Development data, and what holds for all of it."""

    about: dict[str, Any]
    train: Split
    val: Split

    @property
    def shape(self) -> tuple[int, ...]:
        return tuple(self.about["input_shape"])

    @property
    def classes(self) -> list[str]:
        return list(self.about["classes"])


def read(folder: Path) -> Arrays:
    """Return the arrays in `folder`.

    Raises:
        Refused: there are none, they have another schema version, or a side is empty or lacks a class.
    """
    path = folder / "about.json"
    if not path.exists():
        raise Refused(f"no arrays in {folder}: run `medloop preprocess` first")
    about = json.loads(path.read_text())
    if about.get("schema_version") != SCHEMA_VERSION:
        raise Refused(
            f"{path} has schema version {about.get('schema_version')}, this medloop reads {SCHEMA_VERSION}: "
            "run `medloop preprocess` again"
        )
    kind, mask = about["facts"]["kind"], bool(about.get("preprocessing", {}).get("mask"))
    arrays = Arrays(about, *(_split(folder / name, kind, mask) for name in ("train", "val")))
    for name, split in (("train", arrays.train), ("val", arrays.val)):
        if split.labels.ndim == 1:
            _refuse_absent(arrays.classes, split.labels, name)
    if arrays.train.labels.ndim == 2:
        _refuse_constant(arrays.classes, arrays.train.labels)
    if arrays.train.labels.ndim == DRAWN:
        _refuse_unseen(arrays.classes, arrays.train.labels)
    return arrays


def _refuse_absent(classes: list[str], labels: np.ndarray, name: str) -> None:
    if absent := set(range(len(classes))) - set(np.unique(labels).tolist()):
        missing = ", ".join(classes[i] for i in sorted(absent))
        raise Refused(f"split {name} needs samples of every class, it has none of: {missing}")


def _refuse_constant(classes: list[str], labels: np.ndarray) -> None:
    constant = [name for name, column in zip(classes, labels.T, strict=True) if column.min() == column.max()]
    if constant:
        raise Refused(f"split train needs samples with every label and without it, not so for: {', '.join(constant)}")


def _refuse_unseen(classes: list[str], drawn: np.ndarray) -> None:
    having, drawings = presence(drawn, len(classes)).sum(axis=0).tolist(), "boxes" if are_boxes(drawn) else "masks"
    if unseen := [name for name, count in zip(classes, having, strict=True) if not count]:
        raise Refused(f"split train needs {drawings} with every class, none of its {drawings} has: {', '.join(unseen)}")


def are_boxes(labels: np.ndarray) -> bool:
    """Return whether labels (N, ..) are boxes (N, M, 5)."""
    return labels.ndim == DRAWN and labels.dtype == np.float32


def presence(masks: np.ndarray, classes: int) -> np.ndarray:
    """Return whether (N, classes) each mask (N, H, W) has a pixel of each class, a few in memory at a time.

    Of boxes (N, M, 5), whether one is of the class.

    Raises:
        Refused: a pixel is of no class.
    """
    if are_boxes(masks):
        return np.stack([(masks[:, :, 4] == place).any(axis=1) for place in range(1, 1 + classes)], axis=1)
    found = np.zeros((len(masks), 1 + classes), bool)
    for place in range(len(masks)):
        pixels = np.bincount(masks[place : place + 1].ravel(), minlength=1 + classes)
        if len(pixels) > 1 + classes:
            raise Refused(f"masks must hold 0 to {classes}, the number of classes, got {len(pixels) - 1}")
        found[place] = pixels > 0
    return found[:, 1:]


def _split(folder: Path, kind: str, mask: bool) -> Split:
    inputs, labels = (np.load(folder / f"{name}.npy", mmap_mode="r") for name in ("inputs", "labels"))
    index = pq.read_table(folder / "index.parquet")
    return Split(inputs, labels if labels.ndim == DRAWN else np.array(labels), index, plugins.load(kinds, kind), mask)


def sample_weights(labels: np.ndarray, classes: int, mode: str, sampling: str = "natural") -> np.ndarray:
    """Return (N,) float32: ones, or with "balanced" weights under which every class counts the same, mean one.

    They are ones under balanced sampling too, where every class counts the same already. Of several labels at once
    (N, L) each has weights of its own, (N, L): samples with it and samples without it count the same. Of masks and
    boxes they are ones: their losses see to rare classes.
    """
    if mode == "none" or sampling == "balanced" or not classes or labels.ndim == DRAWN:
        return np.ones(len(labels), np.float32)
    if labels.ndim > 1:
        having = labels.mean(axis=0)
        return np.where(labels, 0.5 / having, 0.5 / (1 - having)).astype(np.float32)
    counts = np.bincount(labels, minlength=classes)
    return (len(labels) / (classes * counts[labels])).astype(np.float32)


def normalisation(kind: str, split: Split, *, mask: bool = False) -> dict[str, Any]:
    """Return what the network's first layer does, its constants fitted on `split`.

    With a `mask` the last channel says which moments are real: they alone are counted and changed.
    """
    masked = {"mask": True} if mask else {}
    if kind not in ("train", "clipped"):
        return {"kind": kind, **masked}
    mean, std = mean_and_std(split.inputs, mask=mask)
    bounds = _bounds(split.inputs, mask) if kind == "clipped" else {}
    return {"kind": kind, "mean": mean, "std": std, **bounds, **masked}


def mean_and_std(images: np.ndarray, *, mask: bool = False) -> tuple[list[float], list[float]]:
    """Return mean and standard deviation per channel over (N, ..., C), a few inputs in memory at a time."""
    if images.dtype != np.uint8:
        return _of_floats(images, mask)
    rows = max(1, COUNTED_PIXELS // int(np.prod(images.shape[1:])))
    histogram = np.zeros((images.shape[-1], 256), np.int64)
    for first in range(0, len(images), rows):
        for channel in range(images.shape[-1]):
            histogram[channel] += np.bincount(images[first : first + rows, ..., channel].ravel(), minlength=256)
    levels, total = np.arange(256), histogram.sum(axis=1)
    mean = histogram @ levels / total
    variance = histogram @ levels**2 / total - mean**2
    return mean.tolist(), _deviation(variance)


def _bounds(inputs: np.ndarray, mask: bool) -> dict[str, list[float]]:
    """Return the least and the greatest value per channel over (N, ..., C)."""
    parts = [(flat.min(axis=0), flat.max(axis=0)) for flat in _flat(inputs, mask) if len(flat)]
    return {
        "low": np.min([low for low, _ in parts], axis=0).tolist(),
        "high": np.max([high for _, high in parts], axis=0).tolist(),
    }


def _deviation(variance: np.ndarray) -> list[float]:
    """Return standard deviations, 1 of a channel that is constant: it becomes zeros."""
    return np.where(variance > 1e-12, np.sqrt(np.maximum(variance, 0)), 1.0).tolist()


def _of_floats(inputs: np.ndarray, mask: bool) -> tuple[list[float], list[float]]:
    channels = inputs.shape[-1] - mask
    count, total, squares = 0, np.zeros(channels), np.zeros(channels)
    for flat in _flat(inputs, mask):
        count, total = count + len(flat), total + flat.sum(axis=0)
    mean = total / count
    for flat in _flat(inputs, mask):
        squares += ((flat - mean) ** 2).sum(axis=0)
    return mean.tolist(), _deviation(squares / count)


def _flat(inputs: np.ndarray, mask: bool) -> Iterator[np.ndarray]:
    """Yield (N, ..., C) as rows of float64, a few inputs at a time; with a `mask` the real moments, without it."""
    rows = max(1, COUNTED_PIXELS // int(np.prod(inputs.shape[1:])))
    for first in range(0, len(inputs), rows):
        flat = np.asarray(inputs[first : first + rows], np.float64).reshape(-1, inputs.shape[-1])
        yield flat[flat[:, -1] > 0, :-1] if mask else flat


def batch_size(split: Split, section: params.Train) -> int:
    """Return how many samples a batch has; raise Refused where the devices cannot share so small a set."""
    size = min(section.batch_size, len(split.labels))
    if size % section.devices:
        raise Refused(
            f"{size} training samples make one batch, which {section.devices} devices cannot share evenly: set "
            f"train.batch_size to {size - size % section.devices} or less, or train.nodes: 1"
        )
    return size


def epoch_segments(
    split: Split, weights: np.ndarray, section: params.Train, *, seed: int, epoch: int, node: int = 0
) -> Iterator[Segment]:
    """Yield one epoch in an order, with an augmentation and a mixing that `seed` and `epoch` alone decide.

    The last batch is filled up with samples of weight zero, so that every batch has one shape. Of several nodes each
    gets its part of every batch. The next segment is made while the caller trains on this one. Under `train.mixup`
    labels are shares of classes, (S, B, classes) float32. Masks (S, B, H, W) and boxes (S, B, M, 5) move with their
    images.
    """
    batch = batch_size(split, section)
    part = Part(batch, slice(node * batch // section.nodes, (node + 1) * batch // section.nodes))
    chosen = _batches(split.labels, batch, section.sampling, [seed, epoch])[:, part.rows]
    counted = np.arange(-(-len(split.labels) // batch) * batch).reshape(-1, batch)[:, part.rows] < len(split.labels)
    if section.mixup:
        partners = _batches(split.labels, batch, section.sampling, [seed, epoch, 0, PARTNERS])[:, part.rows]
    size = split.inputs.dtype.itemsize * math.prod(split.inputs.shape[1:])  # bytes
    size += split.labels.dtype.itemsize * math.prod(split.labels.shape[1:]) if split.labels.ndim == DRAWN else 0
    steps = max(1, SEGMENT_BYTES // (batch * size))

    def augmented(rows: np.ndarray, *stream: int) -> tuple[np.ndarray, np.ndarray]:
        return _augmented(split, rows, section.augment, np.random.default_rng([seed, epoch, *stream]), part)

    def make(first: int) -> Segment:
        rows = chosen[first : first + steps]
        inputs = np.empty((*rows.shape, *split.inputs.shape[1:]), split.inputs.dtype)
        labels, scale = np.empty((*rows.shape, *split.labels.shape[1:]), split.labels.dtype), weights[rows]
        if section.mixup:
            classes = split.labels.shape[1] if split.labels.ndim > 1 else split.labels.max() + 1
            labels = np.empty((*rows.shape, classes), np.float32)
        for i in range(len(rows)):
            inputs[i], own = augmented(rows[i], first + i)
            if not section.mixup:
                labels[i] = own
            else:
                others = partners[first + i]
                random = np.random.default_rng([seed, epoch, first + i, SHARES])
                share = random.beta(section.mixup, section.mixup, batch)[part.rows]
                inputs[i] = mixup.inputs(inputs[i], augmented(others, first + i, PARTNERS)[0], share, mask=split.mask)
                labels[i], scale[i] = mixup.labels(split.labels, weights, rows[i], others, share)
        manifest.let_go(split.inputs, split.labels)
        real = counted[first : first + steps]
        return inputs, labels, scale * real.reshape(*real.shape, *[1] * (scale.ndim - real.ndim))

    with ThreadPoolExecutor(1) as worker:
        ahead = worker.submit(make, 0)
        for first in range(steps, len(chosen), steps):
            ready, ahead = ahead.result(), worker.submit(make, first)
            yield ready
        yield ahead.result()


def _augmented(
    split: Split, rows: np.ndarray, section: params.Augment, random: np.random.Generator, part: Part
) -> tuple[np.ndarray, np.ndarray]:
    """Return changed copies of the inputs of `rows`, and their labels: masks and boxes are changed with them."""
    inputs, labels = split.inputs[rows], split.labels[rows]
    if labels.ndim == DRAWN:
        changed: tuple[np.ndarray, np.ndarray] = split.kind.augment(
            inputs, section, random, part, **{"boxes" if are_boxes(split.labels) else "masks": labels}
        )
        return changed
    more = {"real": inputs[..., -1:]} if split.mask else {}
    return split.kind.augment(inputs, section, random, part, **more), labels


def _batches(labels: np.ndarray, batch: int, sampling: str, stream: list[int]) -> np.ndarray:
    """Return which samples each batch of an epoch holds, (steps, batch); the last one is filled up."""
    random = np.random.default_rng(stream)
    order = random.permutation(len(labels)) if sampling == "natural" else _balanced(labels, random)
    return np.resize(order, len(order) + -len(order) % batch).reshape(-1, batch)


def _balanced(labels: np.ndarray, random: np.random.Generator) -> np.ndarray:
    """Return as many samples as there are labels, each class with the same number; none comes twice before all came."""
    classes = np.unique(labels)
    quotas = [len(part) for part in np.array_split(labels, len(classes))]
    drawn = [
        np.resize(random.permutation(np.flatnonzero(labels == each)), quota)
        for each, quota in zip(classes, quotas, strict=True)
    ]
    return random.permutation(np.concatenate(drawn))
