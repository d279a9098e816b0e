"""What is chosen on validation data alone: architecture, calibration temperature, operating threshold."""

from collections.abc import Sequence
from types import ModuleType
from typing import Any

import numpy as np

from medloop import params
from medloop.errors import Refused
from medloop.evaluation import bootstrap
from medloop.evaluation.candidates import Candidate
from medloop.inference import decide, probabilities

TEMPERATURES = (0.05, 20.0)
BISECTIONS = 50


def choose(
    candidates: Sequence[Candidate], task: ModuleType, section: params.Evaluate, seed: int
) -> tuple[Candidate, dict[str, Any]]:
    """Return the best candidate, and all that was chosen, as choice.json has it.

    The best has the highest gating metric; of equals it is the one with fewer parameters, then the first by name.
    """
    scores = {each.architecture: _score(each, task, section, seed) for each in candidates}
    best = min(
        candidates,
        key=lambda each: (-scores[each.architecture]["value"], each.card["parameters"], each.architecture),
    )
    positive = positive_index(best.classes, section.positive_class)
    heat, calibrated = temperature(best.logits, best.labels)
    probability = probabilities(best.logits, heat)
    threshold = operating_threshold(best.labels, probability, positive, section.target_sensitivity)
    return best, {
        "architecture": best.architecture,
        "epoch": best.card["best_epoch"],
        "temperature": heat,
        "calibrated": calibrated,
        "threshold": threshold,
        "positive_class": best.classes[positive],
        "operating_point": _operating_point(best, task, probability, threshold, positive, section.target_sensitivity),
        "gate": task.GATE,
        "validation": {
            each.architecture: {
                task.GATE: scores[each.architecture],
                "parameters": each.card["parameters"],
                "epoch": each.card["best_epoch"],
            }
            for each in candidates
        },
    }


def positive_index(classes: Sequence[str], name: str | None) -> int:
    """Return the index of the class that sensitivity speaks of; raise Refused for one that does not exist."""
    if name is None:
        return len(classes) - 1
    if name not in classes:
        raise Refused(f"evaluate.positive_class: unknown class {name!r}; known: {', '.join(classes)}")
    return list(classes).index(name)


def temperature(logits: np.ndarray, labels: np.ndarray) -> tuple[float, bool]:
    """Return what divides logits (N, classes) to make labels (N,) likeliest, and whether there is such a number.

    Without one between TEMPERATURES, as where validation data are told apart without an error, it stays 1.

    Source: Guo et al., On calibration of modern neural networks, 2017.
    """
    hit = logits[np.arange(len(labels)), labels]

    def too_cool(heat: float) -> bool:
        expected = (probabilities(logits, heat) * logits).sum(axis=1)
        return float(np.mean(expected - hit)) > 0  # the slope of the loss over 1 / temperature, which only rises

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


def _score(each: Candidate, task: ModuleType, section: params.Evaluate, seed: int) -> dict[str, Any]:
    """Return the gating metric on validation data with its interval."""
    probability = probabilities(each.logits)
    positive = positive_index(each.classes, section.positive_class)
    groups = bootstrap.clusters(each.patients)

    def gate(weights: np.ndarray) -> dict[str, np.ndarray]:
        return {task.GATE: task.gate(each.labels, probability, weights, positive=positive)}

    drawn = bootstrap.draw(gate, groups, section.resamples, seed)[task.GATE]
    value, size = task.score(each.labels, probability), bootstrap.rarest(each.labels, groups)
    return bootstrap.interval(value, drawn, section.confidence, size=size)


def _operating_point(
    best: Candidate, task: ModuleType, probability: np.ndarray, threshold: float | None, positive: int, target: float
) -> dict[str, Any]:
    """Return what the decision was set to do, and what it does on validation data."""
    decisions = decide(probability, threshold, positive)
    found = task.metrics(best.labels, probability, decisions, positive=positive)
    reached = {f"validation_{name}": float(found[name][0]) for name in ("sensitivity", "specificity")}
    return {"target_sensitivity": None if threshold is None else target, **reached}
