"""A small residual network over space: `resnet` with one axis more.

Source: He et al., Deep residual learning for image recognition, 2015, with three-dimensional convolutions as in Hara et
al., Learning spatio-temporal features with 3D residual networks, 2017; the stem is that for small volumes.
"""

from typing import Any

import keras
from keras import layers

KIND = "residual"
TAKES = ("volume",)
STEM = 5  # voxels a side, of the first convolution
MOMENTUM = 0.9  # of the normalisation's statistics: a small data set has few steps


def build(
    input_shape: tuple[int, int, int, int],
    outputs: int,
    *,
    filters: tuple[int, ...] = (16, 32, 64),
    blocks: int = 1,
    dropout: float = 0.0,
) -> keras.Model:
    """Map volumes (B, D, H, W, C) to outputs (B, outputs).

    Args:
        input_shape: (D, H, W, C).
        outputs: of the network.
        filters: of each stage; every stage but the first halves each side, as the stem and the pooling after it do.
        blocks: of two 3x3x3 convolutions, in each stage.
        dropout: share of the pooled features left out while training.
    """
    x = volume = layers.Input(input_shape)
    x = layers.ReLU()(_normed(layers.Conv3D(filters[0], STEM, 2, padding="same", use_bias=False)(x)))
    x = layers.MaxPooling3D(padding="same")(x)  # (B, D / 4, H / 4, W / 4, filters[0])
    for stage, width in enumerate(filters):
        for block in range(blocks):
            x = _block(x, width, strides=2 if stage and not block else 1)  # (B, D / 2^(stage + 2), .., width)
    x = layers.GlobalAveragePooling3D()(x)  # (B, filters[-1])
    x = layers.Dropout(dropout)(x) if dropout else x
    return keras.Model(volume, layers.Dense(outputs, dtype="float32")(x), name="resnet3d")


def _block(x: Any, width: int, strides: int) -> Any:
    y = layers.Conv3D(width, 3, strides, padding="same", use_bias=False)(x)
    y = layers.ReLU()(_normed(y))
    y = _normed(layers.Conv3D(width, 3, padding="same", use_bias=False)(y))
    if strides > 1 or x.shape[-1] != width:
        x = _normed(layers.Conv3D(width, 1, strides, use_bias=False)(x))
    return layers.ReLU()(layers.Add()([x, y]))


def _normed(x: Any) -> Any:
    return layers.BatchNormalization(momentum=MOMENTUM)(x)
