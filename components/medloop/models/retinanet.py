"""RetinaNet: at every place of a pyramid of features, anchors of several sizes and shapes, each bent to an object.

Source: Lin et al., Focal loss for dense object detection, 2017; small, with batch normalisation.
"""

from typing import Any

import keras
import numpy as np
from keras import layers, ops

from medloop.networks import pyramid

KIND = "convolution"
GIVES = "boxes"
LOSS = "of_anchors"  # of box_losses
SURE = 20.0  # logit of how well a place lies in the middle of its object, of which an anchor says nothing
FURTHEST = 4.0  # logarithm of how many times an anchor grows or shrinks, at most


def build(
    input_shape: tuple[int, int, int],
    outputs: int,
    *,
    filters: tuple[int, ...] = (16, 32, 64, 128),
    finest: int = 8,
    width: int = 64,
    depth: int = 2,
    blocks: int = 1,
    span: float = 4.0,
    scales: tuple[float, ...] = (1.0, 1.4),
    ratios: tuple[float, ...] = (0.6, 1.0, 1.67),
) -> keras.Model:
    """Map images (B, H, W, C) to (B, A, 8 + outputs + 1), what is said at each of A anchors, see `box_losses`.

    Args:
        input_shape: (H, W, C).
        outputs: number of classes.
        filters: of each halving of height and width.
        finest: pixels from place to place on the finest level; every level after it has twice as many.
        width: of the features of the pyramid and of the head.
        depth: 3x3 convolutions of each of both towers of the head.
        blocks: residual ones in each halving but the first.
        span: side of an anchor of scale and ratio 1, in steps from place to place.
        scales: of the anchors' sides.
        ratios: of their height to their width.
    """
    shapes = [(span * scale / ratio**0.5, span * scale * ratio**0.5) for scale in scales for ratio in ratios]
    head, of_sides = pyramid.Head(width, depth, len(shapes) * outputs), pyramid.last(len(shapes) * 4, 0.0)

    def told(logits: Any, sides: Any, step: int) -> Any:
        boxes = _boxes(of_sides(sides), np.array(shapes, np.float32) * step, step)
        logits = layers.Reshape((*sides.shape[1:3], len(shapes), outputs))(logits)
        sure = ops.zeros_like(logits[..., :1]) + SURE
        return ops.concatenate([boxes, logits, sure], axis=-1)  # (B, h, w, shapes, 8 + outputs + 1)

    return head.network(input_shape, told, filters=filters, finest=finest, blocks=blocks, name="retinanet")


def _boxes(bent: Any, shapes: np.ndarray, step: int) -> Any:
    """Return anchors and boxes (B, h, w, K, 8) in pixels, of how anchors of K `shapes` are bent (B, h, w, 4 K)."""
    x, y = pyramid.centres(bent, step)
    x, y = (each + np.zeros_like(shapes[:, 0]) for each in (x, y))  # (1, h, w, K)
    by = layers.Reshape((*bent.shape[1:3], len(shapes), 4))(bent)
    right, down = by[..., 0] * shapes[:, 0] + x, by[..., 1] * shapes[:, 1] + y
    half = [ops.exp(ops.clip(by[..., 2 + i], -FURTHEST, FURTHEST)) * (shapes[:, i] / 2) for i in range(2)]
    none = ops.zeros_like(right)
    anchor = [none + (x - shapes[:, 0] / 2), none + (y - shapes[:, 1] / 2)]
    anchor += [none + (x + shapes[:, 0] / 2), none + (y + shapes[:, 1] / 2)]
    box = [right - half[0], down - half[1], right + half[0], down + half[1]]
    return ops.stack([*anchor, *box], axis=-1)
