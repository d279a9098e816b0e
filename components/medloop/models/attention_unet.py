"""A U-Net whose skips pass a gate: what is known from further down says where to look.

Source: Oktay et al., Attention U-Net: Learning where to look for the pancreas, 2018; additive attention, one gate a
skip.
"""

from typing import Any

import keras
from keras import layers

from medloop.networks import blocks

KIND = "convolution"
GIVES = "map"


def build(
    input_shape: tuple[int, int, int],
    outputs: int,
    *,
    filters: tuple[int, ...] = (16, 32, 64, 128),
    batch_norm: bool = True,
    dropout: float = 0.0,
) -> keras.Model:
    """Map images (B, H, W, C) to the logits of every pixel (B, H, W, outputs); the arguments are `blocks.u_net`'s."""
    return blocks.u_net(
        input_shape,
        outputs,
        filters=filters,
        batch_norm=batch_norm,
        dropout=dropout,
        name="attention_unet",
        gate=_gated,
    )


def _gated(skip: Any, deeper: Any) -> Any:
    """Return the features (B, H, W, F) of a skip, each pixel times its attention, 0 to 1.

    The attention is computed where the `deeper` features (B, H / 2, W / 2, G) are, and spread over four pixels each.
    """
    inner = max(1, skip.shape[-1] // 2)
    here = layers.Conv2D(inner, 2, strides=2, use_bias=False)(skip)  # (B, H / 2, W / 2, inner)
    told = layers.Conv2D(inner, 1)(deeper)
    attention = layers.Conv2D(1, 1, activation="sigmoid")(layers.ReLU()(layers.Add()([here, told])))
    return layers.Multiply()([skip, layers.UpSampling2D()(attention)])
