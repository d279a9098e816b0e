"""A small U-Net that tells a picture from a noised one: the reference for making images.

Like every architecture that makes images it is given (B, H, W, 2 C + 2), see answers/generation.py: a picture, noise,
how much of the noise there is (the time, 0 to 1) and the class. It blends picture and noise itself, and gives the
picture that it takes to be underneath, and where it is wrong. Training shows it true pictures with noise at all times.
Making one begins with noise alone, and hands what it took for picture and noise back to it, with a little less of the
noise, STEPS times.

Source: Ho et al., Denoising diffusion probabilistic models, 2020; Salimans and Ho, Progressive distillation for fast
sampling of diffusion models, 2022, for the velocity that is predicted. The steps are those of answers/generation.py.
"""

from typing import Any

import keras
import numpy as np
from keras import layers, ops

KIND = "convolution"
GIVES = "image"
STEPS = 40  # of making a picture
NOISE = (1.0, 1.03, 1.06, 1.09)  # standard deviations to begin it with: validation images choose
FREQUENCIES = 2.0 ** np.arange(-1, 6)  # of the time, in half turns


def build(
    input_shape: tuple[int, int, int],
    outputs: int,
    *,
    filters: tuple[int, ...] = (32, 64, 96),
    blocks: int = 1,
    dropout: float = 0.0,
) -> keras.Model:
    """Map pictures, noise, time and class (B, H, W, 2 C + 2) to pictures and errors (B, H, W, C + 1).

    Args:
        input_shape: (H, W, 2 C + 2), H and W divisible by 2 for each of `filters` but the first.
        outputs: number of classes.
        filters: multiples of 8, at full size, half, a quarter, ...
        blocks: two convolutions each, at every size on the way down and on the way up.
        dropout: share of the features left out in every block while training.

    Raises:
        ValueError: height or width cannot be halved as often, or a number of filters is no multiple of 8.
    """
    height, width, channels = *input_shape[:2], input_shape[2] // 2 - 1
    halved = 2 ** (len(filters) - 1)
    if height % halved or width % halved:
        raise ValueError(f"height and width must be divisible by {halved}, got {height}x{width}")
    if any(each % 8 for each in filters):
        raise ValueError(f"filters must be multiples of 8, got {', '.join(map(str, filters))}")
    given = layers.Input(input_shape)
    picture, noise = given[..., :channels], given[..., channels : 2 * channels]
    time = given[:, :1, :1, 2 * channels : 2 * channels + 1]  # (B, 1, 1, 1)
    share, spread = ops.cos(time * (np.pi / 2)), ops.sin(time * (np.pi / 2))
    noised = share * picture + spread * noise
    known = _known(given, outputs, 2 * filters[0])
    x = layers.Conv2D(filters[0], 3, padding="same")(noised)
    skips = [x]
    for level, wide in enumerate(filters):
        x = layers.AveragePooling2D(2)(x) if level else x
        for _ in range(blocks):
            x = _block(x, known, wide, dropout)
            skips.append(x)  # (B, H / 2^level, W / 2^level, wide)
    x = _block(x, known, filters[-1], dropout)
    for level, wide in reversed(list(enumerate(filters))):
        for _ in range(blocks):
            x = _block(layers.Concatenate()([x, skips.pop()]), known, wide, dropout)
        x = layers.UpSampling2D()(x) if level else x
    x = layers.Concatenate()([x, skips.pop()])
    velocity = layers.Conv2D(channels, 3, padding="same", kernel_initializer="zeros", dtype="float32")(_activated(x))
    wrong = ops.mean(ops.square(velocity - (share * noise - spread * picture)), axis=-1, keepdims=True)
    return keras.Model(given, ops.concatenate([share * noised - spread * velocity, wrong], axis=-1), name="diffusion")


def _known(given: Any, classes: int, width: int) -> Any:
    """Return what is known of each picture, time and class, as (B, width)."""
    time, place = given[:, 0, 0, -2:-1], ops.cast(given[:, 0, 0, -1], "int32")
    angles = time * np.asarray(np.pi * FREQUENCIES, np.float32)
    known = ops.concatenate([ops.sin(angles), ops.cos(angles), ops.one_hot(place, classes)], axis=-1)
    return layers.Dense(width, activation="silu")(layers.Dense(width, activation="silu")(known))


def _block(x: Any, known: Any, width: int, dropout: float) -> Any:
    """Return features (B, h, w, width) that add two convolutions to what comes in."""
    changed = layers.Conv2D(width, 3, padding="same")(_activated(x))
    shift = layers.Reshape((1, 1, width))(layers.Dense(width)(known))
    changed = _activated(changed + shift)
    changed = layers.Dropout(dropout)(changed) if dropout else changed
    changed = layers.Conv2D(width, 3, padding="same", kernel_initializer="zeros")(changed)
    return changed + (x if x.shape[-1] == width else layers.Conv2D(width, 1)(x))


def _activated(x: Any) -> Any:
    return layers.Activation("silu")(layers.GroupNormalization(8)(x))
