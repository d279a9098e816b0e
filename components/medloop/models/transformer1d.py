"""A transformer over patches of a sequence, with normalisation ahead of each part and a mean at the end."""

from typing import Any

import keras
import numpy as np
from keras import layers, ops

KIND = "recurrent"  # matrices and no convolutions in its loop: fastest on the same backend
TAKES = ("sequence",)


def build(
    input_shape: tuple[int, int],
    outputs: int,
    *,
    patch: int = 5,
    width: int = 32,
    heads: int = 4,
    depth: int = 2,
    dropout: float = 0.1,
) -> keras.Model:
    """Map sequences (B, T, C) to outputs (B, outputs).

    Args:
        input_shape: (T, C).
        outputs: of the network.
        patch: moments that become one token; what is left over at the end is padded with zeros.
        width: of a token.
        heads: of the attention; they share the width.
        depth: number of blocks.
        dropout: share left out while training.
    """
    moments, channels = input_shape
    count = -(-moments // patch)
    given = layers.Input(input_shape)
    x = layers.ZeroPadding1D((0, count * patch - moments))(given)
    x = layers.Reshape((count, patch * channels))(x)  # (B, N, patch * C)
    x = layers.Dense(width)(x)  # (B, N, width)
    x = x + _places(count, width)
    for _ in range(depth):
        x = x + _attended(layers.LayerNormalization()(x), width, heads, dropout)
        y = ops.gelu(
            layers.Dense(2 * width)(layers.LayerNormalization()(x))
        )  # by tanh: the exact one cannot be exported
        x = x + layers.Dropout(dropout)(layers.Dense(width)(y))
    x = layers.GlobalAveragePooling1D()(layers.LayerNormalization()(x))  # (B, width)
    return keras.Model(given, layers.Dense(outputs, dtype="float32")(x), name="transformer1d")


def _attended(x: Any, width: int, heads: int, dropout: float) -> Any:
    return layers.MultiHeadAttention(heads, width // heads, dropout=dropout)(x, x)


def _places(count: int, width: int) -> np.ndarray:
    """Return (N, width): sines and cosines of many wavelengths, by which a token knows its place."""
    angle = np.arange(count)[:, None] / 10_000 ** (np.arange(0, width, 2) / width)
    return np.concatenate([np.sin(angle), np.cos(angle)], axis=1)[:, :width].astype(np.float32)
