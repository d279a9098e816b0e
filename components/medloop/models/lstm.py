"""A sequence read moment by moment, or an image row by row from top to bottom, by an LSTM."""

import keras
from keras import layers

KIND = "recurrent"
TAKES = ("image", "sequence")


def build(
    input_shape: tuple[int, ...],
    outputs: int,
    *,
    units: int = 50,
    activation: str | None = None,
    dropout: float = 0.0,
) -> keras.Model:
    """Map sequences (B, T, C) or images (B, H, W, C) to outputs (B, outputs).

    Args:
        input_shape: (T, C) or (H, W, C).
        outputs: of the network.
        units: of the recurrent layer.
        activation: of its cell; None: "relu" for sequences, "tanh" for images.
        dropout: share of its last state left out while training.
    """
    given = layers.Input(input_shape)
    activation = activation or ("relu" if len(input_shape) == 2 else "tanh")
    rows = given if len(input_shape) == 2 else layers.Reshape((input_shape[0], -1))(given)  # (B, H, W * C)
    x = layers.LSTM(units, activation=activation, dtype="float32")(rows)  # (B, units); cuDNN's has no bfloat16 on JAX
    x = layers.Dropout(dropout)(x) if dropout else x
    return keras.Model(given, layers.Dense(outputs, dtype="float32")(x), name="lstm")
