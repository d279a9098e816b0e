"""Self-attention over the rows of an image, after an LSTM has read them."""

import math

import keras
from keras import layers, ops

KIND = "recurrent"


def build(
    input_shape: tuple[int, int, int],
    outputs: int,
    *,
    units: int = 50,
    dropout: float = 0.0,
) -> keras.Model:
    """Map images (B, H, W, C) to logits (B, outputs).

    The rows give states h_1 .. h_H; r_i = sum_j softmax_j(s(h_i, h_j)) h_j with s(a, b) = a . b / sqrt(units); the
    mean of the r_i is classified.

    Args:
        input_shape: (H, W, C).
        outputs: number of classes.
        units: of a state.
        dropout: share of the mean left out while training.
    """
    height, width, channels = input_shape
    image = layers.Input(input_shape)
    rows = layers.Reshape((height, width * channels))(image)  # (B, H, W * C)
    h = layers.LSTM(units, return_sequences=True, dtype="float32")(rows)  # (B, H, units); cuDNN has no bfloat16 on JAX
    s = ops.matmul(h, ops.transpose(h, (0, 2, 1))) / math.sqrt(units)  # (B, H, H)
    r = ops.matmul(ops.softmax(s, axis=-1), h)  # (B, H, units)
    x = layers.GlobalAveragePooling1D()(r)  # (B, units)
    x = layers.Dropout(dropout)(x) if dropout else x
    return keras.Model(image, layers.Dense(outputs, dtype="float32")(x), name="attention")
