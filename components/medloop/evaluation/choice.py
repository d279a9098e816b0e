"""What is chosen on validation data alone: the architecture, and what its task chooses beside it."""

from collections.abc import Sequence
from types import ModuleType
from typing import Any

import numpy as np

from medloop import params
from medloop.evaluation import bootstrap
from medloop.evaluation.candidates import Candidate


def choose(
    candidates: Sequence[Candidate], task: ModuleType, section: params.Evaluate, seed: int
) -> tuple[Candidate, dict[str, Any]]:
    """Return the best candidate, and all that was chosen, as choice.json has it.

    The best has the best gating metric; of equals it is the one with fewer parameters, then the first by name.
    """
    scores = {each.architecture: _score(each, task, section, seed) for each in candidates}
    sign = 1 if getattr(task, "LOWER_IS_BETTER", False) else -1
    best = min(
        candidates,
        key=lambda each: (sign * scores[each.architecture]["value"], each.card["parameters"], each.architecture),
    )
    return best, {
        "architecture": best.architecture,
        "epoch": best.card["best_epoch"],
        **task.chosen(best.labels, best.outputs, best.card, section),
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


def _score(each: Candidate, task: ModuleType, section: params.Evaluate, seed: int) -> dict[str, Any]:
    """Return the gating metric on validation data with its interval."""
    said, groups = task.said(each.outputs, each.card), bootstrap.clusters(each.together)

    def gate(weights: np.ndarray) -> dict[str, np.ndarray]:
        return {task.GATE: task.gate(each.labels, said, weights)}

    drawn = bootstrap.draw(gate, groups, section.resamples, seed)[task.GATE]
    value, size = task.score(each.labels, said), task.rarest(each.labels, groups)
    return bootstrap.interval(value, drawn, section.confidence, size=size)
