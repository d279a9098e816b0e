"""One page that a clinician can read: report.html, with everything inside it."""

import base64
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import cv2
import jinja2
import numpy as np

from medloop.evaluation import wording
from medloop.evaluation.scores import Predictions

HERE = Path(__file__).parent


def render(
    metrics: Mapping[str, Any],
    choice: Mapping[str, Any],
    card: Mapping[str, Any],
    about: Mapping[str, Any],
    checks: Sequence[Mapping[str, Any]],
    predictions: Predictions,
    *,
    plots: Mapping[str, str],
    errors: Sequence[Mapping[str, Any]],
    packages: Mapping[str, str],
) -> str:
    """Return the page.

    Args:
        metrics: metrics.json.
        choice: choice.json.
        card: the chosen model's card.
        about: about.json of the test set.
        checks: what `validate` found.
        predictions: of the test set.
        plots: SVG by name.
        errors: of `worst_errors`.
        packages: versions that the model was trained with.
    """
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(HERE),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {
        "interval": wording.interval,
        "number": wording.number,
        "percent": wording.percent,
        "range": wording.compact,
    }
    return environment.get_template("report.html.j2").render(
        metrics=metrics,
        choice=choice,
        card=card,
        facts=about["facts"],
        notes=about["notes"],
        splits=wording.splits(about),
        title=wording.title(card),
        outcome=wording.outcome(metrics, choice, card),
        limits=wording.limits(metrics, choice, card, about["facts"], checks),
        makeup=makeup(predictions),
        names=wording.NAMES,
        shown=wording.shown_first(len(card["classes"])),
        meanings=wording.meanings(len(card["classes"])),
        plots={name: _address("image/svg+xml", svg.encode()) for name, svg in plots.items()},
        errors=errors,
        packages=packages,
    )


def worst_errors(predictions: Predictions, images: np.ndarray, limit: int) -> list[dict[str, Any]]:
    """Return the wrongly decided samples whose label was thought least likely, at most `limit`, each with its image."""
    said = predictions.probabilities[np.arange(len(predictions.labels)), predictions.labels]
    wrong = np.flatnonzero(predictions.labels != predictions.decisions)
    worst = wrong[np.argsort(said[wrong], kind="stable")][:limit]
    return [
        {
            "sample": predictions.table["sample_id"].iloc[index],
            "label": predictions.classes[predictions.labels[index]],
            "decision": predictions.classes[predictions.decisions[index]],
            "probability": float(said[index]),
            "image": _address("image/png", png(images[index])),
        }
        for index in worst
    ]


def png(image: np.ndarray) -> bytes:
    """Return (H, W, 1) or (H, W, 3) RGB uint8 as a PNG file."""
    pixels = np.ascontiguousarray(image[..., ::-1] if image.shape[-1] == 3 else image)
    return bytes(cv2.imencode(".png", pixels)[1])


def makeup(predictions: Predictions) -> list[tuple[str, str]]:
    """Return who is in the test set: [(what, how many of each)] for what is known."""
    table = predictions.table
    rows = [
        (name, ", ".join(f"{value} ({count})" for value, count in sorted(table[column].value_counts().items())))
        for name, column in (("Sites", "site"), ("Sex", "sex"))
        if table[column].notna().any()
    ]
    ages = table["age_years"].dropna()
    if len(ages):
        low, middle, high = np.quantile(ages, [0, 0.5, 1])
        rows.append(("Age", f"{low:.0f} to {high:.0f} years, median {middle:.0f}"))
    return rows


def _address(kind: str, content: bytes) -> str:
    return f"data:{kind};base64,{base64.b64encode(content).decode()}"
