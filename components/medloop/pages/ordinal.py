"""The report on a scale: one grade per sample, where an error counts by how far it is off."""

from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
from matplotlib.figure import Figure

from medloop import kinds, measures, plugins
from medloop.answers.ordinal import expected
from medloop.evaluation import curves, plots, wording
from medloop.evaluation.curves import Scored
from medloop.tasks.ordinal import Predictions

GUESSING = 0.0  # kappa
SMALL_CLASS = 30  # samples
CALIBRATED = 0.05  # expected calibration error above which a probability is none
JUDGED = ("within_one",)
FIGURES = {
    "confusion": "Confusion matrix of the test set",
    "grades": "Expected grade of the test samples by their label",
    "roc": "ROC curve of each step of the scale on the test set",
    "reliability": "Reliability diagram of the test set",
}
WORST = "Test {units} whose decided grade is farthest from their label."


def asked(card: Mapping[str, Any], choice: Mapping[str, Any]) -> list[tuple[str, str]]:  # noqa: ARG001
    """Return what was asked."""
    grades = " < ".join(card["classes"])
    return [
        ("Task", f"{card['task']}: one of {len(card['classes'])} grades per {wording.noun(card)}: {grades}"),
        ("Decision", "the grade nearest to the expected one"),
    ]


def contents(metrics: Mapping[str, Any]) -> str:
    """Return how many samples each grade has."""
    return " / ".join(f"{count} {name}" for name, count in metrics["n"]["classes"].items())


def shown(card: Mapping[str, Any]) -> tuple[str, ...]:  # noqa: ARG001
    """Return the metrics that a reader sees first, and by group."""
    return ("kappa", "accuracy", "within_one")


def meanings(card: Mapping[str, Any], units: str = "images") -> dict[str, str]:  # noqa: ARG001
    """Return in one phrase what each metric is."""
    return {
        "kappa": "agreement with the labels beyond chance, errors counting by the square of their distance; 0 is "
        "guessing, 1 perfect",
        "mae": "mean distance of the decided grade from the label, in grades",
        "accuracy": f"share of {units} decided as labelled",
        "within_one": f"share of {units} decided as labelled or one grade off",
        "balanced_accuracy": f"mean over grades of the share of its {units} decided as labelled",
        "auc": f"chance that {wording.one(units)} above a grade scores higher than one that is not, mean over the "
        "steps of the scale",
        "brier": "mean squared error of the probabilities, summed over grades; 0 is perfect, 2 the worst",
        "ece": "mean distance of the likeliest grade's probability from how often it is right, 10 bins of equal width",
    }


def outcome(metrics: Mapping[str, Any], card: Mapping[str, Any], units: str = "images") -> list[str]:  # noqa: ARG001
    """Return what came out, in plain sentences."""
    test = metrics["test"]
    return [
        f"It decides {wording.of_100(test['accuracy'])} of 100 {units} as labelled, and "
        f"{wording.of_100(test['within_one'])} at most one grade off.",
        f"On average the decided grade is {wording.figure(test['mae'], 'mae')} grades from the label.",
    ]


def broken(metrics: Mapping[str, Any]) -> str | None:
    """Return that the model guesses, or None."""
    kappa = metrics["test"]["kappa"]
    if kappa["value"] is None or (kappa["value"] if kappa["low"] is None else kappa["low"]) > GUESSING:
        return None
    return f"The model cannot be told from guessing: quadratic kappa {wording.figure(kappa, 'kappa')}."


def small(metrics: Mapping[str, Any], units: str) -> str | None:
    """Return that the test set or a grade of it is small, or None."""
    return wording.small_classes(metrics, units, SMALL_CLASS)


def trust(metrics: Mapping[str, Any], choice: Mapping[str, Any]) -> str | None:
    """Return what the probabilities are worth."""
    return wording.calibration(metrics["test"]["ece"], choice["calibrated"], CALIBRATED)


def tuned(choice: Mapping[str, Any]) -> str:
    """Return the temperatures."""
    return f", calibration temperatures {wording.span(choice['temperature'])}"


def worst(predictions: Predictions) -> Iterator[tuple[int, str, str, dict[str, float]]]:
    """Yield the wrongly decided samples, those farthest off first; of equals those whose label was least likely."""
    said = predictions.probabilities[np.arange(len(predictions.labels)), predictions.labels]
    off = np.abs(predictions.labels - predictions.decisions)
    wrong = np.flatnonzero(off)
    for place in wrong[np.lexsort((said[wrong], -off[wrong]))]:
        decided = predictions.classes[predictions.decisions[place]]
        text = f"decided {decided}; probability of its label {wording.percent(float(said[place]))}"
        yield int(place), predictions.classes[predictions.labels[place]], text, {}


def figures(predictions: Predictions, card: Mapping[str, Any]) -> dict[str, Figure]:
    """Return the figures by name."""
    units = plugins.load(kinds, card["kind"]).units(card["preprocessing"])
    labels, names = predictions.labels, predictions.classes
    probability, came_true = measures.signal(predictions.probabilities, labels, -1)
    above = np.cumsum(predictions.probabilities[:, ::-1], axis=1)[:, ::-1]
    steps = [Scored(f"{names[k]} or more", labels >= k, above[:, k]) for k in range(1, len(names))]
    return {
        "confusion": curves.confusion(labels, predictions.decisions, names, units),
        "grades": grades(predictions),
        "roc": curves.roc(steps),
        "reliability": curves.reliability(probability, came_true, "the likeliest grade", units),
    }


def grades(predictions: Predictions) -> Figure:
    """Draw the spread of the expected grade for each label: box of the middle half, whiskers of 5 to 95%."""
    figure, axes = plots.axes_of("Labelled", "Expected grade", "Expected grade by label")
    said, names = expected(predictions.probabilities), predictions.classes
    found = [said[predictions.labels == k] for k in range(len(names))]
    axes.boxplot(found, positions=range(len(names)), whis=(5, 95), showfliers=False)
    axes.plot(range(len(names)), range(len(names)), color="0.7", linewidth=1, linestyle="--")
    short = [name if len(name) <= 14 else f"{name[:13]}…" for name in names]
    axes.set_xticks(range(len(names)), short, rotation=0 if len(names) < 4 else 90)
    axes.set_yticks(range(len(names)), short)
    return figure
