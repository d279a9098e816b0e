"""Residual blocks of convolutions over time.

Source: Wang, Yan and Oates, Time series classification from scratch with deep neural networks, 2017; smaller here.
"""

from typing import Any

import keras
from keras import layers

KIND = "residual"
TAKES = ("sequence",)
KERNELS = (7, 5, 3)  # moments, of the three convolutions of a block
MOMENTUM = 0.9  # of the normalisation's statistics: a small data set has few steps


def build(
    input_shape: tuple[int, int],
    outputs: int,
    *,
    filters: tuple[int, ...] = (32, 64, 64),
    dropout: float = 0.0,
) -> keras.Model:
    """Map sequences (B, T, C) to outputs (B, outputs).

    Args:
        input_shape: (T, C).
        outputs: of the network.
        filters: of each block.
        dropout: share of the mean over time left out while training.
    """
    x = given = layers.Input(input_shape)
    for width in filters:
        x = _block(x, width)  # (B, T, width)
    x = layers.GlobalAveragePooling1D()(x)  # (B, width)
    x = layers.Dropout(dropout)(x) if dropout else x
    return keras.Model(given, layers.Dense(outputs, dtype="float32")(x), name="resnet1d")


def _block(x: Any, width: int) -> Any:
    short = x if x.shape[-1] == width else _normed(layers.Conv1D(width, 1, use_bias=False)(x))
    for place, moments in enumerate(KERNELS):
        x = _normed(layers.Conv1D(width, moments, padding="same", use_bias=False)(x))
        x = layers.ReLU()(x) if place < len(KERNELS) - 1 else x
    return layers.ReLU()(x + short)


def _normed(x: Any) -> Any:
    return layers.BatchNormalization(momentum=MOMENTUM)(x)
