"""Metrics with intervals, of the whole test set and of groups of patients."""

from types import ModuleType
from typing import Any

import numpy as np
import pandas as pd

from medloop import params
from medloop.evaluation import bootstrap
from medloop.predictions import Predictions, drawn_together

AGE_EDGES = (0, 18, 40, 60, 75, 200)  # years; the left edge belongs to the band
AGE_BANDS = ("under 18", "18 to 39", "40 to 59", "60 to 74", "75 and over")
GROUPS = ("site", "sex", "age")
MIN_PATIENTS = 20  # of a group: with fewer a group gets values without intervals


def scores(predictions: Predictions, task: ModuleType, section: params.Evaluate, seed: int) -> dict[str, Any]:
    """Return {metric: {value, low, high, undefined}} with intervals from a bootstrap over patients."""
    values, centred = predictions.metrics(), task.CENTRED
    groups = bootstrap.clusters(drawn_together(predictions.table))
    drawn = bootstrap.draw(predictions.metrics, groups, section.resamples, seed)
    size = task.rarest(predictions.labels, groups)
    return {
        name: bootstrap.interval(float(value[0]), drawn[name], section.confidence, size=size, centred=name in centred)
        for name, value in values.items()
    }


def by_label(predictions: Predictions, task: ModuleType, section: params.Evaluate, seed: int) -> dict[str, Any]:
    """Return {label: {n, metrics}} of each label, where a sample may have several."""
    return {
        name: {"n": int((each.labels > 0).sum()), "metrics": scores(each, task, section, seed)}
        for name, each in predictions.by_label().items()
    }


def by_group(predictions: Predictions, task: ModuleType, section: params.Evaluate, seed: int) -> dict[str, Any]:
    """Return {site, sex, age: {group: {n, metrics}}} for what is known of the samples."""
    return {
        kind: {
            name: _group(predictions.where((groups == name).to_numpy()), task, section, seed)
            for name in _ordered(groups.dropna().unique().tolist())
        }
        for kind, groups in _columns(predictions.table).items()
    }


def age_bands(age_years: pd.Series) -> pd.Series:
    """Return the name of each age's band, null for an unknown age."""
    return pd.Series(pd.cut(age_years.astype("float64"), AGE_EDGES, right=False, labels=AGE_BANDS), dtype=object)


def _columns(table: pd.DataFrame) -> dict[str, pd.Series]:
    return {"site": table["site"], "sex": table["sex"], "age": age_bands(table["age_years"])}


def _ordered(names: list[str]) -> list[str]:
    return sorted(names, key=lambda name: (AGE_BANDS.index(name) if name in AGE_BANDS else 0, name))


def _group(predictions: Predictions, task: ModuleType, section: params.Evaluate, seed: int) -> dict[str, Any]:
    n = predictions.counts()
    patients = n["samples"] if n["patients"] is None else n["patients"]
    reason = f"fewer than {MIN_PATIENTS} patients" if patients < MIN_PATIENTS else predictions.too_small()
    if reason is None:
        return {"n": n, "metrics": scores(predictions, task, section, seed)}
    values = {name: float(value[0]) for name, value in predictions.metrics().items()}
    return {
        "n": n,
        "metrics": {
            name: {"value": value if np.isfinite(value) else None, "low": None, "high": None, "reason": reason}
            for name, value in values.items()
        },
    }
