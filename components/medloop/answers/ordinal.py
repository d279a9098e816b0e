"""From the steps of a scale to calibrated probabilities of its grades, and a grade.

Stands alone: it is shipped inside every registered model, where there is no medloop.
"""

from collections.abc import Mapping
from typing import Any

import numpy as np


def said(outputs: np.ndarray, card: Mapping[str, Any]) -> np.ndarray:
    """Return probabilities (N, grades); with the temperatures and biases of the card they are calibrated."""
    return probabilities(outputs / np.asarray(card.get("temperature", 1.0)) + np.asarray(card.get("bias", 0.0)))


def answer(outputs: np.ndarray, card: Mapping[str, Any]) -> dict[str, np.ndarray]:
    """Return a column p_<grade> for each grade, the expected grade, counted from 0, and the name of the decided one."""
    grades = card["classes"]
    probability = said(outputs, card)
    columns: dict[str, np.ndarray] = {f"p_{name}": probability[:, place] for place, name in enumerate(grades)}
    return columns | {"expected": expected(probability), "decision": np.asarray(grades, object)[decide(probability)]}


def columns(card: Mapping[str, Any]) -> dict[str, str]:
    """Return name and type of each column of `answer`."""
    return {**{f"p_{name}": "double" for name in card["classes"]}, "expected": "double", "decision": "string"}


def probabilities(steps: np.ndarray) -> np.ndarray:
    """Return the probability of each grade (N, K) of steps (N, K - 1): logits that a sample above k is above k + 1 too.

    The probability of more than a grade falls with the grade, whatever the steps are.
    """
    steps = steps.astype(np.float64)
    climbed = np.cumsum(-np.logaddexp(0, -steps), axis=1)  # log of the probability to come this far
    stopped = -np.logaddexp(0, steps)  # log of the probability to stop here
    none = np.zeros((len(steps), 1))
    return np.exp(np.hstack([none, climbed]) + np.hstack([stopped, none]))


def expected(probability: np.ndarray) -> np.ndarray:
    """Return the mean grade (N,), from 0, of probabilities (N, K)."""
    return probability @ np.arange(probability.shape[1])


def decide(probability: np.ndarray) -> np.ndarray:
    """Return the grade (N,) nearest to the expected one: what loses least where an error costs its square."""
    return np.floor(expected(probability) + 0.5).astype(np.int64)
