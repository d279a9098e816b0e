"""From the logits of every pixel to a mask of the image's own size.

Stands alone: it is shipped inside every registered model, where there is no medloop.

An image reaches the network in one of two ways, as `preprocessing` says under `larger`: "resize" fits it into one
input, its aspect ratio kept by padding; "slide" leaves it at its size and takes it in windows that overlap by at least
`overlap`, of which the middle counts more than the edge. Either way logits come back to the size of the image, and a
class is decided there.
"""

from collections.abc import Callable, Iterator, Mapping
from typing import Any

import cv2
import numpy as np

WINDOWS = 8  # at once, so that memory stays flat however large an image is
EDGE = 1e-3  # the least weight of a pixel of a window, in the corner

Network = Callable[[np.ndarray], np.ndarray]


def said(outputs: np.ndarray, card: Mapping[str, Any]) -> np.ndarray:
    """Return probabilities (.., 1 + classes) float32 of logits; calibrated with the temperature of the card."""
    return probabilities(outputs, card.get("temperature", 1.0))


def answer(outputs: np.ndarray, card: Mapping[str, Any]) -> dict[str, np.ndarray]:
    """Return the columns of images that have the size of the network's input, of logits (N, H, W, 1 + classes)."""
    return columns_of([decide(each, card) for each in outputs], card)


def columns(card: Mapping[str, Any]) -> dict[str, str]:
    """Return name and type of each column: a mask, PNG of class indices (0: none), and the pixels of each class.

    A model server, which answers in JSON, gives the mask as base64.
    """
    return {"mask": "binary", **{f"area_{name}": "double" for name in card["classes"]}}


def columns_of(masks: list[np.ndarray], card: Mapping[str, Any]) -> dict[str, np.ndarray]:
    """Return the columns of masks, each (H, W) uint8 of its own size."""
    encoded = np.empty(len(masks), object)
    encoded[:] = [png(mask) for mask in masks]
    counted = [np.bincount(mask.ravel(), minlength=1 + len(card["classes"])) for mask in masks]
    areas = np.array(counted, np.float64).reshape(len(masks), -1)
    return {"mask": encoded, **{f"area_{name}": areas[:, 1 + i] for i, name in enumerate(card["classes"])}}


def mask(pixels: np.ndarray, bit_depth: int, decoder: Any, network: Network, card: Mapping[str, Any]) -> np.ndarray:
    """Return the class of each pixel, (H, W) uint8, of an image (H, W) or (H, W, 3) of any size.

    Args:
        pixels: as the decoder gives them.
        bit_depth: bits in use.
        decoder: imaging.py, which makes of an image what the network takes.
        network: from arrays (N, h, w, C) uint8 to logits (N, h, w, 1 + classes).
        card: of the model.
    """
    way = whole if card["preprocessing"].get("larger", "resize") == "slide" else resized
    return decide(way(pixels, bit_depth, decoder, network, card["preprocessing"]), card)


def resized(
    pixels: np.ndarray, bit_depth: int, decoder: Any, network: Network, preprocessing: Mapping[str, Any]
) -> np.ndarray:
    """Return the logits (H, W, 1 + classes) of an image that is fitted into one input."""
    wanted = {name: preprocessing[name] for name in ("size_px", "channels", "clip_percentiles")}
    array = decoder.fit(pixels, bit_depth, **wanted)
    return restored(network(array[None])[0], pixels.shape[:2])


def whole(
    pixels: np.ndarray, bit_depth: int, decoder: Any, network: Network, preprocessing: Mapping[str, Any]
) -> np.ndarray:
    """Return the logits (H, W, 1 + classes) of an image that is taken in windows."""
    image, at = decoder.windows(pixels, bit_depth, preprocessing)
    height, width = preprocessing["size_px"]

    def tiles() -> Iterator[np.ndarray]:
        for first in range(0, len(at), WINDOWS):
            part = at[first : first + WINDOWS]
            yield from network(np.stack([image[top : top + height, left : left + width] for top, left in part]))

    return stitched(tiles(), at, image.shape[:2])[: pixels.shape[0], : pixels.shape[1]]


def stitched(tiles: Iterator[np.ndarray], at: list[tuple[int, int]], size: tuple[int, ...]) -> np.ndarray:
    """Return maps (h, w, K) of windows as one map (H, W, K) float32: weighted means, the middle of a window the most.

    Source: Isensee et al., nnU-Net, 2021, which weighs by a Gaussian of an eighth of the window.
    """
    total, weight = None, np.zeros((*size, 1), np.float32)
    for (top, left), tile in zip(at, tiles, strict=True):
        if total is None:
            total, mine = np.zeros((*size, tile.shape[-1]), np.float32), importance(tile.shape[:2])[..., None]
        here = slice(top, top + tile.shape[0]), slice(left, left + tile.shape[1])
        total[here] += mine * tile
        weight[here] += mine
    assert total is not None
    return total / weight


def importance(window: tuple[int, ...]) -> np.ndarray:
    """Return the weight (h, w) float32 of each pixel of a window: a Gaussian about its middle, 1 at most."""
    bells = [np.exp(-(((np.arange(side) - (side - 1) / 2) / (side / 8)) ** 2) / 2) for side in window]
    bell = np.outer(*bells)
    return np.maximum(bell / bell.max(), EDGE).astype(np.float32)


def restored(logits: np.ndarray, size: tuple[int, ...]) -> np.ndarray:
    """Return a map (h, w, K) of an input that an image was fitted into as a map of the image's `size`, (H, W, K).

    It is resized as the padded image was, back again, and what was padded is cut off.
    """
    height, width = size
    rows, columns = logits.shape[:2]
    padded = max(height, round(width * rows / columns)), max(width, round(height * columns / rows))
    top, left = (padded[0] - height) // 2, (padded[1] - width) // 2
    shrinks = padded[0] <= rows and padded[1] <= columns
    way = cv2.INTER_AREA if shrinks else cv2.INTER_LINEAR
    found = np.empty((height, width, logits.shape[-1]), np.float32)
    for channel in range(logits.shape[-1]):
        plane: np.ndarray = np.ascontiguousarray(logits[..., channel], np.float32)
        if padded != (rows, columns):
            plane = cv2.resize(plane, padded[::-1], interpolation=way)
        found[..., channel] = plane[top : top + height, left : left + width]
    return found


def probabilities(logits: np.ndarray, temperature: float = 1.0) -> np.ndarray:
    """Return the softmax of logits (.., 1 + classes) divided by the calibration `temperature`, float32."""
    scaled: np.ndarray = logits.astype(np.float32) / np.float32(temperature)
    scaled -= scaled.max(axis=-1, keepdims=True)
    np.exp(scaled, out=scaled)
    scaled /= scaled.sum(axis=-1, keepdims=True)
    return scaled


def decide(logits: np.ndarray, card: Mapping[str, Any]) -> np.ndarray:
    """Return the class index (H, W) uint8 of each pixel, 0 for the background, of logits (H, W, 1 + classes).

    With one class it is decided where its probability reaches the threshold of the card; with more, the likeliest.
    """
    threshold = card.get("threshold")
    if threshold is None:
        return logits.argmax(axis=-1).astype(np.uint8)
    return (said(logits, card)[..., 1] >= threshold).astype(np.uint8)


def png(mask: np.ndarray) -> bytes:
    """Return a mask (H, W) uint8 as a PNG file of one channel."""
    return cv2.imencode(".png", np.ascontiguousarray(mask))[1].tobytes()
