"""A network that looks at an image several times.

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
        trained: from images (B, H, W, C) uint8 to logits (B, outputs).
        section: which views.
    """
    image = keras.Input(trained.input_shape[1:], dtype="uint8", name="image")
    seen = views(image, section)
    if len(seen) == 1:
        return trained
    logits = trained(ops.concatenate(seen, axis=0))  # (views * B, outputs)
    logits = ops.reshape(logits, (len(seen), -1, trained.output_shape[-1]))
    return keras.Model(image, ops.mean(logits, axis=0), name=trained.name)


def views(image: Any, section: params.Views) -> list[Any]:
    """Return images (B, H, W, C) as they are, shifted, and each of these flipped."""
    seen, by = [image], section.shift_px
    if by:
        seen += [_shifted(image, axis, forward, by) for axis in (1, 2) for forward in (True, False)]
    if section.flip_horizontal:
        seen += [each[:, :, ::-1] for each in seen]
    if section.flip_vertical:
        seen += [each[:, ::-1] for each in seen]
    return seen


def _shifted(image: Any, axis: int, forward: bool, by: int) -> Any:
    """Return images moved along an axis, their first or last line repeated where nothing comes after."""
    if axis == 2:
        edge = image[:, :, :1] if forward else image[:, :, -1:]
        kept = image[:, :, :-by] if forward else image[:, :, by:]
    else:
        edge = image[:, :1] if forward else image[:, -1:]
        kept = image[:, :-by] if forward else image[:, by:]
    return ops.concatenate([edge] * by + [kept] if forward else [kept] + [edge] * by, axis=axis)
