"""A small densely connected network: each layer is given the output of all layers before it in its block.

Source: Huang et al., Densely connected convolutional networks, 2016; the stem is that for small images.
"""

from typing import Any

import keras
from keras import layers

KIND = "convolution"
MOMENTUM = 0.9  # of the normalisation's statistics: a small data set has few steps


def build(
    input_shape: tuple[int, int, int],
    outputs: int,
    *,
    growth: int = 16,
    blocks: tuple[int, ...] = (4, 4, 4),
    dropout: float = 0.0,
) -> keras.Model:
    """Map images (B, H, W, C) to logits (B, outputs).

    Args:
        input_shape: (H, W, C).
        outputs: number of classes.
        growth: channels that each layer adds.
        blocks: layers of each block; between two of them height, width and channels are halved.
        dropout: share of the pooled features left out while training.
    """
    image = layers.Input(input_shape)
    x = layers.Conv2D(2 * growth, 3, padding="same", use_bias=False)(image)
    x = layers.MaxPooling2D(padding="same")(x)  # (B, H / 2, W / 2, 2 * growth)
    for place, depth in enumerate(blocks):
        if place:
            x = layers.Conv2D(x.shape[-1] // 2, 1, use_bias=False)(_activated(x))
            x = layers.AveragePooling2D(2, padding="same")(x)  # (B, H / 2^(place + 1), .., half the channels)
        for _ in range(depth):
            y = layers.Conv2D(4 * growth, 1, use_bias=False)(_activated(x))
            y = layers.Conv2D(growth, 3, padding="same", use_bias=False)(_activated(y))
            x = layers.Concatenate()([x, y])  # growth more channels
    x = layers.GlobalAveragePooling2D()(_activated(x))  # (B, channels)
    x = layers.Dropout(dropout)(x) if dropout else x
    return keras.Model(image, layers.Dense(outputs, dtype="float32")(x), name="densenet")


def _activated(x: Any) -> Any:
    return layers.ReLU()(layers.BatchNormalization(momentum=MOMENTUM)(x))
