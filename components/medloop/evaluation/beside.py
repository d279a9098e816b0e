"""Simple models beside the network: what they say of the same test set, and how far the network is above them."""

from collections.abc import Mapping
from types import ModuleType
from typing import Any

import numpy as np

from medloop import elastic_net, params
from medloop.evaluation import bootstrap
from medloop.predictions import Predictions, drawn_together

COMPARED = ("accuracy",)  # beside the gating metric, where a task has it


def rivals(
    floors: Mapping[str, Any],
    inputs: np.ndarray,
    predictions: Predictions,
    card: Mapping[str, Any],
    task: ModuleType,
    section: params.Evaluate,
) -> dict[str, Predictions]:
    """Return what each of `floors` says of the test inputs (N, ...), by name.

    The temperature and the threshold of an elastic net are chosen as those of the network are, on what it says of
    development data that it has not seen.
    """
    found: dict[str, Predictions] = task.rivals(floors, inputs, predictions) if hasattr(task, "rivals") else {}
    if elastic_net.NAME in floors:
        entry = floors[elastic_net.NAME]
        unseen, labels = np.array(entry["outputs"]), np.array(entry["labels"])
        chosen = {**card, **task.chosen(labels, unseen, card, section)}
        outputs = elastic_net.kept(entry).outputs(inputs)
        found[elastic_net.NAME] = task.predictions(predictions.table, predictions.labels, outputs, chosen)
    return found


def ranking(about: Mapping[str, Any]) -> dict[str, Any] | None:
    """Return the ranking of the features that came with the elastic net, or None."""
    found: dict[str, Any] | None = about.get("floors", {}).get(elastic_net.NAME, {}).get("ranking")
    return found


def beyond(
    predictions: Predictions, rival: Predictions, task: ModuleType, section: params.Evaluate, seed: int
) -> dict[str, Any]:
    """Return by metric how far the network is above a rival, with the interval of the difference.

    Each resample draws the same patients for both.
    """
    names = [name for name in dict.fromkeys((task.GATE, *COMPARED)) if name in task.METRICS]

    def differences(weights: np.ndarray | None) -> dict[str, np.ndarray]:
        ours, theirs = predictions.metrics(weights), rival.metrics(weights)
        return {name: ours[name] - theirs[name] for name in names}

    groups = bootstrap.clusters(drawn_together(predictions.table))
    drawn = bootstrap.draw(differences, groups, section.resamples, seed)
    size = task.rarest(predictions.labels, groups)
    return {
        name: bootstrap.interval(float(value[0]), drawn[name], section.confidence, size=size)
        for name, value in differences(None).items()
    }
