"""From noise and a class to a picture, which carries the mark that it is synthetic, always.

Stands alone: it is shipped inside every registered model, where there is no medloop.

A network that makes images is given arrays (B, H, W, 2 C + 2) float32: C channels of a picture, from -1 (black) to 1; C
of noise, of zero mean and unit variance; the time, from 0 to 1; and the class. It gives (B, H, W, C + 1): the picture
that it takes to be underneath, and how wrong it is. At time t a share cos(t pi / 2) of the picture and sin(t pi / 2) of
the noise make what is seen, so that at time 1 there is noise alone: there a picture begins. Where the network takes
several steps, the picture and the noise that it found are given back to it at an earlier time, the picture carried on a
part of its last move: Lu et al., DPM-Solver++, 2022, algorithm 2 (2M).

A network smooths: what it takes to be underneath varies less than pictures do, the more so step by step. A little more
noise to begin with, `noise` of the card in standard deviations, makes up for it (Ning et al., Elucidating the exposure
bias in diffusion models, 2024, who take from the noise that the network finds instead).

A picture follows from its class and its seed, a number, and from nothing else.
"""

import hashlib
import json
import math
import zlib
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import cv2
import numpy as np
import pandas as pd

BATCH = 64  # pictures at once
SEEDS = 2**31
CLOSER = 1.5  # power of equal steps of time: they get shorter where the fine detail is found
WORD = "SYNTHETIC"
KEY = "medloop.synthetic"  # of the text in a PNG file
NOTICE = "Synthetic image for teaching: shows no patient. Not for diagnosis, and never for validation or test data."
CELLS, WORD_CELLS = 24, 3  # along each side of a marked picture; rows of cells in which the word stands
SHORTEST_PX = 190  # of the picture in it: smaller ones are enlarged by whole numbers
Run = Callable[[np.ndarray], np.ndarray]


def generate(table: pd.DataFrame, run: Run, card: Mapping[str, Any]) -> dict[str, list[bytes]]:
    """Return the column `image` of marked PNG files, one for each row of `table`.

    Args:
        table: columns `label`, the name of a class, and `seed`, a whole number from 0; the same gives the same picture.
        run: from the input of the network to its output.
        card: of the model.

    Raises:
        ValueError: a label is none of the classes, or a seed no such number; the message names the first bad row.
    """
    classes = list(card["classes"])
    for place, (label, seed) in enumerate(zip(table["label"], table["seed"], strict=True)):
        if label not in classes:
            raise ValueError(f"row {place}: label must be one of {', '.join(classes)}, got {label!r}")
        if not (isinstance(seed, int | np.integer) and 0 <= seed < SEEDS):
            raise ValueError(f"row {place}: seed must be a whole number from 0 to {SEEDS - 1}, got {seed!r}")
    if not len(table):
        return {"image": []}
    places, seeds = [classes.index(label) for label in table["label"]], [int(seed) for seed in table["seed"]]
    made = pictures(run, places, seeds, card)
    said = [{"label": classes[place], "seed": seed} for place, seed in zip(places, seeds, strict=True)]
    origin = {"dataset": card["dataset"], "weights_sha256": card["weights_sha256"]}
    return {"image": [marked(pixels, each | origin) for pixels, each in zip(made, said, strict=True)]}


def inputs(card: Mapping[str, Any]) -> dict[str, str]:  # noqa: ARG001
    """Return name and type of each column that `generate` takes."""
    return {"label": "string", "seed": "long"}


def columns(card: Mapping[str, Any]) -> dict[str, str]:  # noqa: ARG001
    """Return name and type of each column that it returns."""
    return {"image": "binary"}


def example(card: Mapping[str, Any]) -> pd.DataFrame:
    """Return one row that asks for a picture."""
    return pd.DataFrame({"label": [card["classes"][0]], "seed": [0]})


def said(outputs: np.ndarray, card: Mapping[str, Any]) -> np.ndarray:  # noqa: ARG001
    """Return outputs as they are: what a network is judged by is no answer to a sample."""
    return np.asarray(outputs, np.float64)


def pictures(run: Run, labels: Sequence[int], seeds: Sequence[int], card: Mapping[str, Any]) -> np.ndarray:
    """Return the pictures (N, H, W, C) uint8 of classes and seeds, by the network that `run` asks."""
    parts = [
        _made(run, np.asarray(labels[i : i + BATCH]), seeds[i : i + BATCH], card) for i in range(0, len(labels), BATCH)
    ]
    return np.concatenate(parts)


def given(
    picture: np.ndarray, noise: np.ndarray, time: np.ndarray | float, labels: np.ndarray | Sequence[int]
) -> np.ndarray:
    """Return the input of a network (B, H, W, 2 C + 2) of pictures and noise (B, H, W, C), times and classes (B,)."""
    shape = (len(picture), 1, 1, 1)
    known = [
        np.broadcast_to(np.reshape(each, (-1, 1, 1, 1)), shape) * np.ones((1, *picture.shape[1:3], 1))
        for each in (time, labels)
    ]
    return np.concatenate([picture, noise, *known], axis=-1, dtype=np.float32)


def _made(run: Run, labels: np.ndarray, seeds: Sequence[int], card: Mapping[str, Any]) -> np.ndarray:
    shape = tuple(card["input_shape"])
    noise = np.float32(card.get("noise", 1)) * np.stack(
        [
            np.random.default_rng([int(seed), int(label)]).standard_normal(shape, np.float32)
            for seed, label in zip(seeds, labels, strict=True)
        ]
    )
    picture, found = np.zeros_like(noise), None
    times, further = _course(card["steps"])
    for time, by in zip(times, further, strict=True):
        share, spread = np.float32(math.cos(time * math.pi / 2)), np.float32(math.sin(time * math.pi / 2))
        seen = share * picture + spread * noise
        before, found = found, np.clip(run(given(picture, noise, float(time), labels))[..., : shape[-1]], -1, 1)
        picture = np.clip(found + by * (found - before), -1, 1) if by else found
        noise = (seen - share * picture) / spread
    return np.floor(np.clip((picture + 1) * 127.5, 0, 255) + 0.5).astype(np.uint8)


def _course(steps: int) -> tuple[np.ndarray, np.ndarray]:
    """Return the times (S,) of steps, and by what share of its last move (S,) a picture is carried on after each."""
    times = np.linspace(1, 0, steps, endpoint=False) ** CLOSER
    level = -np.log(np.tan(times * (math.pi / 2)))  # log of picture over noise
    further = np.zeros(steps, np.float32)
    moves = np.diff(level)
    further[1:-1] = moves[1:] / (2 * moves[:-1])
    return times, further


def marked(pixels: np.ndarray, about: Mapping[str, Any]) -> bytes:
    """Return a picture (H, W, C) uint8 as a PNG file with both marks; its own values stand in it unchanged.

    The visible one: a frame of black and white cells, the same in every picture, and the word SYNTHETIC. Of the CELLS
    by CELLS equal cells that make the file's picture, the outermost are the frame, so that it is found at any size. The
    other: a text in the file, NOTICE with what is said `about` it.
    """
    times, cell, top, left = _layout(pixels.shape)
    bits = frame()
    image = np.kron(np.where(bits < 0, 0, bits * 255), np.ones((cell, cell))).astype(np.uint8)
    large = np.kron(
        pixels[..., 0] if pixels.shape[-1] == 1 else pixels,
        np.ones((times, times, *[1] * (pixels.shape[-1] == 3)), np.uint8),
    )
    image = np.repeat(image[..., None], 3, axis=-1) if large.ndim == 3 else image
    image[top : top + large.shape[0], left : left + large.shape[1]] = large[..., ::-1] if large.ndim == 3 else large
    _write_word(image, cell)
    text = json.dumps({"notice": NOTICE, **about}, sort_keys=True)
    return _with_text(cv2.imencode(".png", image)[1].tobytes(), text)


def unmarked(content: bytes, shape: Sequence[int]) -> np.ndarray:
    """Return the picture (H, W, C) uint8 in what `marked` returned, for a judgement of the model that made it."""
    image = np.asarray(cv2.imdecode(np.frombuffer(content, np.uint8), cv2.IMREAD_UNCHANGED))
    times, _, top, left = _layout(shape)
    part = image[top : top + shape[0] * times : times, left : left + shape[1] * times : times]
    return part[..., None] if part.ndim == 2 else part[..., ::-1]


def frame() -> np.ndarray:
    """Return the cells (CELLS, CELLS) of a marked picture: 1 white and 0 black in the frame, -1 within it."""
    digest = hashlib.sha256(KEY.encode()).digest()
    bits = np.unpackbits(np.frombuffer(digest, np.uint8))[: 4 * (CELLS - 1)]
    cells = np.full((CELLS, CELLS), -1)
    edge = np.ones((CELLS, CELLS), bool)
    edge[1:-1, 1:-1] = False
    cells[edge] = bits
    return cells


def _layout(shape: Sequence[int]) -> tuple[int, int, int, int]:
    """Return how many times a picture (H, W, ..) is enlarged, pixels of a cell, and its first row and column."""
    height, width = shape[:2]
    times = max(1, math.ceil(SHORTEST_PX / min(height, width)))
    rows, columns = CELLS - 2 - WORD_CELLS, CELLS - 2
    cell = max(math.ceil(height * times / rows), math.ceil(width * times / columns))
    return times, cell, cell + (rows * cell - height * times) // 2, cell + (columns * cell - width * times) // 2


def _write_word(image: np.ndarray, cell: int) -> None:
    """Write the word into the rows of cells between picture and frame."""
    face, thick = cv2.FONT_HERSHEY_SIMPLEX, max(1, cell // 6)
    (width, height), _ = cv2.getTextSize(WORD, face, 1.0, thick)
    size = min((CELLS - 4) * cell / width, (WORD_CELLS - 1) * cell / height)
    (width, height), _ = cv2.getTextSize(WORD, face, size, thick)
    middle = (CELLS - 1 - WORD_CELLS / 2) * cell
    at = (image.shape[1] - width) // 2, int(middle + height / 2)
    cv2.putText(image, WORD, at, face, size, (255,) * 3, thick, cv2.LINE_AA)


def _with_text(png: bytes, text: str) -> bytes:
    """Return a PNG file with a text under KEY, right after its header."""
    chunk = b"tEXt" + KEY.encode() + b"\0" + text.encode("latin-1", "replace")
    after = 8 + 25  # signature, and the chunk IHDR
    written = (len(chunk) - 4).to_bytes(4, "big") + chunk + zlib.crc32(chunk).to_bytes(4, "big")
    return png[:after] + written + png[after:]
