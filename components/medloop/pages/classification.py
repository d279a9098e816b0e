"""The report on a classification: of two classes in the words of a test, of more in those of a choice."""

from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
from matplotlib.figure import Figure

from medloop import kinds, measures, plugins
from medloop.evaluation import curves, wording
from medloop.evaluation.curves import Scored
from medloop.tasks.classification import Predictions

GUESSING = 0.5  # AUC
SMALL_CLASS = 30  # samples
CALIBRATED = 0.05  # expected calibration error above which a probability is none
JUDGED = ("sensitivity",)
FIGURES = {
    "roc": "ROC curve of the test set",
    "precision_recall": "Precision and recall on the test set",
    "reliability": "Reliability diagram of the test set",
    "confusion": "Confusion matrix of the test set",
}
WORST = "Wrongly decided test {units} whose label the model held least likely."


def asked(card: Mapping[str, Any], choice: Mapping[str, Any]) -> list[tuple[str, str]]:
    """Return what was asked."""
    classes, positive = card["classes"], choice["positive_class"]
    task = f"{card['task']}: one of {len(classes)} classes per {wording.noun(card)}: {' / '.join(classes)}"
    if choice["threshold"] is None:
        named = [("Positive class", positive)] if len(classes) == 2 else []
        return [("Task", task), *named, ("Decision", "the likeliest class")]
    target = wording.percent(choice["operating_point"]["target_sensitivity"])
    return [
        ("Task", task),
        ("Positive class", positive),
        (
            "Operating point",
            f"a sensitivity of at least {target} on validation data: “{positive}” is decided where its probability "
            f"reaches {wording.percent(choice['threshold'])}",
        ),
    ]


def contents(metrics: Mapping[str, Any]) -> str:
    """Return how many samples each class has."""
    return " / ".join(f"{count} {name}" for name, count in metrics["n"]["classes"].items())


def shown(card: Mapping[str, Any]) -> tuple[str, ...]:
    """Return the metrics that a reader sees first, and by group."""
    classes = len(card["classes"])
    return ("auc", "sensitivity", "specificity") if classes == 2 else ("auc", "accuracy", "balanced_accuracy")


def meanings(card: Mapping[str, Any], units: str = "images") -> dict[str, str]:
    """Return in one phrase what each metric is."""
    classes, one = len(card["classes"]), wording.one(units)
    over = "" if classes == 2 else ", mean over classes of one against the rest"
    who = "the positive class" if classes == 2 else "a class"
    worst = 1 if classes == 2 else 2
    about = "the positive class's probability" if classes == 2 else "the likeliest class's probability"
    return {
        "auc": f"chance that {one} of {who} scores higher than one of another; 0.5 is guessing, 1 perfect{over}",
        "accuracy": f"share of {units} decided as labelled",
        "balanced_accuracy": f"mean over classes of the share of its {units} decided as labelled",
        "sensitivity": f"share of {units} of {who} that are found{over}",
        "specificity": f"share of {units} of other classes that are cleared{over}",
        "ppv": f"share right, where {who} is decided{over}; depends on how common it is",
        "npv": f"share right, where {who} is ruled out{over}; depends on how common it is",
        "f1": f"harmonic mean of sensitivity and PPV{over}",
        "brier": f"mean squared error of the probabilities; 0 is perfect, {worst} the worst",
        "ece": f"mean distance of {about} from how often it comes true, 10 bins of equal width",
    }


def outcome(metrics: Mapping[str, Any], card: Mapping[str, Any], units: str = "images") -> list[str]:
    """Return what came out, in plain sentences."""
    test = metrics["test"]
    if len(card["classes"]) > 2:
        return [f"It names the labelled class in {wording.of_100(test['accuracy'])} of 100 {units}."]
    positive = card["positive_class"]
    share = metrics["n"]["classes"][positive] / metrics["n"]["samples"]
    return [
        f"Of 100 {units} labelled “{positive}” it finds {wording.of_100(test['sensitivity'])}.",
        f"Of 100 other {units} it clears {wording.of_100(test['specificity'])}.",
        f"Where “{positive}” is as common as here ({wording.percent(share)} of the {units}), 100 alarms hold "
        f"{wording.of_100(test['ppv'])} right ones, and of 100 cleared {units} {wording.of_100(test['npv'])} are "
        "rightly cleared.",
    ]


def broken(metrics: Mapping[str, Any]) -> str | None:
    """Return that the model guesses, or None."""
    auc = metrics["test"]["auc"]
    if auc["value"] is None or (auc["value"] if auc["low"] is None else auc["low"]) > GUESSING:
        return None
    return f"The model cannot be told from guessing: AUC {wording.figure(auc, 'auc')}."


def small(metrics: Mapping[str, Any], units: str) -> str | None:
    """Return that the test set or a class of it is small, or None."""
    return wording.small_classes(metrics, units, SMALL_CLASS)


def trust(metrics: Mapping[str, Any], choice: Mapping[str, Any]) -> str | None:
    """Return what the probabilities are worth."""
    return wording.calibration(metrics["test"]["ece"], choice["calibrated"], CALIBRATED)


def tuned(choice: Mapping[str, Any]) -> str:
    """Return the temperature."""
    return f", calibration temperature {choice['temperature']:.3f}"


def worst(predictions: Predictions) -> Iterator[tuple[int, str, str, dict[str, float]]]:
    """Yield the wrongly decided samples, those whose label was thought least likely first."""
    said = predictions.probabilities[np.arange(len(predictions.labels)), predictions.labels]
    wrong = np.flatnonzero(predictions.labels != predictions.decisions)
    for place in wrong[np.argsort(said[wrong], kind="stable")]:
        decided = predictions.classes[predictions.decisions[place]]
        text = f"decided {decided}; probability of its label {wording.percent(float(said[place]))}"
        yield int(place), predictions.classes[predictions.labels[place]], text, {}


def figures(predictions: Predictions, card: Mapping[str, Any]) -> dict[str, Figure]:
    """Return the figures by name."""
    units = plugins.load(kinds, card["kind"]).units(card["preprocessing"])
    columns, positive, names = _columns(predictions), predictions.positive, predictions.classes
    probability, came_true = measures.signal(predictions.probabilities, predictions.labels, positive)
    return {
        "roc": curves.roc(columns, _operating_point(predictions)),
        "precision_recall": curves.precision_recall(columns),
        "reliability": curves.reliability(
            probability, came_true, names[positive] if len(names) == 2 else "the likeliest class", units
        ),
        "confusion": curves.confusion(predictions.labels, predictions.decisions, names, units),
    }


def _columns(predictions: Predictions) -> list[Scored]:
    """Return what curves are drawn of: the positive class of two, else each class."""
    names = predictions.classes
    drawn = [predictions.positive] if len(names) == 2 else range(len(names))
    return [Scored(names[i], predictions.labels == i, predictions.probabilities[:, i]) for i in drawn]


def _operating_point(predictions: Predictions) -> tuple[float, float] | None:
    """Return the share of false alarms and the sensitivity of what was decided, of two classes."""
    if len(predictions.classes) > 2:
        return None
    marked, truth = predictions.decisions == predictions.positive, predictions.labels == predictions.positive
    return float(marked[~truth].mean()), float(marked[truth].mean())
