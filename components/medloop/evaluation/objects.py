"""What the reports on masks and on boxes share: the same words, images chosen the same way, and how they are drawn."""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any

import cv2
import numpy as np
from matplotlib.figure import Figure

from medloop.evaluation import plots, wording

SMALL_CLASS = 20  # images with a class
EXAMPLES = 6
SIDE_PX = 256  # of a picture, at least: smaller images are enlarged by whole numbers


def size(card: Mapping[str, Any], back: str) -> tuple[str, str]:
    """Return the row that says how an image is taken, and how what is found in it comes back."""
    large = card["preprocessing"].get("larger", "resize") == "slide"
    taken = "taken in windows that overlap" if large else "fitted into the model's input"
    return "Size", f"each {card['kind']} is {taken}; {back}"


def small(metrics: Mapping[str, Any], units: str) -> str | None:
    """Return that the test set, or the part of it with a class, is small, or None."""
    return wording.small_classes(metrics, units, SMALL_CLASS)


def told(
    places: Iterable[int], say: Callable[[int], tuple[str, str]]
) -> Iterator[tuple[int, str, str, dict[str, float]]]:
    """Yield the image at each place with its label and what was said, which `say` gives; no marks."""
    for place in places:
        yield int(place), *say(int(place)), {}


def few(order: np.ndarray) -> np.ndarray:
    """Return EXAMPLES of the places of images (N,), evenly chosen, the first and the last among them."""
    return np.asarray(order[np.unique(np.linspace(0, len(order) - 1, EXAMPLES).round().astype(np.int64))])


def visible(pixels: np.ndarray) -> np.ndarray:
    """Return pixels (H, W, C) uint8 as (H, W, 3) whose gray levels fill the range."""
    return plots.stretched(np.repeat(pixels, 3, axis=-1) if pixels.shape[-1] == 1 else pixels)


def enlarged(array: np.ndarray, times: int) -> np.ndarray:
    """Return an image or a mask (H, W, ...) with each pixel as a square of `times` by `times`."""
    return np.ascontiguousarray(np.kron(array, np.ones((times, times, *[1] * (array.ndim - 2)), array.dtype)))


def png(image: np.ndarray) -> tuple[str, bytes]:
    """Return type and content of a picture (H, W, 3) RGB."""
    return "image/png", cv2.imencode(".png", image[..., ::-1])[1].tobytes()


def sizes(rows: Sequence[tuple[str, int, int]], across: str, up: str, rotation: float = 0) -> Figure:
    """Draw the share of objects that is found over how many there are, of rows (size, there, found)."""
    figure, axes = plots.axes_of(across, up, "Objects by size", ylim=(0, 1.1))
    axes.bar(range(len(rows)), [found / there for _, there, found in rows])
    for place, (_, there, found) in enumerate(rows):
        axes.annotate(f"{there:,}", (place, found / there), ha="center", va="bottom", fontsize=9)
    axes.set_xticks(range(len(rows)), [name for name, *_ in rows], rotation=rotation)
    return figure
