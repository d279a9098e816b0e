"""Convolutions over space and pooling in turn, then two dense layers: the tutorial's network with one axis more."""

import keras
from keras import layers

KIND = "convolution"
TAKES = ("volume",)


def build(
    input_shape: tuple[int, int, int, int],
    outputs: int,
    *,
    filters: tuple[int, ...] = (16, 32, 64),
    units: int = 64,
    dropout: float = 0.0,
) -> keras.Model:
    """Map volumes (B, D, H, W, C) to logits (B, outputs).

    Args:
        input_shape: (D, H, W, C).
        outputs: number of classes.
        filters: of each block of a 3x3x3 convolution and 2x2x2 pooling; every block halves depth, height and width.
        units: of the dense layer.
        dropout: share of the features left out before each dense layer while training.
    """
    x = volume = layers.Input(input_shape)
    for width in filters:
        x = layers.Conv3D(width, 3, padding="same", activation="relu")(x)
        x = layers.MaxPooling3D()(x)  # (B, D // 2, H // 2, W // 2, width)
    x = layers.Flatten()(x)
    x = layers.Dropout(dropout)(x) if dropout else x
    x = layers.Dense(units, activation="relu")(x)  # (B, units)
    x = layers.Dropout(dropout)(x) if dropout else x
    return keras.Model(volume, layers.Dense(outputs, dtype="float32")(x), name="cnn3d")
