"""A small vision transformer: the image as a set of patches that look at each other.

Source: Dosovitskiy et al., An image is worth 16x16 words, 2020; the mean of the patches is classified, as in Beyer et
al., Better plain ViT baselines for ImageNet-1k, 2022.
"""

import math
from typing import Any

import keras
import numpy as np
from keras import initializers, layers, ops

KIND = "transformer"
EPSILON = 1e-6
SPREAD = 0.02  # standard deviation of what each place adds to its patch, before training


def build(
    input_shape: tuple[int, int, int],
    outputs: int,
    *,
    patch_px: int = 4,
    width: int = 64,
    depth: int = 4,
    heads: int = 4,
    dropout: float = 0.0,
) -> keras.Model:
    """Map images (B, H, W, C) to logits (B, outputs).

    Args:
        input_shape: (H, W, C); patch_px divides H and W.
        outputs: number of classes.
        patch_px: side of a patch.
        width: of a patch's vector, a multiple of heads.
        depth: number of blocks.
        heads: of the attention in each block.
        dropout: share of what each half of a block adds left out while training.
    """
    height, breadth, channels = input_shape
    if height % patch_px or breadth % patch_px or width % heads:
        raise ValueError(f"patch_px {patch_px} must divide the image's sides, and heads {heads} the width {width}")
    rows, columns = height // patch_px, breadth // patch_px
    image = layers.Input(input_shape)
    x = ops.reshape(image, (-1, rows, patch_px, columns, patch_px, channels))
    x = ops.transpose(x, (0, 1, 3, 2, 4, 5))  # (B, rows, columns, patch_px, patch_px, C)
    x = ops.reshape(x, (-1, rows * columns, patch_px**2 * channels))  # (B, N, patch_px^2 * C)
    x = layers.EinsumDense(  # its bias is the position's
        "bnp,pw->bnw",
        (rows * columns, width),
        bias_axes="nw",
        bias_initializer=initializers.TruncatedNormal(stddev=SPREAD),
    )(x)  # (B, N, width)
    for _ in range(depth):
        y = _attention(_normed(x), heads)
        x = x + (layers.Dropout(dropout)(y) if dropout else y)
        y = ops.gelu(layers.Dense(4 * width)(_normed(x)))  # by tanh: the exact one cannot be exported
        y = layers.Dense(width)(y)
        x = x + (layers.Dropout(dropout)(y) if dropout else y)
    x = layers.GlobalAveragePooling1D()(_normed(x))  # (B, width)
    return keras.Model(image, layers.Dense(outputs, dtype="float32")(x), name="vit")


def _attention(x: Any, heads: int) -> Any:
    """Return, for x (B, N, width), the mean of all patches weighted by their likeness, head by head."""
    count, width = x.shape[1:]
    size = width // heads
    q, k, v = (
        ops.transpose(ops.reshape(layers.Dense(width)(x), (-1, count, heads, size)), (0, 2, 1, 3)) for _ in range(3)
    )  # (B, heads, N, size) each
    likeness = ops.softmax(ops.matmul(q, ops.transpose(k, (0, 1, 3, 2))) / math.sqrt(size), axis=-1)  # (B, heads, N, N)
    y = ops.transpose(ops.matmul(likeness, v), (0, 2, 1, 3))  # (B, N, heads, size)
    return layers.Dense(width)(ops.reshape(y, (-1, count, width)))


def _normed(x: Any) -> Any:
    """Return features (B, N, width) of zero mean and unit variance, times a gain, plus an offset.

    As `LayerNormalization` does it. But XLA is slow on a CPU at sums over a short last axis: here means are products
    with a constant matrix, and an epoch takes three quarters of the time.
    """
    means = np.full((x.shape[-1], x.shape[-1]), 1 / x.shape[-1], np.float32)
    wide = ops.cast(x, "float32")
    centred = wide - ops.matmul(wide, means)
    scaled = centred * ops.rsqrt(ops.matmul(ops.square(centred), means) + EPSILON)
    return layers.EinsumDense("bnw,w->bnw", x.shape[1:], bias_axes="w", kernel_initializer="ones")(scaled)
