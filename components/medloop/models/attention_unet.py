"""A U-Net whose skips pass a gate: what is known from further down says where to look.

Source: Oktay et al., Attention U-Net: Learning where to look for the pancreas, 2018; additive attention, one gate a
skip.
"""

from typing import Any

import keras
from keras import layers

KIND = "convolution"
GIVES = "map"
MOMENTUM = 0.9  # of the normalisation's statistics: a small data set has few steps


def build(
    input_shape: tuple[int, int, int],
    outputs: int,
    *,
    filters: tuple[int, ...] = (16, 32, 64, 128),
    batch_norm: bool = True,
    dropout: float = 0.0,
) -> keras.Model:
    """Map images (B, H, W, C) to the logits of every pixel (B, H, W, outputs).

    Args:
        input_shape: (H, W, C); sides that are no multiple of 2^(levels - 1) are padded, and the map is cropped.
        outputs: number of classes, the background among them.
        filters: of the two 3x3 convolutions of each level; every level but the first halves height and width.
        batch_norm: normalise after each convolution.
        dropout: share of the features left out at the deepest level while training.
    """
    image = layers.Input(input_shape)
    x, margins = _padded(image, 2 ** (len(filters) - 1))
    skips = []
    for width in filters[:-1]:
        x = _block(x, width, batch_norm)
        skips.append(x)  # (B, H / 2^level, W / 2^level, width)
        x = layers.MaxPooling2D()(x)
    x = _block(x, filters[-1], batch_norm)
    x = layers.Dropout(dropout)(x) if dropout else x
    for skip in reversed(skips):
        kept = _gated(skip, x)
        x = layers.Conv2DTranspose(skip.shape[-1], 2, strides=2)(x)
        x = _block(layers.Concatenate()([kept, x]), skip.shape[-1], batch_norm)
    x = layers.Conv2D(outputs, 1, dtype="float32")(x)
    return keras.Model(image, layers.Cropping2D(margins)(x), name="attention_unet")


def _gated(skip: Any, deeper: Any) -> Any:
    """Return the features (B, H, W, F) of a skip, each pixel times its attention, 0 to 1.

    The attention is computed where the `deeper` features (B, H / 2, W / 2, G) are, and spread over four pixels each.
    """
    inner = max(1, skip.shape[-1] // 2)
    here = layers.Conv2D(inner, 2, strides=2, use_bias=False)(skip)  # (B, H / 2, W / 2, inner)
    told = layers.Conv2D(inner, 1)(deeper)
    attention = layers.Conv2D(1, 1, activation="sigmoid")(layers.ReLU()(layers.Add()([here, told])))
    return layers.Multiply()([skip, layers.UpSampling2D()(attention)])


def _padded(image: Any, multiple: int) -> tuple[Any, tuple[tuple[int, int], tuple[int, int]]]:
    """Return images (B, H, W, C) whose sides are multiples, and what was added: ((top, bottom), (left, right))."""
    rows, columns = (-side % multiple for side in image.shape[1:3])
    margins = (rows // 2, rows - rows // 2), (columns // 2, columns - columns // 2)
    return layers.ZeroPadding2D(margins)(image), margins


def _block(x: Any, width: int, batch_norm: bool) -> Any:
    """Return the features (B, H, W, width) that two 3x3 convolutions find."""
    for _ in range(2):
        x = layers.Conv2D(width, 3, padding="same", use_bias=not batch_norm)(x)
        x = layers.BatchNormalization(momentum=MOMENTUM)(x) if batch_norm else x
        x = layers.ReLU()(x)
    return x
