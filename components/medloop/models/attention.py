"""Attention over what an LSTM has read: between two readings of a sequence, or over the rows of an image."""

import math
from typing import Any, Literal

import keras
from keras import layers, ops

KIND = "recurrent"
TAKES = ("image", "sequence")


def build(
    input_shape: tuple[int, ...],
    outputs: int,
    *,
    units: int = 50,
    activation: str | None = None,
    states: Literal["last", "all"] = "last",
    dropout: float = 0.0,
) -> keras.Model:
    """Map sequences, given twice as (B, T, C), or images (B, H, W, C) to outputs (B, outputs).

    Of sequences, one LSTM reads both inputs; the dot product of its last states, or that of all states with each other,
    is told apart by a dense layer. Of images, the rows give states h_1 .. h_H; r_i = sum_j softmax_j(s(h_i, h_j)) h_j
    with s(a, b) = a . b / sqrt(units); the mean of the r_i is classified.

    Args:
        input_shape: (T, C) or (H, W, C).
        outputs: of the network.
        units: of a state.
        activation: of the LSTM; None: "relu" for sequences, "tanh" for images.
        states: of sequences: "last", one number; "all", (units, units) of them, what a classification needs.
        dropout: share of what the last layer sees left out while training.
    """
    if len(input_shape) == 2:
        inputs, x = _of_sequences(input_shape, units, activation or "relu", states)
    else:
        inputs, x = _of_rows(input_shape, units, activation or "tanh")
    x = layers.Dropout(dropout)(x) if dropout else x
    return keras.Model(inputs, layers.Dense(outputs, dtype="float32")(x), name="attention")


def _of_sequences(input_shape: tuple[int, ...], units: int, activation: str, states: str) -> tuple[Any, Any]:
    one, other = layers.Input(input_shape), layers.Input(input_shape)
    read = layers.LSTM(units, activation=activation, return_sequences=states == "all", dtype="float32")
    x = layers.Dot(axes=1)([read(one), read(other)])  # (B, 1); of all states (B, units, units)
    return [one, other], layers.Flatten()(x) if states == "all" else x


def _of_rows(input_shape: tuple[int, ...], units: int, activation: str) -> tuple[Any, Any]:
    image = layers.Input(input_shape)
    rows = layers.Reshape((input_shape[0], -1))(image)  # (B, H, W * C)
    read = layers.LSTM(
        units, activation=activation, return_sequences=True, dtype="float32"
    )  # cuDNN: no bfloat16 on JAX
    h = read(rows)  # (B, H, units)
    s = ops.matmul(h, ops.transpose(h, (0, 2, 1))) / math.sqrt(units)  # (B, H, H)
    r = ops.matmul(ops.softmax(s, axis=-1), h)  # (B, H, units)
    return image, layers.GlobalAveragePooling1D()(r)  # (B, units)
