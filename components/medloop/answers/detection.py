"""From what a network says at each of its places to boxes in the pixels of the image itself.

Stands alone: it is shipped inside every registered model, where there is no medloop.

A place has 8 + classes + 1 numbers: its reference box, the predicted box (x0, y0, x1, y1 in pixels of the network's
input), a logit for each class, and one of how well the place lies in the middle of its object. A detection is six
numbers: corners, score (0 to 1) and the number of the class from 1 on.

An image reaches the network in one of two ways, as `preprocessing` says under `larger`: "resize" fits it into one
input; "slide" takes it in windows at its own size, whose detections are put together before the weaker of two that
overlap is left out.
"""

import json
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

WINDOWS = 8  # at once, so that memory stays flat however large an image is
NUMBERS = 8  # of a place, before its logits
FLOOR = 0.05  # score below which nothing is a detection
LOOKED_AT = 1000  # of an input, those with the highest scores
TOGETHER = 128  # of them whose overlaps are taken at once
MOST = 100  # detections of an image
SAME = 0.5  # IoU with a stronger one of its class, above which a detection is left out

Network = Callable[[np.ndarray], np.ndarray]


def said(outputs: np.ndarray, card: Mapping[str, Any]) -> np.ndarray:  # noqa: ARG001
    """Return the score (.., A, C) float64 of each class at places (.., A, 8 + C + 1).

    It is the geometric mean of its probability and of how well the place lies in the middle of its object.
    """
    return np.sqrt(_sigmoid(outputs[..., NUMBERS:-1]) * _sigmoid(outputs[..., -1:]))


def answer(outputs: np.ndarray, card: Mapping[str, Any]) -> dict[str, np.ndarray]:
    """Return the columns of images that have the size of the network's input, of outputs (N, A, K)."""
    return columns_of([_whole(found(each), card) for each in outputs], card)


def columns(card: Mapping[str, Any]) -> dict[str, str]:
    """Return name and type of each column.

    `boxes` is a JSON list, the highest score first, of {"box": [x0, y0, x1, y1], "label": .., "score": ..}, in pixels
    of the image with ends exclusive, of all with a score of FLOOR or more; `count_<class>` is how many of a class reach
    the threshold of the model.
    """
    return {"boxes": "string", **{f"count_{name}": "double" for name in card["classes"]}}


def columns_of(each: list[np.ndarray], card: Mapping[str, Any]) -> dict[str, np.ndarray]:
    """Return the columns of detections, (D, 6) of each image."""
    texts = np.empty(len(each), object)
    texts[:] = [written(rows, card["classes"]) for rows in each]
    reached = [decided(rows, card)[:, 5] for rows in each]
    counts = {
        f"count_{name}": np.array([float((kinds == place).sum()) for kinds in reached])
        for place, name in enumerate(card["classes"], 1)
    }
    return {"boxes": texts, **counts}


def written(rows: np.ndarray, classes: list[str]) -> str:
    """Return detections (D, 6) as JSON: corners to hundredths of a pixel, scores to six digits."""
    return json.dumps(
        [
            {
                "box": [round(float(corner), 2) for corner in row[:4]],
                "label": classes[int(row[5]) - 1],
                "score": round(float(row[4]), 6),
            }
            for row in rows
        ]
    )


def read(text: str, classes: list[str]) -> np.ndarray:
    """Return the detections (D, 6) of JSON."""
    rows = [(*each["box"], each["score"], 1 + classes.index(each["label"])) for each in json.loads(text)]
    return np.array(rows, np.float64).reshape(-1, 6)


def decided(rows: np.ndarray, card: Mapping[str, Any]) -> np.ndarray:
    """Return the detections whose score reaches the threshold of the card."""
    return rows[rows[:, 4] >= (card.get("threshold") or 0.0)]


def boxes(pixels: np.ndarray, bit_depth: int, decoder: Any, network: Network, card: Mapping[str, Any]) -> np.ndarray:
    """Return the detections (D, 6) of an image (H, W) or (H, W, 3) of any size, in its own pixels.

    Args:
        pixels: as the decoder gives them.
        bit_depth: bits in use.
        decoder: imaging.py, which makes of an image what the network takes.
        network: from arrays (N, h, w, C) uint8 to outputs (N, A, K).
        card: of the model.
    """
    preprocessing, size = card["preprocessing"], pixels.shape[:2]
    if preprocessing.get("larger", "resize") != "slide":
        wanted = {name: preprocessing[name] for name in ("size_px", "channels", "clip_percentiles")}
        array = decoder.fit(pixels, bit_depth, **wanted)
        return restored(found(network(array[None])[0]), array.shape[:2], size)
    image, at = decoder.windows(pixels, bit_depth, preprocessing)
    height, width = preprocessing["size_px"]
    parts = []
    for first in range(0, len(at), WINDOWS):
        here = at[first : first + WINDOWS]
        told = network(np.stack([image[top : top + height, left : left + width] for top, left in here]))
        parts += [found(each) for each in told]
    return joined(parts, at, size)


def found(outputs: np.ndarray) -> np.ndarray:
    """Return the detections (D, 6) of what is said at the places (A, K) of one input, the highest score first."""
    of_class = said(outputs, {})
    place, kind = np.nonzero(of_class >= FLOOR)
    score = of_class[place, kind]
    first = np.argsort(-score, kind="stable")[:LOOKED_AT]
    rows = np.column_stack([outputs[place[first], 4:NUMBERS].astype(np.float64), score[first], kind[first] + 1.0])
    return rows[kept(rows)]


def joined(parts: list[np.ndarray], at: list[tuple[int, int]], size: tuple[int, ...]) -> np.ndarray:
    """Return the detections (D, 6) of an image (H, W) of those of its windows, whose corners are `at` (top, left)."""
    moved = [rows + np.array([left, top, left, top, 0, 0]) for (top, left), rows in zip(at, parts, strict=True)]
    rows = cut(np.concatenate(moved), size)
    rows = rows[np.argsort(-rows[:, 4], kind="stable")]
    return rows[kept(rows)]


def restored(rows: np.ndarray, array: tuple[int, ...], size: tuple[int, ...]) -> np.ndarray:
    """Return detections (D, 6) in an input (h, w) that an image was fitted into in pixels of the image, (H, W)."""
    (by, top), (across, left) = geometry(array, size)
    moved = rows.copy()
    moved[:, [0, 2]], moved[:, [1, 3]] = rows[:, [0, 2]] * across - left, rows[:, [1, 3]] * by - top
    return cut(moved, size)


def geometry(array: tuple[int, ...], size: tuple[int, ...]) -> tuple[tuple[float, int], tuple[float, int]]:
    """Return for rows and columns how many pixels of an image (H, W) one of the input (h, w) is, and how many were
    added before the first.
    """
    (rows, columns), (height, width) = array[:2], size[:2]
    padded = max(height, round(width * rows / columns)), max(width, round(height * columns / rows))
    return (padded[0] / rows, (padded[0] - height) // 2), (padded[1] / columns, (padded[1] - width) // 2)


def cut(rows: np.ndarray, size: tuple[int, ...]) -> np.ndarray:
    """Return detections (D, 6) cut at the edge of an image (H, W); those that lie outside of it are left out."""
    inside = rows.copy()
    inside[:, [0, 2]] = rows[:, [0, 2]].clip(0, size[1])
    inside[:, [1, 3]] = rows[:, [1, 3]].clip(0, size[0])
    return inside[(inside[:, 2] > inside[:, 0]) & (inside[:, 3] > inside[:, 1])]


def kept(rows: np.ndarray) -> np.ndarray:
    """Return the places of those among detections (D, 6), the highest score first, that non-maximum suppression leaves.

    They are the first MOST of them. One of another class is never in the way.
    """
    places = np.empty(0, np.int64)
    apart = rows[:, :4] + (rows[:, 5] * 2 * (1 + np.abs(rows[:, :4]).max(initial=0)))[:, None]
    for start in range(0, len(rows), TOGETHER):
        block = np.arange(start, min(start + TOGETHER, len(rows)))
        block = block[(overlaps(apart[places], apart[block]) <= SAME).all(axis=0)]
        clear = overlaps(apart[block], apart[block]) <= SAME
        free = np.ones(len(block), bool)
        for first in range(len(block)):
            if free[first]:
                free[first + 1 :] &= clear[first, first + 1 :]
        places = np.concatenate([places, block[free]])[:MOST]
        if len(places) == MOST:
            break
    return places


def overlaps(boxes: np.ndarray, others: np.ndarray) -> np.ndarray:
    """Return the IoU (D, E) of boxes (D, 4) with others (E, 4)."""
    across, down = (
        np.minimum(boxes[:, None, i + 2], others[None, :, i + 2]) - np.maximum(boxes[:, None, i], others[None, :, i])
        for i in (0, 1)
    )
    both = np.maximum(across, 0) * np.maximum(down, 0)
    areas = [(each[:, 2] - each[:, 0]) * (each[:, 3] - each[:, 1]) for each in (boxes, others)]
    union = areas[0][:, None] + areas[1][None] - both
    return np.divide(both, union, out=np.zeros_like(both), where=union > 0)


def _whole(rows: np.ndarray, card: Mapping[str, Any]) -> np.ndarray:
    return cut(rows, card["preprocessing"]["size_px"])


def _sigmoid(logits: np.ndarray) -> np.ndarray:
    negative = np.exp(-np.abs(logits.astype(np.float64)))
    return np.where(logits >= 0, 1, negative) / (1 + negative)
