"""Parts of networks that several architectures share."""

from collections.abc import Callable
from typing import Any

import keras
from keras import layers

MOMENTUM = 0.9  # of the normalisation's statistics: a small data set has few steps


def u_net(
    input_shape: tuple[int, int, int],
    outputs: int,
    *,
    filters: tuple[int, ...],
    batch_norm: bool,
    dropout: float,
    name: str,
    gate: Callable[[Any, Any], Any] = lambda skip, deeper: skip,  # noqa: ARG005
) -> keras.Model:
    """Return a U-Net from images (B, H, W, C) to the logits of every pixel (B, H, W, outputs).

    Images whose sides are no multiple of 2^(levels - 1) are padded with zeros, and the map is cropped.

    Args:
        input_shape: (H, W, C).
        outputs: number of classes, the background among them.
        filters: of the two 3x3 convolutions of each level; every level but the first halves height and width.
        batch_norm: normalise after each convolution.
        dropout: share of the features left out at the deepest level while training.
        name: of the network.
        gate: what of a skip (B, H, W, F) is passed on, by the features below it (B, H / 2, W / 2, G).
    """
    image = layers.Input(input_shape)
    x, margins = padded(image, 2 ** (len(filters) - 1))
    skips = []
    for width in filters[:-1]:
        x = convolved(x, width, batch_norm)
        skips.append(x)  # (B, H / 2^level, W / 2^level, width)
        x = layers.MaxPooling2D()(x)
    x = convolved(x, filters[-1], batch_norm)
    x = layers.Dropout(dropout)(x) if dropout else x
    for skip in reversed(skips):
        kept = gate(skip, x)
        x = layers.Conv2DTranspose(skip.shape[-1], 2, strides=2)(x)
        x = convolved(layers.Concatenate()([kept, x]), skip.shape[-1], batch_norm)
    x = layers.Conv2D(outputs, 1, dtype="float32")(x)
    return keras.Model(image, layers.Cropping2D(margins)(x), name=name)


def padded(image: Any, multiple: int) -> tuple[Any, tuple[tuple[int, int], tuple[int, int]]]:
    """Return images (B, H, W, C) whose sides are multiples, and what was added: ((top, bottom), (left, right))."""
    rows, columns = (-side % multiple for side in image.shape[1:3])
    margins = (rows // 2, rows - rows // 2), (columns // 2, columns - columns // 2)
    return layers.ZeroPadding2D(margins)(image), margins


def convolved(x: Any, width: int, batch_norm: bool) -> Any:
    """Return the features (B, H, W, width) that two 3x3 convolutions find."""
    for _ in range(2):
        x = layers.Conv2D(width, 3, padding="same", use_bias=not batch_norm)(x)
        x = layers.BatchNormalization(momentum=MOMENTUM)(x) if batch_norm else x
        x = layers.ReLU()(x)
    return x
