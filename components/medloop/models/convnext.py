"""A small ConvNeXt: a wide convolution per channel, then two dense layers at every place, and the sum with the input.

Layer normalisation alone, so that a sample's output does not hang on the rest of its batch.

Source: Liu et al., A ConvNet for the 2020s, 2022; without layer scale, which is for deep ones.
"""

from typing import Any

import keras
from keras import layers, ops

KIND = "convolution"
EPSILON = 1e-6


def build(
    input_shape: tuple[int, int, int],
    outputs: int,
    *,
    filters: tuple[int, ...] = (32, 64, 128),
    blocks: tuple[int, ...] = (1, 2, 1),
    patch_px: int = 2,
    kernel_px: int = 7,
    dropout: float = 0.0,
) -> keras.Model:
    """Map images (B, H, W, C) to logits (B, outputs).

    Args:
        input_shape: (H, W, C).
        outputs: number of classes.
        filters: of each stage; every stage but the first halves height and width.
        blocks: of each stage, as many numbers as filters.
        patch_px: side of the squares that the stem turns into one place each.
        kernel_px: side of the convolution per channel.
        dropout: share of the pooled features left out while training.
    """
    if len(blocks) != len(filters):
        raise ValueError(f"blocks must be as many numbers as filters, got {blocks} and {filters}")
    image = layers.Input(input_shape)
    x = layers.Conv2D(filters[0], patch_px, patch_px, padding="same")(image)
    x = _normed(x)  # (B, H / patch_px, W / patch_px, filters[0])
    for stage, (width, depth) in enumerate(zip(filters, blocks, strict=True)):
        if stage:
            x = layers.Conv2D(width, 2, 2, padding="same")(_normed(x))  # (B, H / (patch_px * 2^stage), .., width)
        for _ in range(depth):
            y = _normed(layers.DepthwiseConv2D(kernel_px, padding="same")(x))
            y = ops.gelu(layers.Dense(4 * width)(y))  # by tanh: the exact one cannot be exported
            x = layers.Add()([x, layers.Dense(width)(y)])
    x = _normed(layers.GlobalAveragePooling2D()(x))  # (B, filters[-1])
    x = layers.Dropout(dropout)(x) if dropout else x
    return keras.Model(image, layers.Dense(outputs, dtype="float32")(x), name="convnext")


def _normed(x: Any) -> Any:
    return layers.LayerNormalization(epsilon=EPSILON)(x)
