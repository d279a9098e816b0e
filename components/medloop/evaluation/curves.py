"""The figures of decisions among classes, which several tasks show."""

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from matplotlib.figure import Figure

from medloop import measures
from medloop.evaluation import plots

COLOURS = len(plots.STYLE["axes.prop_cycle"])  # lines beyond them are dashed
SQUARE = {"xlim": (-0.02, 1.02), "ylim": (-0.02, 1.02)}


class Scored(NamedTuple):
    """What a curve is drawn of."""

    name: str
    truth: np.ndarray  # (N,) bool
    scores: np.ndarray  # (N,)


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


def roc(columns: Sequence[Scored], point: tuple[float, float] | None = None) -> Figure:
    """Draw sensitivity against the share of false alarms, with the operating `point` where there is one."""
    figure, axes = plots.axes_of("False alarms (1 - specificity)", "Sensitivity", "ROC", **SQUARE)
    axes.plot([0, 1], [0, 1], color="0.7", linewidth=1, linestyle="--")
    for number, (name, truth, scores) in enumerate(columns):
        hits, alarms = curve(truth, scores)
        axes.plot(alarms / (~truth).sum(), hits / truth.sum(), _dash(number), label=name)
    if point:
        axes.plot(*point, "o", color="black", label="operating point")
    axes.legend(loc="lower right", **_small(columns))
    return figure


def precision_recall(columns: Sequence[Scored]) -> Figure:
    """Draw the share of right alarms against sensitivity; dashed, what chance gives."""
    figure, axes = plots.axes_of(
        "Sensitivity (recall)", "Right alarms (precision, PPV)", "Precision and recall", **SQUARE
    )
    for number, (name, truth, scores) in enumerate(columns):
        hits, alarms = (counts[1:] for counts in curve(truth, scores))
        (line,) = axes.plot(hits / truth.sum(), hits / (hits + alarms), _dash(number), label=name)
        axes.axhline(truth.mean(), color=line.get_color(), linewidth=1, linestyle="--", alpha=0.6)
    axes.legend(loc="upper right" if len(columns) > COLOURS else "lower left", **_small(columns))
    return figure


def reliability(probability: np.ndarray, came_true: np.ndarray, name: str, units: str = "images") -> Figure:
    """Draw what came true (N,) against what was said (N,) of `name`, by bin; bars: how many `units` a bin holds."""
    bins = measures.calibration_bin(probability)
    held = np.bincount(bins, minlength=measures.ECE_BINS)
    filled = held > 0
    said = np.bincount(bins, probability, measures.ECE_BINS)[filled] / held[filled]
    found = np.bincount(bins, came_true, measures.ECE_BINS)[filled] / held[filled]
    figure, axes = plots.axes_of(
        f"Probability given to {name}", "Share that it was", f"Reliability (gray: {units})", **SQUARE
    )
    axes.plot([0, 1], [0, 1], color="0.7", linewidth=1, linestyle="--")
    middle = (np.arange(measures.ECE_BINS) + 0.5) / measures.ECE_BINS
    axes.bar(middle, held / held.sum() * 0.5, width=0.8 / measures.ECE_BINS, color="0.88")
    axes.plot(said, found, "o-")
    return figure


def confusion(labels: np.ndarray, decisions: np.ndarray, classes: Sequence[str], units: str = "images") -> Figure:
    """Draw the counts of true class by decided class, from indices (N,) twice."""
    names = [name if len(name) <= 14 else f"{name[:13]}…" for name in classes]
    counts = measures.confusion(labels, decisions, np.ones((1, len(labels))), len(names))[0].astype(int)
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


def _dash(number: int) -> str:
    """Return the dash of the line with this number, from 0."""
    return ("-", "--", ":")[number // COLOURS % 3]


def _small(columns: Sequence[Scored]) -> dict[str, Any]:
    """Return how a legend of many lines leaves room for them."""
    return {"fontsize": 7, "ncols": 2} if len(columns) > COLOURS else {}
