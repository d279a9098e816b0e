"""A small residual network over space.

Source: He et al., Deep residual learning for image recognition, 2015, with convolutions over three axes. Two things are
other than there, for on a CPU convolutions with strides train up to forty times slower than those without, and one at
full size takes most of the time: sides are halved by the mean of 2x2x2 voxels, and the first convolution is given each
block of 2x2x2 voxels as eight channels of one, so that nothing of them is lost.
"""

from typing import Any

import keras
from keras import layers, ops

KIND = "convolution"
TAKES = ("volume",)
MOMENTUM = 0.9  # of the normalisation's statistics: a small data set has few steps


def build(
    input_shape: tuple[int, int, int, int],
    outputs: int,
    *,
    filters: tuple[int, ...] = (32, 64, 128),
    blocks: int = 1,
    dropout: float = 0.0,
) -> keras.Model:
    """Map volumes (B, D, H, W, C) to outputs (B, outputs).

    Args:
        input_shape: (D, H, W, C).
        outputs: of the network.
        filters: of each stage; every stage but the first halves each side, as folding and pooling before them do.
        blocks: of two 3x3x3 convolutions, in each stage.
        dropout: share of the pooled features left out while training.
    """
    volume = layers.Input(input_shape)
    x = _folded(volume)  # (B, D / 2, H / 2, W / 2, 8 C)
    x = layers.ReLU()(_normed(layers.Conv3D(filters[0], 3, padding="same", use_bias=False)(x)))
    x = layers.MaxPooling3D(padding="same")(x)  # (B, D / 4, H / 4, W / 4, filters[0])
    for stage, width in enumerate(filters):
        x = layers.AveragePooling3D(2, padding="same")(x) if stage else x
        for _ in range(blocks):
            x = _block(x, width)  # (B, D / 2^(stage + 2), .., width)
    x = layers.GlobalAveragePooling3D()(x)  # (B, filters[-1])
    x = layers.Dropout(dropout)(x) if dropout else x
    return keras.Model(volume, layers.Dense(outputs, dtype="float32")(x), name="resnet3d")


def _folded(x: Any) -> Any:
    """Return (B, D, H, W, C) with each 2x2x2 voxels as one of eight times the channels; odd sides get zeros."""
    x = ops.pad(x, [(0, 0), *[(0, side % 2) for side in x.shape[1:4]], (0, 0)])
    _, depth, height, width, channels = x.shape
    x = ops.reshape(x, (-1, depth // 2, 2, height // 2, 2, width // 2, 2, channels))
    x = ops.transpose(x, (0, 1, 3, 5, 2, 4, 6, 7))
    return ops.reshape(x, (-1, depth // 2, height // 2, width // 2, 8 * channels))


def _block(x: Any, width: int) -> Any:
    y = layers.Conv3D(width, 3, padding="same", use_bias=False)(x)
    y = layers.ReLU()(_normed(y))
    y = _normed(layers.Conv3D(width, 3, padding="same", use_bias=False)(y))
    if x.shape[-1] != width:
        x = _normed(layers.Conv3D(width, 1, use_bias=False)(x))
    return layers.ReLU()(layers.Add()([x, y]))


def _normed(x: Any) -> Any:
    return layers.BatchNormalization(momentum=MOMENTUM)(x)
