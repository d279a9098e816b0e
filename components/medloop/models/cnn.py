"""Convolutions and pooling in turn, then two dense layers: the network of the Keras tutorials."""

import keras
from keras import layers

KIND = "convolution"


def build(
    input_shape: tuple[int, int, int],
    outputs: int,
    *,
    filters: tuple[int, ...] = (32, 64),
    units: int = 128,
    dropout: float = 0.0,
) -> keras.Model:
    """Map images (B, H, W, C) to logits (B, outputs).

    Args:
        input_shape: (H, W, C).
        outputs: number of classes.
        filters: of each block of a 3x3 convolution and 2x2 pooling; every block halves height and width.
        units: of the dense layer.
        dropout: share of the features left out before each dense layer while training.
    """
    x = image = layers.Input(input_shape)
    for width in filters:
        x = layers.Conv2D(width, 3, activation="relu")(x)
        x = layers.MaxPooling2D()(x)  # (B, (H - 2) // 2, (W - 2) // 2, width)
    x = layers.Flatten()(x)
    x = layers.Dropout(dropout)(x) if dropout else x
    x = layers.Dense(units, activation="relu")(x)  # (B, units)
    x = layers.Dropout(dropout)(x) if dropout else x
    return keras.Model(image, layers.Dense(outputs, dtype="float32")(x), name="cnn")
