"""The report on a regression: how far predictions lie from the truth, and from what simple rivals reach."""

from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
from matplotlib.figure import Figure

from medloop.evaluation import plots, wording
from medloop.tasks.regression import Predictions

JUDGED = ()
DRAWN = 4000  # points at most; the rest would hide one another
FIGURES = {
    "predicted": "Predicted against true values of the test set",
    "residuals": "Errors against true values of the test set",
    "errors": "Distribution of the errors on the test set",
}
WORST = "The test {units} with the largest errors."


def asked(card: Mapping[str, Any], choice: Mapping[str, Any]) -> list[tuple[str, str]]:  # noqa: ARG001
    """Return what was asked."""
    horizon = card["preprocessing"].get("horizon")
    what = (
        f"the value of the first lead {horizon} moment{'s' * (horizon > 1)} after the window"
        if horizon
        else "one number"
    )
    return [("Task", f"{card['task']}: {what}{_in(card)}")]


def contents(metrics: Mapping[str, Any]) -> str:  # noqa: ARG001
    """Return nothing: numbers have no classes."""
    return ""


def shown(card: Mapping[str, Any]) -> tuple[str, ...]:  # noqa: ARG001
    """Return the metrics that a reader sees first, and by group."""
    return ("rmse", "mae", "r2")


def meanings(card: Mapping[str, Any], units: str = "images") -> dict[str, str]:
    """Return in one phrase what each metric is."""
    return {
        "mae": f"mean distance of the prediction from the truth over {units}{_in(card)}",
        "rmse": f"square root of the mean squared error{_in(card)}: large errors weigh more",
        "r2": "share of the variance that is explained; 1 is perfect, 0 no better than the mean",
    }


def outcome(metrics: Mapping[str, Any], card: Mapping[str, Any], units: str = "images") -> list[str]:
    """Return what came out, in plain sentences."""
    mine = metrics["test"]["rmse"]
    said = [f"On test {units} it errs by {wording.figure(mine, 'rmse')}{_unit(card)} (RMSE)."]
    for name, rival in metrics.get("floors", {}).items():
        which = wording.RIVALS.get(name, name).capitalize()
        said.append(f"{which} errs by {wording.figure(rival['rmse'], 'rmse')}{_unit(card)}.")
    return said


def broken(metrics: Mapping[str, Any]) -> str | None:
    """Return which simple rivals the network does not beat, or None."""
    rivals = metrics.get("floors", {})
    mine = metrics["test"]["rmse"]["value"]
    better = [wording.RIVALS.get(name, name) for name, each in rivals.items() if not mine < each["rmse"]["value"]]
    return f"The network does not beat {' and '.join(better)}: something is wrong with it." if better else None


def small(metrics: Mapping[str, Any], units: str) -> str | None:
    """Return that the test set is small, or None."""
    n = metrics["n"]
    patients = n["samples"] if n["patients"] is None else n["patients"]
    few = patients < wording.SMALL_TEST_SET and n["samples"] < wording.SMALL_TEST_SET
    return wording.small(metrics, units) if few else None


def trust(metrics: Mapping[str, Any], choice: Mapping[str, Any]) -> str | None:  # noqa: ARG001
    """Return that a single prediction comes without an interval."""
    return "A single prediction comes without an interval of its own."


def tuned(choice: Mapping[str, Any]) -> str:  # noqa: ARG001
    """Return nothing: no more is chosen."""
    return ""


def worst(predictions: Predictions) -> Iterator[tuple[int, str, str, dict[str, float]]]:
    """Yield the samples by the size of their error."""
    error = np.abs(predictions.values - predictions.labels)
    for place in np.argsort(-error, kind="stable"):
        true, said = float(predictions.labels[place]), float(predictions.values[place])
        yield int(place), f"{true:.4g}", f"predicted {said:.4g}", {"true": true, "predicted": said}


def figures(predictions: Predictions, card: Mapping[str, Any]) -> dict[str, Figure]:
    """Return the figures by name."""
    unit = _in(card)
    return {
        "predicted": predicted(predictions, unit),
        "residuals": residuals(predictions, unit),
        "errors": errors(predictions, unit),
    }


def predicted(predictions: Predictions, unit: str = "") -> Figure:
    """Draw predicted against true values; dashed, where they are the same."""
    figure, axes = plots.axes_of(f"True value{unit}", f"Predicted value{unit}", "Predicted against true")
    truth, said = (values[_drawn(predictions)] for values in (predictions.labels, predictions.values))
    ends = [min(truth.min(), said.min()), max(truth.max(), said.max())]
    axes.plot(ends, ends, color="0.6", linewidth=1, linestyle="--")
    axes.plot(truth, said, ".", markersize=3, alpha=0.4, rasterized=True)
    return figure


def residuals(predictions: Predictions, unit: str = "") -> Figure:
    """Draw errors against true values."""
    figure, axes = plots.axes_of(f"True value{unit}", f"Error{unit}", "Errors (predicted - true)")
    truth, said = (values[_drawn(predictions)] for values in (predictions.labels, predictions.values))
    axes.axhline(0, color="0.6", linewidth=1, linestyle="--")
    axes.plot(truth, said - truth, ".", markersize=3, alpha=0.4, rasterized=True)
    return figure


def errors(predictions: Predictions, unit: str = "") -> Figure:
    """Draw how often errors of a size come; those in the outermost thousandth stand at the ends."""
    figure, axes = plots.axes_of(f"Error{unit}", "Share", "Distribution of the errors")
    error = predictions.values - predictions.labels
    low, high = np.quantile(error, [0.0005, 0.9995])
    axes.hist(np.clip(error, low, high), bins=60, weights=np.full(len(error), 1 / len(error)), color="#0072b2")
    axes.axvline(0, color="0.6", linewidth=1, linestyle="--")
    return figure


def _drawn(predictions: Predictions) -> np.ndarray:
    """Return the places of those that are drawn, evenly over the test set, the largest errors among them."""
    count = len(predictions.labels)
    largest = np.argsort(-np.abs(predictions.values - predictions.labels), kind="stable")[: DRAWN // 10]
    return np.union1d(np.linspace(0, count - 1, min(count, DRAWN)).astype(np.int64), largest)


def _in(card: Mapping[str, Any]) -> str:
    unit = card["preprocessing"].get("unit")
    return f", in {unit}" if unit else ""


def _unit(card: Mapping[str, Any]) -> str:
    unit = card["preprocessing"].get("unit")
    return f" {unit}" if unit else ""
