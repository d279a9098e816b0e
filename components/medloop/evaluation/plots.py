"""The figures of a report, as SVG: the same bytes for the same predictions."""

import io
from collections.abc import Mapping
from typing import Any

import matplotlib as mpl
import numpy as np
import pandas as pd
from cycler import cycler
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from medloop.evaluation.scores import Predictions
from medloop.tasks import classification

SIZE = (4.6, 4.0)  # inches: one column on a telephone, two on a desk
STYLE: dict[Any, Any] = {
    "svg.hashsalt": "medloop",
    "text.parse_math": False,  # a class may have a dollar in its name
    "font.size": 11,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.prop_cycle": cycler(color=["#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#555555"]),
    "legend.frameon": False,
    "legend.fontsize": 9,
}


def draw(predictions: Predictions, histories: Mapping[str, pd.DataFrame], gate: str) -> dict[str, str]:
    """Return each figure's SVG by name."""
    with mpl.rc_context():
        mpl.rcdefaults()  # whatever the user's own matplotlibrc says
        mpl.rcParams.update(STYLE)
        figures = {
            "roc": roc(predictions),
            "precision_recall": precision_recall(predictions),
            "reliability": reliability(predictions),
            "confusion": confusion(predictions),
            "learning_loss": learning_loss(histories),
            "learning_gate": learning_gate(histories, gate),
        }
        return {name: _svg(figure) for name, figure in figures.items()}


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
    figure, axes = _axes("False alarms (1 - specificity)", "Sensitivity", "ROC")
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
    figure, axes = _axes("Sensitivity (recall)", "Right alarms (precision, PPV)", "Precision and recall")
    for index in _drawn_classes(predictions):
        truth = predictions.labels == index
        hits, alarms = (counts[1:] for counts in curve(truth, predictions.probabilities[:, index]))
        (line,) = axes.plot(hits / truth.sum(), hits / (hits + alarms), label=predictions.classes[index])
        axes.axhline(truth.mean(), color=line.get_color(), linewidth=1, linestyle="--", alpha=0.6)
    axes.legend(loc="lower left")
    return figure


def reliability(predictions: Predictions) -> Figure:
    """Draw what came true against what was said, by bin; bars below: how many samples a bin holds."""
    probability, came_true = classification.signal(predictions.probabilities, predictions.labels, predictions.positive)
    bins = classification.calibration_bin(probability)
    held = np.bincount(bins, minlength=classification.ECE_BINS)
    filled = held > 0
    said = np.bincount(bins, probability, classification.ECE_BINS)[filled] / held[filled]
    found = np.bincount(bins, came_true, classification.ECE_BINS)[filled] / held[filled]
    binary = len(predictions.classes) == 2
    name = predictions.classes[predictions.positive] if binary else "the likeliest class"
    figure, axes = _axes(f"Probability given to {name}", "Share that it was", "Reliability (gray: images)")
    axes.plot([0, 1], [0, 1], color="0.7", linewidth=1, linestyle="--")
    middle = (np.arange(classification.ECE_BINS) + 0.5) / classification.ECE_BINS
    axes.bar(middle, held / held.sum() * 0.5, width=0.8 / classification.ECE_BINS, color="0.88")
    axes.plot(said, found, "o-")
    return figure


def confusion(predictions: Predictions) -> Figure:
    """Draw the counts of true class by decided class."""
    names = [name if len(name) <= 14 else f"{name[:13]}…" for name in predictions.classes]
    weights = np.ones((1, len(predictions.labels)))
    counts = classification.confusion(predictions.labels, predictions.decisions, weights, len(names))[0].astype(int)
    figure = Figure(figsize=SIZE, layout="constrained")
    axes = figure.subplots()
    shares = counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)
    axes.imshow(shares, cmap="Blues", vmin=0, vmax=1)
    for (row, column), count in np.ndenumerate(counts):
        colour = "white" if shares[row, column] > 0.5 else "black"
        axes.text(column, row, str(count), ha="center", va="center", color=colour, fontsize=14 if len(names) < 4 else 8)
    axes.set_xticks(range(len(names)), names, rotation=0 if len(names) < 4 else 90)
    axes.set_yticks(range(len(names)), names, rotation=90 if len(names) < 4 else 0, va="center")
    axes.set(xlabel="Decided", ylabel="Labelled", title="Confusion (images)")
    axes.spines[:].set_visible(False)
    return figure


def learning_loss(histories: Mapping[str, pd.DataFrame]) -> Figure:
    """Draw by epoch the loss of each architecture on train and validation data."""
    figure, axes = _by_epoch("Loss", "Learning curves: loss")
    for name, history in histories.items():
        epochs = np.arange(1, len(history) + 1)
        (line,) = axes.plot(epochs, history["val_loss"], label=f"{name}, validation")
        axes.plot(epochs, history["loss"], color=line.get_color(), linestyle=":", label=f"{name}, train")
    axes.legend()
    return figure


def learning_gate(histories: Mapping[str, pd.DataFrame], gate: str) -> Figure:
    """Draw by epoch the gating metric of each architecture on validation data."""
    figure, axes = _by_epoch(gate.upper(), f"Learning curves: {gate.upper()} on validation data")
    for name, history in histories.items():
        axes.plot(np.arange(1, len(history) + 1), history[f"val_{gate}"], label=name)
    axes.legend()
    return figure


def _drawn_classes(predictions: Predictions) -> list[int]:
    return [predictions.positive] if len(predictions.classes) == 2 else list(range(len(predictions.classes)))


def _by_epoch(up: str, title: str) -> tuple[Figure, Axes]:
    figure = Figure(figsize=SIZE, layout="constrained")
    axes = figure.subplots()
    axes.set(xlabel="Epoch", ylabel=up, title=title)
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    return figure, axes


def _axes(across: str, up: str, title: str) -> tuple[Figure, Axes]:
    figure = Figure(figsize=SIZE, layout="constrained")
    axes = figure.subplots()
    axes.set(xlabel=across, ylabel=up, title=title, xlim=(-0.02, 1.02), ylim=(-0.02, 1.02))
    return figure, axes


def _svg(figure: Figure) -> str:
    text = io.StringIO()
    figure.savefig(text, format="svg", metadata={"Date": None, "Creator": None})
    return text.getvalue()
