"""What a model says of every pixel of a test set, image by image: the maps of all of them are never held.

An image is one row of the arrays, or where `preprocess.larger` is "slide" several neighbouring ones, of which `top` and
`left` say where they lie in the image of `height` and `width`.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from itertools import islice
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pandas as pd

from medloop import answers, params, plugins
from medloop.inference import Network
from medloop.predictions import Predictions

BATCH = 8  # arrays at once


@dataclass(frozen=True)
class Image:
    """One image of the test set, (H, W) at the size at which it is judged."""

    place: int  # its first row
    rows: int
    size: tuple[int, int]


class TestSet:
    """The arrays in the folder of a split, mapped into memory."""

    __test__ = False  # not for pytest, for all its name

    def __init__(self, folder: Path) -> None:
        self.index = pd.read_parquet(folder / "index.parquet")
        self.inputs, self.masks = (np.load(folder / f"{name}.npy", mmap_mode="r") for name in ("inputs", "labels"))
        path = folder / "instances.npy"
        self.objects = np.load(path, mmap_mode="r") if path.exists() else None

    @cached_property
    def images(self) -> list[Image]:
        """The images, in order."""
        if "top" not in self.index:
            size = self.masks.shape[1], self.masks.shape[2]
            return [Image(place, 1, size) for place in range(len(self.index))]
        starts = np.flatnonzero(self.index["sample_id"] != self.index["sample_id"].shift())
        ends = [*starts[1:], len(self.index)]
        sides = self.index[["height", "width"]].to_numpy()
        return [
            Image(int(start), int(end - start), (int(sides[start, 0]), int(sides[start, 1])))
            for start, end in zip(starts, ends, strict=True)
        ]

    @property
    def table(self) -> pd.DataFrame:
        """A row for each image."""
        return self.index.iloc[[image.place for image in self.images]].reset_index(drop=True)

    def spacing(self, image: Image) -> tuple[float, float] | None:
        """Return the mm between rows and between columns of an image, where both are known."""
        if "spacing_y_mm" not in self.index:
            return None
        row, column = self.index[["spacing_y_mm", "spacing_x_mm"]].iloc[image.place].astype(float)
        return (row, column) if np.isfinite(row) and np.isfinite(column) else None

    def whole(self, array: np.ndarray, image: Image) -> np.ndarray:
        """Return the part (H, W, ..) of `inputs`, `masks` or `objects` that is about an image."""
        parts = array[image.place : image.place + image.rows]
        if "top" not in self.index:
            return np.asarray(parts[0])
        found = np.zeros((*self._padded(image), *parts.shape[3:]), parts.dtype)
        for (top, left), part in zip(self._places(image), parts, strict=True):
            found[top : top + part.shape[0], left : left + part.shape[1]] = part
        return found[: image.size[0], : image.size[1]]

    def joined(self, maps: Iterator[np.ndarray], image: Image, answer: ModuleType) -> np.ndarray:
        """Return the map (H, W, K) of an image from the next of `maps` (h, w, K), those of its rows."""
        if "top" not in self.index:
            return next(maps)
        found: np.ndarray = answer.stitched(islice(maps, image.rows), self._places(image), self._padded(image))
        return found[: image.size[0], : image.size[1]]

    def _places(self, image: Image) -> list[tuple[int, int]]:
        rows = self.index.iloc[image.place : image.place + image.rows]
        return [(int(top), int(left)) for top, left in zip(rows["top"], rows["left"], strict=True)]

    def _padded(self, image: Image) -> tuple[int, int]:
        """Return the sides of an image that is no smaller than a window."""
        height, width = image.size
        return max(height, self.masks.shape[1]), max(width, self.masks.shape[2])


def predicted(
    network: Network, test: TestSet, card: Mapping[str, Any], task: ModuleType, section: params.Evaluate
) -> Predictions:
    """Return what the model of the final `card` says of each image, in numbers."""
    maps = (each for part in network.parts(test.inputs, BATCH) for each in part)
    objects, answer = test.objects, plugins.load(answers, card["task"])

    def numbers() -> Iterator[Mapping[str, np.ndarray]]:
        for image in test.images:
            mask = test.whole(test.masks, image)
            known = None if objects is None else test.whole(objects, image)
            yield task.measured(test.joined(maps, image, answer), mask, known, test.spacing(image), card, section)

    found: Predictions = task.gathered(test.table, numbers(), card)
    return found


def drawn(network: Network, test: TestSet, place: int, card: Mapping[str, Any]) -> tuple[np.ndarray, ...]:
    """Return the pixels (H, W, C), the true and the predicted mask (H, W) of the image at a place of the table."""
    image = test.images[place]
    rows = test.inputs[image.place : image.place + image.rows]
    maps = (each for part in network.parts(rows, BATCH) for each in part)
    answer = plugins.load(answers, card["task"])
    said = answer.decide(test.joined(maps, image, answer), card)
    return test.whole(test.inputs, image), test.whole(test.masks, image), said
