"""The loss of shares of classes, which tasks use that name classes; on any backend of keras."""

from collections.abc import Callable
from typing import Any

from keras import ops

from medloop import params

TINY = 1e-7  # the least of 1 - p: at 0 its powers below one have no slope


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
    smoothing, gamma = section.label_smoothing, section.focal_gamma if section.loss == "focal" else 0
    shares = shares or _one_hot

    def mean(labels: Any, outputs: Any, weights: Any = 1.0) -> Any:
        log_p = log_probabilities(outputs)
        classes = log_p.shape[-1]
        wanted = shares(labels, classes) * (1 - smoothing) + smoothing / classes
        missed = ops.maximum(1 - ops.exp(log_p), TINY) ** gamma if gamma else 1.0
        lost = -ops.sum(wanted * missed * log_p, axis=-1)
        return ops.mean((ops.mean(lost, axis=-1) if len(ops.shape(weights)) < len(lost.shape) else lost) * weights)

    return mean


def _one_hot(labels: Any, classes: int) -> Any:
    return labels if len(labels.shape) > 1 else ops.one_hot(labels, classes)
