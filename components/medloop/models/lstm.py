"""An image read row by row, from top to bottom."""

import keras
from keras import layers

KIND = "recurrent"


def build(
    input_shape: tuple[int, int, int],
    outputs: int,
    *,
    units: int = 50,
    activation: str = "tanh",
    dropout: float = 0.0,
) -> keras.Model:
    """Map images (B, H, W, C) to logits (B, outputs).

    Args:
        input_shape: (H, W, C).
        outputs: number of classes.
        units: of the recurrent layer.
        activation: of its cell, "tanh" or "relu".
        dropout: share of its last state left out while training.
    """
    height, width, channels = input_shape
    image = layers.Input(input_shape)
    rows = layers.Reshape((height, width * channels))(image)  # (B, H, W * C)
    x = layers.LSTM(units, activation=activation, dtype="float32")(rows)  # (B, units); cuDNN's has no bfloat16 on JAX
    x = layers.Dropout(dropout)(x) if dropout else x
    return keras.Model(image, layers.Dense(outputs, dtype="float32")(x), name="lstm")
