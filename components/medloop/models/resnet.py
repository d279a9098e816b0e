"""A small residual network: blocks that add what they find to what they are given.

Source: He et al., Deep residual learning for image recognition, 2015; the stem is that for small images.
"""

from typing import Any

import keras
from keras import layers

KIND = "residual"
MOMENTUM = 0.9  # of the normalisation's statistics: a small data set has few steps


def build(
    input_shape: tuple[int, int, int],
    outputs: int,
    *,
    filters: tuple[int, ...] = (16, 32, 64),
    blocks: int = 2,
    dropout: float = 0.0,
) -> keras.Model:
    """Map images (B, H, W, C) to logits (B, outputs).

    Args:
        input_shape: (H, W, C).
        outputs: number of classes.
        filters: of each stage; every stage but the first halves height and width, as the pooling before them does.
        blocks: of two 3x3 convolutions, in each stage.
        dropout: share of the pooled features left out while training.
    """
    image = layers.Input(input_shape)
    x = _normed(layers.Conv2D(filters[0], 3, padding="same", use_bias=False)(image))
    x = layers.MaxPooling2D(padding="same")(layers.ReLU()(x))  # (B, H / 2, W / 2, filters[0])
    for stage, width in enumerate(filters):
        for block in range(blocks):
            x = _block(x, width, strides=2 if stage and not block else 1)  # (B, H / 2^(stage + 1), .., width)
    x = layers.GlobalAveragePooling2D()(x)  # (B, filters[-1])
    x = layers.Dropout(dropout)(x) if dropout else x
    return keras.Model(image, layers.Dense(outputs, dtype="float32")(x), name="resnet")


def _block(x: Any, width: int, strides: int) -> Any:
    y = layers.Conv2D(width, 3, strides, padding="same", use_bias=False)(x)
    y = layers.ReLU()(_normed(y))
    y = _normed(layers.Conv2D(width, 3, padding="same", use_bias=False)(y))
    if strides > 1 or x.shape[-1] != width:
        x = _normed(layers.Conv2D(width, 1, strides, use_bias=False)(x))
    return layers.ReLU()(layers.Add()([x, y]))


def _normed(x: Any) -> Any:
    return layers.BatchNormalization(momentum=MOMENTUM)(x)
