"""The figures of a report, as SVG: the same bytes for the same predictions."""

import io
from collections.abc import Callable, Mapping
from typing import Any

import matplotlib as mpl
import numpy as np
import pandas as pd
from cycler import cycler
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from medloop.evaluation import wording

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


def draw(
    of_task: Callable[[], Mapping[str, Figure]], histories: Mapping[str, pd.DataFrame], gate: str
) -> dict[str, str]:
    """Return each figure's SVG by name: those that `of_task` draws, then the learning curves."""
    with mpl.rc_context():
        mpl.rcdefaults()  # whatever the user's own matplotlibrc says
        mpl.rcParams.update(STYLE)
        figures = {
            **of_task(),
            "learning_loss": learning_loss(histories),
        }
        if all(f"val_{gate}" in history for history in histories.values()):
            figures["learning_gate"] = learning_gate(histories, gate)
        return {name: _svg(figure) for name, figure in figures.items()}


def learning_loss(histories: Mapping[str, pd.DataFrame]) -> Figure:
    """Draw by epoch the loss of each architecture on train and validation data."""
    figure, axes = _by_epoch("Loss", "Learning curves: loss")
    for name, history in histories.items():
        epochs = np.arange(1, len(history) + 1)
        (line,) = axes.plot(epochs, history["val_loss"], _alone(history), label=f"{name}, validation")
        axes.plot(epochs, history["loss"], f":{_alone(history)}", color=line.get_color(), label=f"{name}, train")
    axes.legend()
    return figure


def learning_gate(histories: Mapping[str, pd.DataFrame], gate: str) -> Figure:
    """Draw by epoch the gating metric of each architecture on validation data."""
    name = wording.NAMES.get(gate, gate)
    figure, axes = _by_epoch(name, f"{name} on validation data")
    for architecture, history in histories.items():
        axes.plot(np.arange(1, len(history) + 1), history[f"val_{gate}"], _alone(history), label=architecture)
    axes.legend()
    return figure


def _alone(history: pd.DataFrame) -> str:
    """Return how a curve is drawn: one epoch as a point, for it makes no line."""
    return "o" if len(history) == 1 else ""


def ranking(found: Mapping[str, Any]) -> Figure:
    """Draw how often each of the first features is selected."""
    top = found["top"][::-1]
    figure = Figure(figsize=(9.4, 1.2 + 0.24 * len(top)), layout="constrained")
    axes = figure.subplots()
    places = np.arange(len(top))
    axes.barh(places + 0.2, [each["selected"] for each in top], 0.4, label="elastic net")
    axes.barh(places - 0.2, [each["selected_f"] for each in top], 0.4, label="as many by F")
    axes.set_yticks(places, [name if len(name) <= 28 else f"{name[:27]}…" for name in (each["name"] for each in top)])
    axes.set(xlabel=f"Share of {found['resamples']} halves of the patients", xlim=(0, 1.02), title="Selected variables")
    axes.legend(loc="lower right")
    return figure


def _by_epoch(up: str, title: str) -> tuple[Figure, Axes]:
    figure = Figure(figsize=SIZE, layout="constrained")
    axes = figure.subplots()
    axes.set(xlabel="Epoch", ylabel=up, title=title)
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    return figure, axes


def axes_of(across: str, up: str, title: str, **limits: tuple[float, float]) -> tuple[Figure, Axes]:
    """Return a new figure and its axes."""
    figure = Figure(figsize=SIZE, layout="constrained")
    axes = figure.subplots()
    axes.set(xlabel=across, ylabel=up, title=title, **limits)
    return figure, axes


def stretched(image: np.ndarray) -> np.ndarray:
    """Return an image (H, W, 3) uint8 whose gray levels fill the range: dark ones could not be seen."""
    low, high = np.percentile(image, (0.5, 99.5))
    return np.clip((image - low) * (255 / max(1.0, high - low)), 0, 255).astype(np.uint8)


def _svg(figure: Figure) -> str:
    text = io.StringIO()
    figure.savefig(text, format="svg", metadata={"Date": None, "Creator": None})
    return text.getvalue()
