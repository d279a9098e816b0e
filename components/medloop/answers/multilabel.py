"""From logits to a calibrated probability and a decision for each label.

Stands alone: it is shipped inside every registered model, where there is no medloop.
"""

from collections.abc import Mapping
from typing import Any

import numpy as np


def said(outputs: np.ndarray, card: Mapping[str, Any]) -> np.ndarray:
    """Return probabilities (N, labels) of logits; with temperatures and biases of the card they are calibrated."""
    return probabilities(outputs, np.asarray(card.get("temperature", 1.0)), np.asarray(card.get("bias", 0.0)))


def answer(outputs: np.ndarray, card: Mapping[str, Any]) -> dict[str, np.ndarray]:
    """Return a column p_<label> for each label, and the names of those decided, joined by "|"; none is ""."""
    labels = card["classes"]
    probability = said(outputs, card)
    decided = decide(probability, card["threshold"])
    joined = ["|".join(name for name, yes in zip(labels, row, strict=True) if yes) for row in decided]
    columns: dict[str, np.ndarray] = {f"p_{name}": probability[:, place] for place, name in enumerate(labels)}
    return columns | {"decision": np.asarray(joined, object)}


def columns(card: Mapping[str, Any]) -> dict[str, str]:
    """Return name and type of each column of `answer`."""
    return {**{f"p_{name}": "double" for name in card["classes"]}, "decision": "string"}


def probabilities(logits: np.ndarray, temperature: np.ndarray, bias: np.ndarray) -> np.ndarray:
    """Return the logistic function of logits (N, labels) / temperature + bias, each of a label, float64."""
    return np.exp(-np.logaddexp(0, -(logits.astype(np.float64) / temperature + bias)))


def decide(probability: np.ndarray, threshold: Any) -> np.ndarray:
    """Return 1 (N, labels) where a probability reaches the threshold of its label, else 0."""
    return (probability >= np.asarray(threshold)).astype(np.uint8)
