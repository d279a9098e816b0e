"""What a model finds in each image of a test set, in the image's own pixels: what it says at all places is never held.

An image is one row of the arrays, or several: see `maps`.
"""

from collections.abc import Iterator, Mapping
from itertools import islice
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pandas as pd

from medloop import answers, params, plugins
from medloop.evaluation import maps
from medloop.evaluation.maps import BATCH, Image
from medloop.inference import Network
from medloop.predictions import Predictions


class TestSet(maps.TestSet):
    """The arrays in the folder of a split, mapped into memory, and the true boxes of each image."""

    __test__ = False  # not for pytest, for all its name

    def __init__(self, folder: Path) -> None:
        self.index = pd.read_parquet(folder / "index.parquet")
        self.inputs = np.load(folder / "inputs.npy", mmap_mode="r")
        self.masks, self.objects = self.inputs[..., 0], None  # of which the size counts

    def size(self, image: Image) -> tuple[int, int]:
        """Return height and width of an image itself, in pixels."""
        height, width = self.index[["height", "width"]].iloc[image.place]
        return int(height), int(width)

    def truth(self, image: Image) -> np.ndarray:
        """Return corners, in pixels of the image, and class number of its boxes (M, 5)."""
        return np.array(self.index["boxes"].iloc[image.place], np.float64).reshape(-1, 5)

    def found(self, outputs: Iterator[np.ndarray], image: Image, answer: ModuleType) -> np.ndarray:
        """Return the detections (D, 6) in an image, in its pixels, from the next of `outputs` (A, K)."""
        parts = [answer.found(each) for each in islice(outputs, image.rows)]
        if "top" in self.index:
            return np.asarray(answer.joined(parts, self._places(image), self.size(image)))
        return np.asarray(answer.restored(parts[0], self.inputs.shape[1:3], self.size(image)))

    def shown(self, rows: np.ndarray, image: Image, answer: ModuleType) -> np.ndarray:
        """Return boxes or detections of an image in the pixels of what `whole` gives of it."""
        if "top" in self.index:
            return rows
        (by, top), (across, left) = answer.geometry(self.inputs.shape[1:3], self.size(image))
        moved = rows.copy()
        moved[:, [0, 2]], moved[:, [1, 3]] = (rows[:, [0, 2]] + left) / across, (rows[:, [1, 3]] + top) / by
        return moved


def predicted(
    network: Network,
    test: TestSet,
    card: Mapping[str, Any],
    task: ModuleType,
    section: params.Evaluate,  # noqa: ARG001
) -> Predictions:
    """Return what the model of the final `card` says of each image, in numbers."""
    outputs = (each for part in network.parts(test.inputs, BATCH) for each in part)
    answer = plugins.load(answers, card["task"])
    numbers = (task.measured(test.found(outputs, image, answer), test.truth(image), card) for image in test.images)
    found: Predictions = task.gathered(test.table, numbers, card)
    return found


def drawn(network: Network, test: TestSet, place: int, card: Mapping[str, Any]) -> tuple[np.ndarray, ...]:
    """Return the pixels (H, W, C), true boxes (M, 5) and detections (D, 6) of the image at a place of the table.

    The detections are those that reach the threshold of the card.
    """
    image = test.images[place]
    outputs = (
        each for part in network.parts(test.inputs[image.place : image.place + image.rows], BATCH) for each in part
    )
    answer = plugins.load(answers, card["task"])
    said = answer.decided(test.found(outputs, image, answer), card)
    boxes = (test.shown(rows, image, answer) for rows in (test.truth(image), said))
    return test.whole(test.inputs, image), *boxes
