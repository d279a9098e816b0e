"""The losses of classes, of a sample or of each pixel, which tasks use that name classes; on any backend of keras."""

from collections.abc import Callable
from typing import Any

from keras import ops

from medloop import params

TINY = 1e-7  # the least of 1 - p: at 0 its powers below one have no slope
SMOOTH = 1.0  # pixels added to both sides of the Dice ratio: an image without the class has a slope too


def of_shares(
    section: params.Train, log_probabilities: Callable[[Any], Any], shares: Callable[[Any, int], Any] | None = None
) -> Any:
    """Return the loss of labels, outputs (B, K) and weights of samples (B,), of labels (B, L) or none: a mean.

    The focal loss is the cross-entropy times (1 - p)^gamma, class by class, for p the probability of the class.

    Args:
        section: which of the two, and how much of each label goes to all classes alike.
        log_probabilities: of outputs, (B, ..., classes).
        shares: of labels and a number of classes, the share of each class (B, ..., classes); else labels are class
            indices (B,) or such shares.

    Source: Lin et al., Focal loss for dense object detection, 2017.
    """
    shares = shares or _one_hot

    def mean(labels: Any, outputs: Any, weights: Any = 1.0) -> Any:
        log_p = log_probabilities(outputs)
        lost = _lost(section, shares(labels, log_p.shape[-1]), log_p)
        return ops.mean((ops.mean(lost, axis=-1) if len(ops.shape(weights)) < len(lost.shape) else lost) * weights)

    return mean


def of_maps(section: params.Train) -> Any:
    """Return the loss of labels (B, H, W), logits (B, H, W, 1 + classes) and weights (B,) or none: a mean over images.

    Of each image it is the mean of the cross-entropy, or of the focal loss, over its pixels, plus one less soft Dice,
    the mean over classes without the background, in which a small object's class counts like any other.

    Source: Milletari et al., V-Net, 2016; Isensee et al., nnU-Net, 2021, for the sum of the two.
    """

    def mean(labels: Any, logits: Any, weights: Any = 1.0) -> Any:
        log_p = ops.log_softmax(ops.cast(logits, "float32"))
        truth = ops.one_hot(ops.cast(labels, "int32"), log_p.shape[-1])  # (B, H, W, 1 + classes)
        of_pixels = ops.mean(_lost(section, truth, log_p), axis=(1, 2))
        return ops.mean((of_pixels + 1 - soft_dice(truth, ops.exp(log_p))) * weights)

    return mean


def soft_dice(truth: Any, probabilities: Any) -> Any:
    """Return Dice (B,) of probabilities (B, H, W, 1 + classes) for true ones, a mean over classes but the first."""
    both = ops.sum(truth * probabilities, axis=(1, 2))[:, 1:]  # (B, classes)
    either = ops.sum(truth + probabilities, axis=(1, 2))[:, 1:]
    return ops.mean((2 * both + SMOOTH) / (either + SMOOTH), axis=-1)


def _lost(section: params.Train, truth: Any, log_p: Any) -> Any:
    """Return the cross-entropy or the focal loss (B, ..) of shares and log-probabilities (B, .., classes)."""
    smoothing, gamma = section.label_smoothing, section.focal_gamma if section.loss == "focal" else 0
    wanted = truth * (1 - smoothing) + smoothing / log_p.shape[-1]
    missed = ops.maximum(1 - ops.exp(log_p), TINY) ** gamma if gamma else 1.0
    return -ops.sum(wanted * missed * log_p, axis=-1)


def _one_hot(labels: Any, classes: int) -> Any:
    return labels if len(labels.shape) > 1 else ops.one_hot(labels, classes)
