"""Metrics with intervals, of the whole test set and of groups of patients."""

from dataclasses import dataclass
from types import ModuleType
from typing import Any

import numpy as np
import pandas as pd

from medloop import params
from medloop.evaluation import bootstrap

AGE_EDGES = (0, 18, 40, 60, 75, 200)  # years; the left edge belongs to the band
AGE_BANDS = ("under 18", "18 to 39", "40 to 59", "60 to 74", "75 and over")
GROUPS = ("site", "sex", "age")
MIN_PATIENTS = 20  # of a group: with fewer, or with fewer samples of a class, a group gets values without intervals
MIN_PER_CLASS = 5
CENTRED = ("ece",)


@dataclass(frozen=True)
class Predictions:
    """What a model said of each sample."""

    table: pd.DataFrame  # sample_id, patient_id, site, sex, age_years, one row a sample
    labels: np.ndarray  # (N,) class indices
    probabilities: np.ndarray  # (N, classes), calibrated
    decisions: np.ndarray  # (N,) class indices
    classes: list[str]
    positive: int

    def where(self, chosen: np.ndarray) -> "Predictions":
        """Return the samples for which `chosen` (N,) is true."""
        return Predictions(
            self.table[chosen].reset_index(drop=True),
            self.labels[chosen],
            self.probabilities[chosen],
            self.decisions[chosen],
            self.classes,
            self.positive,
        )

    def frame(self) -> pd.DataFrame:
        """Return predictions.parquet: who, the label, p_0 to p_k-1 and the decision."""
        columns = ["sample_id", "patient_id", "site", "sex", "age_years"]
        probabilities = {f"p_{index}": self.probabilities[:, index] for index in range(len(self.classes))}
        return self.table[columns].assign(
            label=self.labels.astype(np.int32), **probabilities, decision=self.decisions.astype(np.int32)
        )


def scores(predictions: Predictions, task: ModuleType, section: params.Evaluate, seed: int) -> dict[str, Any]:
    """Return {metric: {value, low, high, undefined}} with intervals from a bootstrap over patients."""
    values = _metrics(predictions, task)
    groups = bootstrap.clusters(predictions.table["patient_id"])
    drawn = bootstrap.draw(lambda weights: _metrics(predictions, task, weights), groups, section.resamples, seed)
    size = bootstrap.rarest(predictions.labels, groups)
    return {
        name: bootstrap.interval(float(value[0]), drawn[name], section.confidence, size=size, centred=name in CENTRED)
        for name, value in values.items()
    }


def counts(predictions: Predictions) -> dict[str, Any]:
    """Return the number of samples, of patients (None where they are unknown) and of samples by class."""
    patients = predictions.table["patient_id"]
    by_class = np.bincount(predictions.labels, minlength=len(predictions.classes))
    return {
        "samples": len(predictions.labels),
        "patients": int(patients.nunique()) if patients.notna().all() else None,
        "classes": dict(zip(predictions.classes, by_class.tolist(), strict=True)),
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
    n = counts(predictions)
    patients = n["samples"] if n["patients"] is None else n["patients"]
    reason = None
    if patients < MIN_PATIENTS:
        reason = f"fewer than {MIN_PATIENTS} patients"
    elif min(n["classes"].values()) < MIN_PER_CLASS:
        reason = f"fewer than {MIN_PER_CLASS} samples of a class"
    if reason is None:
        return {"n": n, "metrics": scores(predictions, task, section, seed)}
    values = {name: float(value[0]) for name, value in _metrics(predictions, task).items()}
    return {
        "n": n,
        "metrics": {
            name: {"value": value if np.isfinite(value) else None, "low": None, "high": None, "reason": reason}
            for name, value in values.items()
        },
    }


def _metrics(predictions: Predictions, task: ModuleType, weights: np.ndarray | None = None) -> dict[str, np.ndarray]:
    return task.metrics(
        predictions.labels,
        predictions.probabilities,
        predictions.decisions,
        positive=predictions.positive,
        weights=weights,
    )
