"""From logits to calibrated probabilities and a decision.

Stands alone: it is shipped inside every registered model, where there is no medloop.
"""

from collections.abc import Mapping
from typing import Any

import numpy as np


def said(outputs: np.ndarray, card: Mapping[str, Any]) -> np.ndarray:
    """Return probabilities (N, classes) of logits; with the temperature of the card they are calibrated."""
    return probabilities(outputs, card.get("temperature", 1.0))


def answer(outputs: np.ndarray, card: Mapping[str, Any]) -> dict[str, np.ndarray]:
    """Return a column p_<class> for each class, and the name of the decided class."""
    classes = card["classes"]
    probability = said(outputs, card)
    decided = decide(probability, card["threshold"], classes.index(card["positive_class"]))
    columns: dict[str, np.ndarray] = {f"p_{name}": probability[:, place] for place, name in enumerate(classes)}
    return columns | {"decision": np.asarray(classes, object)[decided]}


def columns(card: Mapping[str, Any]) -> dict[str, str]:
    """Return name and type of each column of `answer`."""
    return {**{f"p_{name}": "double" for name in card["classes"]}, "decision": "string"}


def probabilities(logits: np.ndarray, temperature: float = 1.0) -> np.ndarray:
    """Return the softmax of logits (N, classes) divided by the calibration `temperature`, float64."""
    scaled = logits.astype(np.float64) / temperature
    scaled -= scaled.max(axis=1, keepdims=True)
    exponential = np.exp(scaled)
    return exponential / exponential.sum(axis=1, keepdims=True)


def decide(probability: np.ndarray, threshold: float | None, positive: int) -> np.ndarray:
    """Return the decided class index of each row of probabilities (N, classes).

    With two classes the positive one is decided where its probability reaches `threshold`; with more, the likeliest.
    """
    if threshold is None:
        return probability.argmax(axis=1)
    return np.where(probability[:, positive] >= threshold, positive, 1 - positive)
