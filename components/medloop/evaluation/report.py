"""One page that a clinician can read: report.html, with everything inside it."""

import base64
from collections.abc import Callable, Iterable, Mapping, Sequence
from itertools import islice
from pathlib import Path
from types import ModuleType
from typing import Any

import jinja2
import numpy as np

from medloop.evaluation import wording
from medloop.predictions import Predictions

HERE = Path(__file__).parent
Draw = Callable[[int, Mapping[str, float]], tuple[str, bytes]]
LEARNING = {
    "learning_loss": "Loss of every architecture by epoch",
    "learning_gate": "Gating metric of every architecture by epoch",
}


def render(
    metrics: Mapping[str, Any],
    choice: Mapping[str, Any],
    card: Mapping[str, Any],
    about: Mapping[str, Any],
    checks: Sequence[Mapping[str, Any]],
    predictions: Predictions,
    *,
    page: ModuleType,
    kind: ModuleType,
    plots: Mapping[str, str],
    errors: Sequence[Mapping[str, Any]],
    packages: Mapping[str, str],
    ranking: Mapping[str, Any] | None = None,
    examples: Sequence[Mapping[str, Any]] = (),
) -> str:
    """Return the page.

    Args:
        metrics: metrics.json.
        choice: choice.json.
        card: the chosen model's card.
        about: about.json of the test set.
        checks: what `validate` found.
        predictions: of the test set.
        page: of the task.
        kind: of sample.
        plots: SVG by name.
        errors: of `worst_errors`.
        packages: versions that the model was trained with.
        ranking: of the variables, where they have names.
        examples: pictures like `errors`, of samples with which nothing need be wrong.
    """
    units = kind.units(card["preprocessing"])
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
        units=units,
        splits=wording.splits(about, units),
        title=wording.title(card),
        asked=[*wording.question(card), *page.asked(card, choice)],
        contents=page.contents(metrics),
        taken=kind.described(card),
        outcome=[wording.chosen(choice), *page.outcome(metrics, card, units), *wording.beyond(metrics)],
        limits=wording.limits(metrics, choice, card, about["facts"], checks, page, units),
        makeup=makeup(predictions),
        names=wording.NAMES,
        shown=page.shown(card),
        by_label=getattr(page, "BY_LABEL", ()),
        meanings=page.meanings(card, units),
        figures={name: shows for name, shows in {**page.FIGURES, **LEARNING}.items() if name in plots},
        worst=" ".join(filter(None, [page.WORST.format(units=units), getattr(kind, "VIEW", "")])),
        worst_title=getattr(page, "WORST_TITLE", "Worst errors"),
        tuned=page.tuned(choice),
        plots={name: _address("image/svg+xml", svg.encode()) for name, svg in plots.items()},
        errors=errors,
        examples=examples,
        example=getattr(page, "EXAMPLE", "").format(units=units),
        tables=page.tables(predictions) if hasattr(page, "tables") else [],
        packages=packages,
        ranking=ranking,
        ranked=wording.ranked(ranking, units) if ranking else "",
    )


def worst_errors(
    worst: Iterable[tuple[int, str, str, Mapping[str, float]]],
    draw: Draw,
    limit: int,
    *,
    samples: Sequence[str],
) -> list[dict[str, Any]]:
    """Return at most `limit` of the `worst` (place, label, what was said, marks), each with its picture.

    Args:
        worst: the worst first.
        draw: returns type and content of a picture of the sample at a place, with marks.
        limit: how many.
        samples: the id of each of the N.
    """
    return [
        {
            "sample": samples[place],
            "label": label,
            "said": said,
            "image": _address(*draw(place, marks)),
        }
        for place, label, said, marks in islice(worst, limit)
    ]


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
