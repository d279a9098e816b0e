"""The trained models that evaluation chooses from, checked against their digests, each other and the test set."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from medloop import predictions, provenance
from medloop.errors import Refused

CARD_VERSION = 2


@dataclass(frozen=True)
class Candidate:
    """A model folder with its predictions on validation data."""

    folder: Path
    card: dict[str, Any]
    lineage: dict[str, Any]
    samples: pd.Series  # (N,) sample ids
    together: pd.Series  # (N,) what the bootstrap draws as one: patients, null where unknown, or blocks of time
    labels: np.ndarray  # (N,) class indices or numbers, or (N, L) of several labels
    outputs: np.ndarray  # (N, K)

    @property
    def architecture(self) -> str:
        return str(self.card["architecture"])

    @property
    def classes(self) -> list[str]:
        return list(self.card["classes"])


def read(models: Mapping[str, Path]) -> list[Candidate]:
    """Return the models in `models`, by architecture, in order of their names.

    Raises:
        Refused: a folder holds no model, a file does not match its digest, or the models do not belong together.
    """
    candidates = [_read(models[name]) for name in sorted(models)]
    for name, candidate in zip(sorted(models), candidates, strict=True):
        if candidate.architecture != name:
            raise Refused(f"{candidate.folder} must hold architecture {name}, it holds {candidate.architecture}")
        _match(candidates[0], candidate)
    return candidates


def fit_holdout(candidate: Candidate, about: Mapping[str, Any], lineage: Mapping[str, Any]) -> None:
    """Raise Refused unless the test set was made together with the arrays that the candidate was trained on.

    Args:
        candidate: the model.
        about: the test set's about.json.
        lineage: the test set's lineage.
    """
    for key in ("classes", "input_shape", "preprocessing"):
        if candidate.card[key] != about[key]:
            raise Refused(
                f"model {candidate.architecture} and the test set must share {key}: "
                f"the model has {candidate.card[key]}, the test set {about[key]}; run `dvc repro`"
            )
    made = [step for step in candidate.lineage["upstream"].values() if step["stage"] == "preprocess"]
    if not any(step["inputs"] == lineage["inputs"] for step in made):
        raise Refused(
            f"model {candidate.architecture} was trained on other samples than this test set was taken from: "
            "run `dvc repro`"
        )


def _read(folder: Path) -> Candidate:
    lineage = provenance.verify(folder)
    card = json.loads((folder / "card.json").read_text())
    if card.get("schema_version") != CARD_VERSION:
        raise Refused(
            f"{folder}/card.json has schema version {card.get('schema_version')}, this medloop reads {CARD_VERSION}: "
            "train again"
        )
    table = pd.read_parquet(folder / "validation.parquet")
    outputs = table[[name for name in table.columns if name.startswith("output_")]].to_numpy(np.float64)
    bad = int((~np.isfinite(outputs).all(axis=1)).sum())
    if bad:
        raise Refused(f"predictions must be finite numbers, {bad} of {len(outputs)} in {folder} are not: train again")
    together = predictions.drawn_together(table)
    return Candidate(folder, card, lineage, table["sample_id"], together, predictions.labels_of(table), outputs)


def _match(first: Candidate, other: Candidate) -> None:
    for key in ("task", "kind", "dataset", "classes", "input_shape", "preprocessing"):
        if first.card[key] != other.card[key]:
            raise Refused(
                f"all models must share {key}: {first.architecture} has {first.card[key]}, "
                f"{other.architecture} has {other.card[key]}; run `dvc repro`"
            )
    if not (first.samples.equals(other.samples) and np.array_equal(first.labels, other.labels)):
        raise Refused(
            f"{first.architecture} and {other.architecture} were validated on other samples "
            f"({len(first.labels)} and {len(other.labels)}): run `dvc repro`"
        )
