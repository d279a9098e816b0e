"""What is chosen on validation data beside an architecture: calibration temperatures and operating thresholds."""

from collections.abc import Callable

import numpy as np
from scipy.special import expit, softmax

from medloop.errors import Refused

TEMPERATURES = (0.05, 20.0)
BISECTIONS = 50


def temperature(logits: np.ndarray, labels: np.ndarray) -> tuple[float, bool]:
    """Return what divides logits (N, classes) to make labels (N,) likeliest, and whether there is such a number.

    Without one between TEMPERATURES, as where validation data are told apart without an error, it stays 1.

    Source: Guo et al., On calibration of modern neural networks, 2017.
    """
    hit = logits[np.arange(len(labels)), labels]

    def too_cool(heat: float) -> bool:
        expected = (softmax(logits / heat, axis=1) * logits).sum(axis=1)
        return float(np.mean(expected - hit)) > 0  # the slope of the loss over 1 / temperature, which only rises

    return _between(too_cool)


def binary_temperature(logits: np.ndarray, labels: np.ndarray) -> tuple[float, bool]:
    """Return the same for logits (N,) of yes or no, `labels` (N,); of yes alone there is none."""
    if labels.min() == labels.max():
        return 1.0, False

    def too_cool(heat: float) -> bool:
        return float(np.mean((expit(logits / heat) - labels) * logits)) > 0

    return _between(too_cool)


def _between(too_cool: Callable[[float], bool]) -> tuple[float, bool]:
    """Return the temperature where `too_cool` turns false, and whether it does."""
    low, high = TEMPERATURES
    if not too_cool(low) or too_cool(high):
        return 1.0, False
    for _ in range(BISECTIONS):
        middle = float(np.sqrt(low * high))
        low, high = (middle, high) if too_cool(middle) else (low, middle)
    return float(np.sqrt(low * high)), True


def operating_threshold(labels: np.ndarray, probability: np.ndarray, positive: int, target: float) -> float | None:
    """Return the highest threshold with a sensitivity of at least `target`; None for more than two classes.

    Args:
        labels: (N,) class indices.
        probability: (N, classes).
        positive: index of the class whose probability is held against the threshold.
        target: sensitivity, 0 to 1.

    Raises:
        Refused: no sample is positive.
    """
    if probability.shape[1] > 2:
        return None
    scores = np.sort(probability[labels == positive, positive])[::-1]
    if not len(scores):
        raise Refused("the operating threshold needs validation samples of the positive class, there are none")
    reached = np.arange(1, len(scores) + 1) / len(scores) >= target
    return float(scores[reached.argmax()])
