"""What the networks that find objects are built of: features of several sizes, and one head for all of them.

Source: Lin et al., Feature pyramid networks for object detection, 2017. Sides are halved by the largest of 2x2 pixels
and not by strides, which on a CPU are slow. The head's convolutions are those of every level, its normalisations each
level's own: their statistics differ.
"""

import math
from collections.abc import Callable, Sequence
from typing import Any

import keras
import numpy as np
from keras import layers, ops

from medloop.networks import box_losses

MOMENTUM = 0.9  # of the normalisation's statistics: a small data set has few steps


def features(image: Any, filters: Sequence[int], finest: int, width: int, blocks: int) -> list[tuple[Any, int]]:
    """Return features (B, h, w, width) of each level and pixels from place to place in it, the finest level first.

    Args:
        image: (B, H, W, C); below and right zeros are added where a side is no multiple of the coarsest step.
        filters: of each halving of the sides.
        finest: step of the finest level in pixels, a power of two; the coarsest is 2^len(filters).
        width: of the levels' features.
        blocks: residual ones of two 3x3 convolutions, in each halving but the first.

    Raises:
        ValueError: the finest step is none of these.
    """
    steps = [2**place for place in range(1, 1 + len(filters))]
    if finest not in steps[1:]:
        raise ValueError(f"finest must be one of {', '.join(map(str, steps[1:]))}, got {finest}")
    rows, columns = (-side % steps[-1] for side in image.shape[1:3])
    x = layers.ZeroPadding2D(((0, rows), (0, columns)))(image)
    x = _folded(x)
    x = _normed(layers.Conv2D(filters[0], 3, padding="same", use_bias=False)(x))  # (B, H / 2, W / 2, filters[0])
    found = []
    for step, each in zip(steps[1:], filters[1:], strict=True):
        x = layers.MaxPooling2D()(x)
        for _ in range(blocks):
            x = _block(x, each)  # (B, H / step, W / step, each)
        found.append((step, x))
    kept = [(step, each) for step, each in found if step >= finest]
    levels: list[Any] = []
    for _, each in reversed(kept):
        side = layers.Conv2D(width, 1, use_bias=False)(each)
        if levels:
            side = layers.Add()([side, layers.UpSampling2D()(levels[0])])
        levels.insert(0, side)
    smooth = [_normed(layers.Conv2D(width, 3, padding="same", use_bias=False)(each)) for each in levels]
    return list(zip(smooth, (step for step, _ in kept), strict=True))


class Head:
    """Two towers of convolutions, one for classes and one for sides, and the logits of classes: alike on every level.

    Args:
        width: of the features.
        depth: 3x3 convolutions of each tower.
        logits: of each place; at first each says `box_losses.PRIOR`.
    """

    def __init__(self, width: int, depth: int, logits: int) -> None:
        self._width = width
        self._classes, self._sides = _tower(width, depth), _tower(width, depth)
        self._of_class = last(logits, -math.log(1 / box_losses.PRIOR - 1))

    def network(
        self,
        input_shape: tuple[int, int, int],
        told: Callable[[Any, Any, int], Any],
        *,
        filters: Sequence[int],
        finest: int,
        blocks: int,
        name: str,
    ) -> keras.Model:
        """Return the network from images (B, H, W, C) to what is `told` (B, A, K) of all places of all levels.

        Args:
            input_shape: (H, W, C).
            told: returns (B, h, w, ..., K) of logits (B, h, w, logits), features of sides (B, h, w, width), and pixels
                from place to place.
            filters: see `features`.
            finest: likewise.
            blocks: likewise.
            name: of the network.
        """
        image = layers.Input(input_shape)
        found = []
        for x, step in features(image, filters, finest, self._width, blocks):
            sides = _through(self._sides, x)
            of_level = told(self._of_class(_through(self._classes, x)), sides, step)
            found.append(layers.Reshape((-1, of_level.shape[-1]))(of_level))
        return keras.Model(image, layers.Concatenate(axis=1)(found), name=name)


def last(numbers: int, bias: float) -> Any:
    """Return the layer that gives `numbers` of each place, float32; at first all are about `bias`."""
    return layers.Conv2D(
        numbers,
        3,
        padding="same",
        kernel_initializer=keras.initializers.RandomNormal(stddev=0.01),
        bias_initializer=keras.initializers.Constant(bias),
        dtype="float32",
    )


def centres(like: Any, step: int) -> tuple[np.ndarray, np.ndarray]:
    """Return x and y (1, h, w, 1) of the middle of each place of features (B, h, w, ..), in pixels.

    They are numpy's: a tensor of the backend would be exported as an input of the network. Each has a number for every
    place: of (1, 1, w, 1), which would do, keras on TensorFlow makes a bias of rows where h is w.
    """
    across, down = np.meshgrid(*((np.arange(side) + 0.5) * step for side in like.shape[2:0:-1]))
    return across.astype(np.float32)[None, ..., None], down.astype(np.float32)[None, ..., None]


def _folded(x: Any) -> Any:
    """Return (B, H, W, C) with each 2x2 pixels as one of four times the channels: nothing of them is lost."""
    _, height, width, channels = x.shape
    x = ops.reshape(x, (-1, height // 2, 2, width // 2, 2, channels))
    return ops.reshape(ops.transpose(x, (0, 1, 3, 2, 4, 5)), (-1, height // 2, width // 2, 4 * channels))


def _block(x: Any, width: int) -> Any:
    y = _normed(layers.Conv2D(width, 3, padding="same", use_bias=False)(x))
    y = layers.BatchNormalization(momentum=MOMENTUM)(layers.Conv2D(width, 3, padding="same", use_bias=False)(y))
    if x.shape[-1] != width:
        x = layers.BatchNormalization(momentum=MOMENTUM)(layers.Conv2D(width, 1, use_bias=False)(x))
    return layers.ReLU()(layers.Add()([x, y]))


def _tower(width: int, depth: int) -> list[Any]:
    return [layers.Conv2D(width, 3, padding="same", use_bias=False) for _ in range(depth)]


def _through(tower: Sequence[Any], x: Any) -> Any:
    """Return features (B, h, w, width)."""
    for layer in tower:
        x = _normed(layer(x))
    return x


def _normed(x: Any) -> Any:
    return layers.ReLU()(layers.BatchNormalization(momentum=MOMENTUM)(x))
