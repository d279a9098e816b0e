"""FCOS: at every place of a pyramid of features, how far the four sides of an object are, and how far off its middle.

Source: Tian et al., FCOS: Fully convolutional one-stage object detection, 2019; small, with batch normalisation.
"""

from typing import Any

import keras
from keras import ops

from medloop.networks import box_losses, pyramid

KIND = "convolution"
GIVES = "boxes"
LOSS = "of_points"  # of box_losses
USUAL = 2.0  # steps from the middle of an object to its sides, at first


def build(
    input_shape: tuple[int, int, int],
    outputs: int,
    *,
    filters: tuple[int, ...] = (16, 32, 64, 128),
    finest: int = 8,
    width: int = 64,
    depth: int = 2,
    blocks: int = 1,
) -> keras.Model:
    """Map images (B, H, W, C) to (B, A, 8 + outputs + 1), what is said at each of A places, see `box_losses`.

    Args:
        input_shape: (H, W, C).
        outputs: number of classes.
        filters: of each halving of height and width.
        finest: pixels from place to place on the finest level; every level after it has twice as many.
        width: of the features of the pyramid and of the head.
        depth: 3x3 convolutions of each of both towers of the head.
        blocks: residual ones in each halving but the first.
    """
    head = pyramid.Head(width, depth, outputs)
    of_sides, of_middle = pyramid.last(4, USUAL), pyramid.last(1, 0.0)

    def told(logits: Any, sides: Any, step: int) -> Any:
        boxes = _boxes(ops.softplus(of_sides(sides)) * step, step)
        return ops.concatenate([boxes, logits, of_middle(sides)], axis=-1)  # (B, h, w, 8 + outputs + 1)

    return head.network(input_shape, told, filters=filters, finest=finest, blocks=blocks, name="fcos")


def _boxes(far: Any, step: int) -> Any:
    """Return the reference and the predicted box (B, h, w, 8) of how far (B, h, w, 4) the sides are, in pixels."""
    x, y = pyramid.centres(far, step)
    none, half = ops.zeros_like(far[..., :1]), box_losses.SPAN * step / 2
    left, top, right, bottom = (far[..., i : i + 1] for i in range(4))
    reference = [none + (x - half), none + (y - half), none + (x + half), none + (y + half)]
    return ops.concatenate([*reference, none + x - left, none + y - top, right + x, bottom + y], axis=-1)
