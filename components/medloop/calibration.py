"""What is chosen on validation data beside an architecture: calibration temperatures and operating thresholds."""

import numpy as np
from scipy.special import expit, softmax

from medloop.errors import Refused

TEMPERATURES = (0.05, 20.0)
BISECTIONS = 50
NEWTON_STEPS, CLOSE, RIDGE = 50, 1e-9, 1e-9


def temperature(logits: np.ndarray, labels: np.ndarray) -> tuple[float, bool]:
    """Return what divides logits (N, classes) to make labels (N,) likeliest, and whether there is such a number.

    Without one between TEMPERATURES, as where validation data are told apart without an error, it stays 1.

    Source: Guo et al., On calibration of modern neural networks, 2017.
    """
    hit = logits[np.arange(len(labels)), labels]

    def too_cool(heat: float) -> bool:
        expected = (softmax(logits / heat, axis=1) * logits).sum(axis=1)
        return float(np.mean(expected - hit)) > 0  # the slope of the loss over 1 / temperature, which only rises

    low, high = TEMPERATURES
    if not too_cool(low) or too_cool(high):
        return 1.0, False
    for _ in range(BISECTIONS):
        middle = float(np.sqrt(low * high))
        low, high = (middle, high) if too_cool(middle) else (low, middle)
    return float(np.sqrt(low * high)), True


def platt(logits: np.ndarray, labels: np.ndarray) -> tuple[float, float, bool]:
    """Return temperature and bias with which logits / temperature + bias (N,) make `labels` (N,) likeliest.

    The bias takes back what class weights add. The labels are drawn a little towards each other, so that there is an
    answer where they are told apart without an error. The third value is False, and the others 1 and 0, where nobody or
    everybody is positive, and where higher logits are no sign of a positive.

    Source: Platt, Probabilistic outputs for support vector machines, 1999.
    """
    positives, spread = int(labels.sum()), float(np.std(logits))
    negatives = len(labels) - positives
    if not positives or not negatives or not spread:
        return 1.0, 0.0, False
    wanted = np.where(labels > 0, (positives + 1) / (positives + 2), 1 / (negatives + 2))
    x = np.stack([logits / spread, np.ones(len(logits))], axis=1)
    share = wanted.mean()
    found = np.array([0.0, np.log(share / (1 - share))])

    def lost(line: np.ndarray) -> float:
        z = x @ line
        return float(np.mean(np.logaddexp(0, z) - wanted * z))

    for _ in range(NEWTON_STEPS):
        p = expit(x @ found)
        step = np.linalg.solve(x.T @ (x * (p * (1 - p))[:, None]) + RIDGE * np.eye(2), x.T @ (p - wanted))
        while lost(found - step) > lost(found) and np.abs(step).max() > CLOSE:
            step = step / 2
        found = found - step
        if np.abs(step).max() <= CLOSE:
            break
    slope = found[0] / spread
    if not 1 / TEMPERATURES[1] < slope < 1 / TEMPERATURES[0]:
        return 1.0, 0.0, False
    return float(1 / slope), float(found[1]), True


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
