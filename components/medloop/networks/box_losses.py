"""The losses of boxes; on any backend of keras.

Networks that find objects give (B, A, 8 + C + 1) numbers of images, a row for each of A places: the reference box of
the place and the predicted box (x0, y0, x1, y1 in pixels of the input, both), a logit for each class, and one of how
well the place lies in the middle of its object. True boxes are (B, M, 5): corners in the same pixels and the number of
the class from 1 on, 0 for a row that only fills up.

A loss is a mean over images. What an image loses is divided by the number of its own positive places, so that it does
not depend on what else is in the batch.
"""

from collections.abc import Callable
from typing import Any

from keras import ops

from medloop import params

NUMBERS = 8  # of a place, before its logits
ALPHA = 0.25  # share of the focal loss that the objects have, 1 - ALPHA the background
PRIOR = 0.01  # probability of an object at a place that a network begins with
SPAN = 4  # sides of the reference box of a point, in steps from point to point
RADIUS = 1.5  # steps from the middle of an object within which points are of it
MATCHED, UNMATCHED = (
    0.5,
    0.4,
)  # IoU of an anchor with an object: from the first on it is of it, below the second of none
TINY = 1e-7
FAR = 1e12  # pixels, more than the area of any box

Loss = Callable[..., Any]


def of_points(section: params.Train) -> Loss:
    """Return the loss of true boxes (B, M, 5), outputs (B, A, 8 + C + 1) and image weights (B,) or none.

    A point is of an object where it lies inside and within RADIUS steps of its middle, or is the nearest to it, on the
    level for objects of that size; of several objects, of the smallest. Every point has focal loss for its classes;
    those of an object 1 - GIoU, weighted by their centredness, and cross-entropy for that.

    Source: Tian et al., FCOS: Fully convolutional one-stage object detection, 2019, with centre sampling; levels here
    are by the longer side, SPAN to 2 SPAN steps each.
    """

    def mean(labels: Any, outputs: Any, weights: Any = 1.0) -> Any:
        outputs, corners, kinds = _given(labels, outputs)
        logits, middle = outputs[..., NUMBERS:-1], outputs[..., -1]
        cost = _costs(outputs[0, :, :4], corners, kinds)  # (B, A, M)
        mine, positive = ops.argmin(cost, axis=-1), ops.cast(ops.min(cost, axis=-1) < FAR, "float32")  # (B, A)
        boxes, classes = _taken(corners, kinds, mine)
        centred = _centredness(outputs[0, :, :4], boxes) * positive
        count = ops.maximum(ops.sum(positive, axis=1), 1.0)
        lost = _focal(section, logits, classes, positive) / count
        aside = ops.sum((1 - giou(outputs[..., 4:NUMBERS], boxes)) * centred, axis=1)
        lost += aside / ops.maximum(ops.sum(centred, axis=1), TINY)
        lost += ops.sum(_cross_entropy(middle, centred) * positive, axis=1) / count
        return ops.mean(lost * weights)

    return mean


def of_anchors(section: params.Train) -> Loss:
    """Return the loss of true boxes (B, M, 5), outputs (B, A, 8 + C + 1) and image weights (B,) or none.

    An anchor is of the object that it overlaps most where their IoU reaches MATCHED, and so is the best anchor of an
    object whatever its IoU; those between UNMATCHED and MATCHED do not count. Focal loss for the classes, and
    1 - GIoU for the boxes of objects.

    Source: Lin et al., Focal loss for dense object detection, 2017 (RetinaNet); GIoU in place of smooth L1.
    """

    def mean(labels: Any, outputs: Any, weights: Any = 1.0) -> Any:
        outputs, corners, kinds = _given(labels, outputs)
        anchors = outputs[:1, :, None, :4]
        real = ops.cast(kinds > 0, "float32")[:, None]  # (B, 1, M)
        shared = _iou(anchors, corners[:, None])[0] * real  # (B, A, M)
        best = ops.max(shared, axis=1, keepdims=True)  # of each object
        forced = ops.cast(ops.logical_and(shared >= best, best > 0), "float32")
        value = shared + forced
        mine, score = ops.argmax(value, axis=-1), ops.max(value, axis=-1)  # (B, A)
        positive, counted = (
            ops.cast(each, "float32")
            for each in (score >= MATCHED, ops.logical_or(score >= MATCHED, score < UNMATCHED))
        )
        boxes, classes = _taken(corners, kinds, mine)
        count = ops.maximum(ops.sum(positive, axis=1), 1.0)
        lost = _focal(section, outputs[..., NUMBERS:-1], classes, positive, counted)
        lost += ops.sum((1 - giou(outputs[..., 4:NUMBERS], boxes)) * positive, axis=1)
        return ops.mean(lost / count * weights)

    return mean


def giou(boxes: Any, others: Any) -> Any:
    """Return the generalised IoU (..), -1 to 1, of boxes (.., 4) with others: 1 is the same, 0 or less is apart.

    Source: Rezatofighi et al., Generalized intersection over union, 2019.
    """
    share, union = _iou(boxes, others)
    around = ops.maximum(boxes[..., 2:], others[..., 2:]) - ops.minimum(boxes[..., :2], others[..., :2])
    hull = around[..., 0] * around[..., 1]
    return share - (hull - union) / ops.maximum(hull, TINY)


def _given(labels: Any, outputs: Any) -> tuple[Any, Any, Any]:
    """Return outputs, corners (B, M, 4) float32 and class numbers (B, M) int32."""
    labels = ops.cast(labels, "float32")
    return ops.cast(outputs, "float32"), labels[..., :4], ops.cast(labels[..., 4], "int32")


def _costs(reference: Any, corners: Any, kinds: Any) -> Any:
    """Return the area of each object for the points (A) that are of it, else FAR: (B, A, M)."""
    point = (reference[:, None, :2] + reference[:, None, 2:]) / 2  # (A, 1, 2)
    side = reference[:, None, 2] - reference[:, None, 0]  # (A, 1)
    sides = (corners[..., 2:] - corners[..., :2])[:, None]  # (B, 1, M, 2)
    longest, area = ops.max(sides, axis=-1), sides[..., 0] * sides[..., 1]
    above = ops.logical_or(longest > side, side <= ops.min(side))
    of_level = ops.logical_and(above, ops.logical_or(longest <= 2 * side, side >= ops.max(side)))  # (B, A, M)
    middle = (corners[..., :2] + corners[..., 2:])[:, None] / 2
    away = ops.max(ops.abs(point - middle), axis=-1) * SPAN / side  # in steps, (B, A, M)
    within = ops.min(_distances(point, corners[:, None]), axis=-1) > 0
    of_it = ops.logical_or(ops.logical_and(within, away < RADIUS), away <= 0.5)
    of_it = ops.logical_and(ops.logical_and(of_it, of_level), kinds[:, None] > 0)
    return ops.where(of_it, area, FAR)


def _distances(point: Any, corners: Any) -> Any:
    """Return how far points (.., 2) lie within the left, upper, right and lower side of boxes (.., 4)."""
    return ops.concatenate([point - corners[..., :2], corners[..., 2:] - point], axis=-1)


def _centredness(reference: Any, boxes: Any) -> Any:
    """Return 1 for points (A) in the middle of their boxes (B, A, 4), 0 for those at the edge: (B, A)."""
    point = (reference[:, :2] + reference[:, 2:]) / 2
    far = ops.maximum(_distances(point, boxes), 0.0)
    near, wide = ops.minimum(far[..., :2], far[..., 2:]), ops.maximum(far[..., :2], far[..., 2:])
    ratio = near / ops.maximum(wide, TINY)
    return ops.sqrt(ops.maximum(ratio[..., 0] * ratio[..., 1], TINY))


def _taken(corners: Any, kinds: Any, mine: Any) -> tuple[Any, Any]:
    """Return the corners (B, A, 4) and the class number (B, A) of the object of each place, of `mine` (B, A)."""
    return ops.take_along_axis(corners, mine[..., None], axis=1), ops.take_along_axis(kinds, mine, axis=1)


def _focal(section: params.Train, logits: Any, classes: Any, positive: Any, counted: Any = 1.0) -> Any:
    """Return the focal loss (B,) of logits (B, A, C), a sum over places and classes."""
    truth = ops.one_hot(classes - 1, logits.shape[-1]) * positive[..., None]
    p = ops.sigmoid(logits)
    missed = ops.maximum(truth * (1 - p) + (1 - truth) * p, TINY) ** section.focal_gamma
    share = truth * ALPHA + (1 - truth) * (1 - ALPHA)
    return ops.sum(ops.sum(share * missed * _cross_entropy(logits, truth), axis=-1) * counted, axis=1)


def _cross_entropy(logits: Any, truth: Any) -> Any:
    return ops.softplus(logits) - logits * truth


def _iou(boxes: Any, others: Any) -> tuple[Any, Any]:
    """Return IoU and joint area (..) of boxes (.., 4) with others."""
    inner = ops.minimum(boxes[..., 2:], others[..., 2:]) - ops.maximum(boxes[..., :2], others[..., :2])
    inner = ops.maximum(inner, 0.0)
    both = inner[..., 0] * inner[..., 1]
    first, second = (each[..., 2:] - each[..., :2] for each in (boxes, others))
    union = first[..., 0] * first[..., 1] + second[..., 0] * second[..., 1] - both
    return both / ops.maximum(union, TINY), union
