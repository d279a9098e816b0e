"""The report on several labels at once: each of them a test of its own, and their means."""

from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
from matplotlib.figure import Figure

from medloop import kinds, plugins
from medloop.evaluation import curves, wording
from medloop.evaluation.curves import Scored
from medloop.tasks.multilabel import Predictions

GUESSING = 0.5  # AUC
SMALL_CLASS = 30  # samples
CALIBRATED = 0.05  # expected calibration error above which a probability is none
JUDGED = ("sensitivity",)
BY_LABEL = ("auc", "average_precision", "sensitivity", "specificity", "f1")
FIGURES = {
    "roc": "ROC curve of each label on the test set",
    "precision_recall": "Precision and recall of each label on the test set",
    "reliability": "Reliability diagram of the test set",
}
WORST = "Test {units} with the label that the model held least likely, or without the one it held likeliest."


def asked(card: Mapping[str, Any], choice: Mapping[str, Any]) -> list[tuple[str, str]]:
    """Return what was asked."""
    classes = card["classes"]
    task = f"{card['task']}: any of {len(classes)} labels per {wording.noun(card)}: {' / '.join(classes)}"
    target = choice["operating_point"]["target_sensitivity"]
    decision = (
        "a label is given where it is likelier than not"
        if target is None
        else f"each label has a threshold with a sensitivity of at least {wording.percent(target)} on validation data"
    )
    likelier = choice["without_threshold"] if target is not None else []
    rest = f"; where it is likelier than not: {', '.join(likelier)}" if likelier else ""
    return [("Task", task), ("Decision", f"{decision}{rest}")]


def contents(metrics: Mapping[str, Any]) -> str:
    """Return how many samples have each label."""
    return " / ".join(f"{count} with {name}" for name, count in metrics["n"]["classes"].items())


def shown(card: Mapping[str, Any]) -> tuple[str, ...]:  # noqa: ARG001
    """Return the metrics that a reader sees first, by group and by label."""
    return ("auc", "sensitivity", "specificity")


def meanings(card: Mapping[str, Any], units: str = "images") -> dict[str, str]:  # noqa: ARG001
    """Return in one phrase what each metric is."""
    one, over = wording.one(units), ", mean over labels"
    return {
        "auc": f"chance that {one} with a label scores higher than one without; 0.5 is guessing, 1 perfect{over}",
        "accuracy": f"share of {units} for which a label is decided rightly{over}",
        "sensitivity": f"share of {units} with a label that are found{over}",
        "specificity": f"share of {units} without a label that are cleared{over}",
        "f1": f"harmonic mean of sensitivity and PPV{over}",
        "brier": f"mean squared error of the probabilities; 0 is perfect, 1 the worst{over}",
        "ece": f"mean distance of a label's probability from how often it comes true, 10 bins of equal width{over}",
        "average_precision": f"mean share of right alarms over all thresholds that find another of the {units}; "
        f"guessing gives how common a label is{over}",
        "micro_f1": f"F1 of all labels of all {units} counted together",
        "exact_match": f"share of {units} with every label decided rightly",
    }


def outcome(metrics: Mapping[str, Any], card: Mapping[str, Any], units: str = "images") -> list[str]:  # noqa: ARG001
    """Return what came out, in plain sentences."""
    sentences = []
    for name, entry in metrics["labels"].items():
        found, cleared = (wording.of_100(entry["metrics"][metric]) for metric in ("sensitivity", "specificity"))
        sentences.append(f"Of 100 {units} with “{name}” it finds {found}; of 100 without it clears {cleared}.")
    return sentences


def broken(metrics: Mapping[str, Any]) -> str | None:
    """Return which labels cannot be told from guessing, or None."""
    entries = {name: entry["metrics"]["auc"] for name, entry in metrics["labels"].items()}
    guessed = [
        f"{name} (AUC {wording.figure(entry, 'auc')})"
        for name, entry in entries.items()
        if entry["value"] is not None and (entry["value"] if entry["low"] is None else entry["low"]) <= GUESSING
    ]
    return f"Labels that cannot be told from guessing: {'; '.join(guessed)}." if guessed else None


def small(metrics: Mapping[str, Any], units: str) -> str | None:
    """Return that the test set or a label of it is small, or None; and which labels have no part in the means."""
    absent = [name for name, entry in metrics["labels"].items() if entry["metrics"]["auc"]["value"] is None]
    few = wording.small_classes(metrics, units, SMALL_CLASS)
    none = f"Without a part in the means, for all test {units} or none have it: {', '.join(absent)}."
    return " ".join(filter(None, [few, none if absent else None])) or None


def trust(metrics: Mapping[str, Any], choice: Mapping[str, Any]) -> str | None:
    """Return what the probabilities are worth."""
    if choice["uncalibrated"]:
        return (
            f"The probabilities of {', '.join(choice['uncalibrated'])} are not calibrated: validation data gave no "
            "temperature. Read them as a ranking."
        )
    return wording.calibration(metrics["test"]["ece"], True, CALIBRATED)


def tuned(choice: Mapping[str, Any]) -> str:
    """Return the temperatures."""
    return f", calibration temperatures {wording.span(choice['temperature'])}"


def worst(predictions: Predictions) -> Iterator[tuple[int, str, str, dict[str, float]]]:
    """Yield the samples with a wrong label, those whose truth was thought least likely first."""
    said = np.where(predictions.labels > 0, predictions.probabilities, 1 - predictions.probabilities)
    said = np.where(predictions.labels == predictions.decisions, np.inf, said)
    label = said.argmin(axis=1)
    least = said[np.arange(len(said)), label]
    for place in np.argsort(least, kind="stable"):
        if not np.isfinite(least[place]):
            return
        names = [name for name, yes in zip(predictions.classes, predictions.labels[place], strict=True) if yes]
        probability = wording.percent(float(predictions.probabilities[place, label[place]]))
        text = f"{predictions.classes[label[place]]}: probability {probability}"
        yield int(place), ", ".join(names) or "no label", text, {}


def figures(predictions: Predictions, card: Mapping[str, Any]) -> dict[str, Figure]:
    """Return the figures by name."""
    units = plugins.load(kinds, card["kind"]).units(card["preprocessing"])
    columns = [
        Scored(name, each.labels > 0, each.probability)
        for name, each in predictions.by_label().items()
        if 0 < each.labels.sum() < len(each.labels)
    ]
    pooled = predictions.probabilities.ravel(), predictions.labels.ravel()
    return {
        "roc": curves.roc(columns),
        "precision_recall": curves.precision_recall(columns),
        "reliability": curves.reliability(*pooled, "a label", f"{units} times labels"),
    }
