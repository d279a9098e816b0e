"""What a network that makes images is given of real ones: pictures with noise, which seeds alone decide."""

import math
from collections.abc import Iterator
from types import ModuleType
from typing import Any

import numpy as np

from medloop.training.data import SEGMENT_BYTES, Segment, Split

NOISE = 3  # a stream of random numbers beside those of the order, the augmentation and the mixing


def segments(found: Iterator[Segment], task: ModuleType, stream: list[int]) -> Iterator[Segment]:
    """Yield the same batches as the network takes them, a few at a time: noise is four times as large as a gray image.

    Args:
        found: of images (S, B, H, W, C), labels and weights.
        task: that says what a network is given.
        stream: of random numbers: seed, epoch and the number of the node.
    """
    for number, (images, labels, weights) in enumerate(found):
        size = 4 * images.shape[1] * math.prod(task.fed_shape(images.shape[2:]))  # bytes of a batch
        steps = max(1, SEGMENT_BYTES // size)
        random = np.random.default_rng([*stream, number, NOISE])
        for begin in range(0, len(images), steps):
            part = slice(begin, begin + steps)
            pairs = zip(images[part], labels[part], strict=True)
            yield np.stack([task.fed(*pair, random) for pair in pairs]), labels[part], weights[part]


class Fed:
    """The images of a split as the network takes them, made when they are asked for, with the same noise each time."""

    def __init__(self, split: Split, task: ModuleType) -> None:
        self._split, self._task = split, task
        self.shape = (len(split.inputs), *task.fed_shape(split.inputs.shape[1:]))

    def __len__(self) -> int:
        return self.shape[0]

    def __getitem__(self, rows: slice) -> np.ndarray:
        places = range(*rows.indices(len(self)))
        return np.concatenate([self._one(place) for place in places])

    def _one(self, place: int) -> np.ndarray:
        one: Any = slice(place, place + 1)
        random = np.random.default_rng([place, NOISE])
        found: np.ndarray = self._task.fed(self._split.inputs[one], self._split.labels[one], random)
        return found
