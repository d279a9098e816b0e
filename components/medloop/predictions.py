"""What a model said of each sample: what the predictions of every task have in common."""

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass, fields, replace
from typing import Any, Self

import numpy as np
import pandas as pd

KNOWN = ["sample_id", "patient_id", "site", "sex", "age_years"]
PLACES = ["start", "block"]  # of windows


@dataclass(frozen=True)
class Predictions(ABC):
    """A row a sample; a task adds fields, of which the arrays have a row a sample too."""

    table: pd.DataFrame  # sample_id, patient_id, site, sex, age_years; of windows start and block
    labels: np.ndarray  # (N,), or (N, L) of several at once

    def where(self, chosen: np.ndarray) -> Self:
        """Return the samples for which `chosen` (N,) is true."""
        arrays = {field.name: getattr(self, field.name) for field in fields(self)}
        kept: dict[str, Any] = {name: value[chosen] for name, value in arrays.items() if isinstance(value, np.ndarray)}
        return replace(self, table=self.table[chosen].reset_index(drop=True), **kept)

    def who(self) -> pd.DataFrame:
        """Return the columns of the table that predictions.parquet keeps."""
        return self.table[[name for name in (*KNOWN, *PLACES) if name in KNOWN or name in self.table]]

    def counts(self) -> dict[str, Any]:
        """Return the number of samples and of patients (None where they are unknown)."""
        patients = self.table["patient_id"]
        known = int(patients.nunique()) if patients.notna().all() else None
        return {"samples": len(self.labels), "patients": known}

    def by_label(self) -> Mapping[str, "Predictions"]:
        """Return what was said of each label, where a sample may have several."""
        return {}

    @abstractmethod
    def frame(self) -> pd.DataFrame:
        """Return predictions.parquet."""

    @abstractmethod
    def metrics(self, weights: np.ndarray | None = None) -> dict[str, np.ndarray]:
        """Return each metric of the task under each row of sample weights (R, N), as (R,); None: all weigh one."""

    @abstractmethod
    def too_small(self) -> str | None:
        """Return why a group of these gets no interval, or None."""


def label_columns(labels: np.ndarray) -> dict[str, np.ndarray]:
    """Return labels (N,) as the column `label`, labels (N, L) as label_0 to label_l-1."""
    return {"label": labels} if labels.ndim == 1 else {f"label_{i}": column for i, column in enumerate(labels.T)}


def labels_of(table: pd.DataFrame) -> np.ndarray:
    """Return the labels, (N,) or (N, L), of a table with the columns of `label_columns`."""
    several = [name for name in table if str(name).startswith("label_")]
    return (table[several] if several else table["label"]).to_numpy()


def drawn_together(table: pd.DataFrame) -> pd.Series:
    """Return what the bootstrap draws as one: the block of a recording that is split in time, else the patient.

    Windows of an image whose patient is unknown stay together.
    """
    if "block" in table:
        return table["block"]
    return table["patient_id"].fillna(table["sample_id"]) if "top" in table else table["patient_id"]
