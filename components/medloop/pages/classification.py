"""The report on a classification: of two classes in the words of a test, of more in those of a choice."""

from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
from matplotlib.figure import Figure

from medloop import kinds, plugins
from medloop.evaluation import plots, wording
from medloop.tasks import classification
from medloop.tasks.classification import Predictions

GUESSING = 0.5  # AUC
SMALL_CLASS = 30  # samples
CALIBRATED = 0.05  # expected calibration error above which a probability is none
JUDGED = ("sensitivity",)
SQUARE = {"xlim": (-0.02, 1.02), "ylim": (-0.02, 1.02)}
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
    task = f"{card['task']}: one of {len(classes)} classes per {card['kind']}: {' / '.join(classes)}"
    question = [("Question", card["question"])] if card.get("question") else []
    if choice["threshold"] is None:
        named = [("Positive class", positive)] if len(classes) == 2 else []
        return [*question, ("Task", task), *named, ("Decision", "the likeliest class")]
    target = wording.percent(choice["operating_point"]["target_sensitivity"])
    return [
        *question,
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


def outcome(
    metrics: Mapping[str, Any], choice: Mapping[str, Any], card: Mapping[str, Any], units: str = "images"
) -> list[str]:
    """Return what came out, in plain sentences."""
    test, positive = metrics["test"], choice["positive_class"]
    sentences = [wording.chosen(choice)]
    if len(card["classes"]) > 2:
        return [*sentences, f"It names the labelled class in {_of_100(test['accuracy'])} {units}."]
    share = metrics["n"]["classes"][positive] / metrics["n"]["samples"]
    return [
        *sentences,
        f"Of 100 {units} labelled “{positive}” it finds {_in_words(test['sensitivity'])}.",
        f"Of 100 other {units} it clears {_in_words(test['specificity'])}.",
        f"Where “{positive}” is as common as here ({wording.percent(share)} of the {units}), 100 alarms hold "
        f"{_in_words(test['ppv'])} right ones, and of 100 cleared {units} {_in_words(test['npv'])} are rightly "
        "cleared.",
    ]


def broken(metrics: Mapping[str, Any]) -> str | None:
    """Return that the model guesses, or None."""
    auc = metrics["test"]["auc"]
    if auc["value"] is None or (auc["value"] if auc["low"] is None else auc["low"]) > GUESSING:
        return None
    return f"The model cannot be told from guessing: AUC {wording.figure(auc, 'auc')}."


def small(metrics: Mapping[str, Any], units: str) -> str | None:
    """Return that the test set or a class of it is small, or None."""
    n = metrics["n"]
    patients = n["samples"] if n["patients"] is None else n["patients"]
    rare = {name: count for name, count in n["classes"].items() if count < SMALL_CLASS}
    if patients >= wording.SMALL_TEST_SET and not rare:
        return None
    few = "".join(f", {count} of {name}" for name, count in rare.items())
    return wording.small(metrics, units, few)


def trust(metrics: Mapping[str, Any], choice: Mapping[str, Any]) -> str | None:
    """Return what the probabilities are worth."""
    error = metrics["test"]["ece"]
    if not choice["calibrated"]:
        return "The probabilities are not calibrated: validation data gave no temperature. Read them as a ranking."
    off = f"The probabilities, calibrated on validation data, are off by {wording.percent(error['value'])} on average"
    surely = error["value"] if error["low"] is None else error["low"]
    return f"{off}: read them as a ranking." if surely > CALIBRATED else f"{off} on the test set."


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
    return {
        "roc": roc(predictions),
        "precision_recall": precision_recall(predictions),
        "reliability": reliability(predictions, units),
        "confusion": confusion(predictions, units),
    }


def curve(truth: np.ndarray, scores: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return how many positives and how many negatives (T+1,) score at least each of T thresholds, from none to all.

    Args:
        truth: (N,) bool.
        scores: (N,); equal scores pass a threshold together.
    """
    order = np.argsort(-scores, kind="stable")
    last = np.flatnonzero(np.append(np.diff(scores[order]) != 0, True))
    hits, alarms = np.cumsum(truth[order])[last], np.cumsum(~truth[order])[last]
    return np.concatenate([[0], hits]), np.concatenate([[0], alarms])


def roc(predictions: Predictions) -> Figure:
    """Draw sensitivity against the share of false alarms, with the operating point where there is one."""
    figure, axes = plots.axes_of("False alarms (1 - specificity)", "Sensitivity", "ROC", **SQUARE)
    axes.plot([0, 1], [0, 1], color="0.7", linewidth=1, linestyle="--")
    for index in _drawn_classes(predictions):
        truth = predictions.labels == index
        hits, alarms = curve(truth, predictions.probabilities[:, index])
        axes.plot(alarms / (~truth).sum(), hits / truth.sum(), label=predictions.classes[index])
    if len(predictions.classes) == 2:
        marked, truth = predictions.decisions == predictions.positive, predictions.labels == predictions.positive
        axes.plot(marked[~truth].mean(), marked[truth].mean(), "o", color="black", label="operating point")
    axes.legend(loc="lower right")
    return figure


def precision_recall(predictions: Predictions) -> Figure:
    """Draw the share of right alarms against sensitivity; dashed, what chance gives."""
    figure, axes = plots.axes_of(
        "Sensitivity (recall)", "Right alarms (precision, PPV)", "Precision and recall", **SQUARE
    )
    for index in _drawn_classes(predictions):
        truth = predictions.labels == index
        hits, alarms = (counts[1:] for counts in curve(truth, predictions.probabilities[:, index]))
        (line,) = axes.plot(hits / truth.sum(), hits / (hits + alarms), label=predictions.classes[index])
        axes.axhline(truth.mean(), color=line.get_color(), linewidth=1, linestyle="--", alpha=0.6)
    axes.legend(loc="lower left")
    return figure


def reliability(predictions: Predictions, units: str = "images") -> Figure:
    """Draw what came true against what was said, by bin; bars below: how many samples a bin holds."""
    probability, came_true = classification.signal(predictions.probabilities, predictions.labels, predictions.positive)
    bins = classification.calibration_bin(probability)
    held = np.bincount(bins, minlength=classification.ECE_BINS)
    filled = held > 0
    said = np.bincount(bins, probability, classification.ECE_BINS)[filled] / held[filled]
    found = np.bincount(bins, came_true, classification.ECE_BINS)[filled] / held[filled]
    binary = len(predictions.classes) == 2
    name = predictions.classes[predictions.positive] if binary else "the likeliest class"
    figure, axes = plots.axes_of(
        f"Probability given to {name}", "Share that it was", f"Reliability (gray: {units})", **SQUARE
    )
    axes.plot([0, 1], [0, 1], color="0.7", linewidth=1, linestyle="--")
    middle = (np.arange(classification.ECE_BINS) + 0.5) / classification.ECE_BINS
    axes.bar(middle, held / held.sum() * 0.5, width=0.8 / classification.ECE_BINS, color="0.88")
    axes.plot(said, found, "o-")
    return figure


def confusion(predictions: Predictions, units: str = "images") -> Figure:
    """Draw the counts of true class by decided class."""
    names = [name if len(name) <= 14 else f"{name[:13]}…" for name in predictions.classes]
    weights = np.ones((1, len(predictions.labels)))
    counts = classification.confusion(predictions.labels, predictions.decisions, weights, len(names))[0].astype(int)
    figure = Figure(figsize=plots.SIZE, layout="constrained")
    axes = figure.subplots()
    shares = counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)
    axes.imshow(shares, cmap="Blues", vmin=0, vmax=1)
    for (row, column), count in np.ndenumerate(counts):
        colour = "white" if shares[row, column] > 0.5 else "black"
        axes.text(column, row, str(count), ha="center", va="center", color=colour, fontsize=14 if len(names) < 4 else 8)
    axes.set_xticks(range(len(names)), names, rotation=0 if len(names) < 4 else 90)
    axes.set_yticks(range(len(names)), names, rotation=90 if len(names) < 4 else 0, va="center")
    axes.set(xlabel="Decided", ylabel="Labelled", title=f"Confusion ({units})")
    axes.spines[:].set_visible(False)
    return figure


def _drawn_classes(predictions: Predictions) -> list[int]:
    return [predictions.positive] if len(predictions.classes) == 2 else list(range(len(predictions.classes)))


def _of_100(entry: Mapping[str, Any]) -> str:
    return f"{_in_words(entry)} of 100"


def _in_words(entry: Mapping[str, Any]) -> str:
    if entry["value"] is None:
        return "an unknown number"
    if entry["low"] is None:
        return f"{100 * entry['value']:.0f}"
    return f"{100 * entry['value']:.0f} (interval {100 * entry['low']:.0f} to {100 * entry['high']:.0f})"
