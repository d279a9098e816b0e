"""A multilayer perceptron: dense layers over all numbers of a record, with dropout ahead of each."""

import keras
from keras import layers

KIND = "transformer"  # matrices alone: fastest on the same backend
TAKES = ("table",)


def build(
    input_shape: tuple[int],
    outputs: int,
    *,
    units: tuple[int, ...] = (32,),
    dropout: float = 0.0,
    input_dropout: float = 0.0,
) -> keras.Model:
    """Map records (B, F) to outputs (B, outputs).

    Args:
        input_shape: (F,).
        outputs: of the network.
        units: of each hidden layer; none: a linear model.
        dropout: share of the units of each hidden layer left out while training.
        input_dropout: share of the record's own numbers left out while training.
    """
    x = record = layers.Input(input_shape)
    x = layers.Dropout(input_dropout)(x) if input_dropout else x
    for width in units:
        x = layers.Dense(width, activation="relu")(x)  # (B, width)
        x = layers.Dropout(dropout)(x) if dropout else x
    return keras.Model(record, layers.Dense(outputs, dtype="float32")(x), name="mlp")
