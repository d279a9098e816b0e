"""A network that looks at an image, or a volume, several times.

The views are part of the network that is exported: its validation predictions, temperature and threshold, its test
result and what is served all are those of the views' mean.
"""

from typing import Any

import keras
from keras import ops

from medloop import params


def averaged(trained: keras.Model, section: params.Views) -> keras.Model:
    """Return a network whose logits are the mean of those that `trained` gives to the views; itself if there is one.

    Args:
        trained: from images (B, H, W, C) or volumes (B, D, H, W, C) uint8 to logits (B, outputs), or to a map of them
            (B, H, W, outputs), which is turned back before the mean.
        section: which views; of maps no shifted ones.
    """
    [given] = trained.inputs
    image = keras.Input(given.shape[1:], dtype=given.dtype, name=given.name)
    seen = views(image, section)
    if len(seen) == 1:
        return trained
    logits = trained(ops.concatenate(seen, axis=0))  # (views * B, outputs)
    if len(trained.output_shape) == 4:
        back = [_flipped(each, *way) for each, way in zip(ops.split(logits, len(seen)), _flips(section), strict=True)]
        return keras.Model(image, ops.mean(ops.stack(back), axis=0), name=trained.name)
    logits = ops.reshape(logits, (len(seen), -1, trained.output_shape[-1]))
    return keras.Model(image, ops.mean(logits, axis=0), name=trained.name)


def views(image: Any, section: params.Views) -> list[Any]:
    """Return images (B, ..., H, W, C) as they are, shifted, and each of these flipped."""
    seen, by = [image], section.shift_px
    if by:
        seen += [_shifted(image, axis, forward, by) for axis in (-3, -2) for forward in (True, False)]
    return [_flipped(each, *way) for way in _flips(section) for each in seen]


def _flips(section: params.Views) -> list[tuple[bool, bool]]:
    """Return the ways in which images are flipped, each (left to right, upside down)."""
    sideways = [False, True] if section.flip_horizontal else [False]
    over = [False, True] if section.flip_vertical else [False]
    return [(horizontal, vertical) for vertical in over for horizontal in sideways]


def _flipped(image: Any, horizontal: bool, vertical: bool) -> Any:
    image = image[..., ::-1, :] if horizontal else image
    return image[..., ::-1, :, :] if vertical else image


def _shifted(image: Any, axis: int, forward: bool, by: int) -> Any:
    """Return images moved along an axis, their first or last line repeated where nothing comes after."""

    def lines(first: int | None, end: int | None) -> Any:
        return image[(..., slice(first, end), *[slice(None)] * (-axis - 1))]

    edge, kept = (lines(None, 1), lines(None, -by)) if forward else (lines(-1, None), lines(by, None))
    return ops.concatenate([edge] * by + [kept] if forward else [kept] + [edge] * by, axis=axis)
