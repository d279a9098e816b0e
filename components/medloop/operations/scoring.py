"""What a registered version says of today's test set, through its own pyfunc."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import islice
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pandas as pd

from medloop import kinds, manifest, plugins, provenance, study
from medloop.answers import generation as answers
from medloop.errors import Refused
from medloop.evaluation import ledger
from medloop.kinds import Form
from medloop.tracking import registry

BATCH = 256


@dataclass(frozen=True)
class TestSet:
    """The test rows of a samples folder."""

    __test__ = False  # not for pytest, for all its name

    folder: Path
    table: pd.DataFrame
    facts: manifest.Facts
    key_fingerprint: str | None

    @property
    def classes(self) -> tuple[str, ...]:
        return self.facts.classes

    @property
    def kind(self) -> ModuleType:
        return plugins.load(kinds, self.facts.kind)

    @cached_property
    def sha256(self) -> str:
        """The digest by which `evaluate` names a test set."""
        return ledger.name(self.table["content_sha256"])

    def labels(self, task: ModuleType, card: Mapping[str, Any] | None = None) -> np.ndarray:
        """Return what is to be told of each input (N, ..): of images a row each, of windows as the `card` cuts them.

        Of masks it is the area of each class, of boxes how many there are.
        """
        if hasattr(task, "compared"):
            return np.concatenate([task.areas(truth[None], len(self.classes)) for truth in self.truths(task)])
        if card is None:
            return np.asarray(task.targets(self.table, self.classes))
        found = self.kind.targets(self.table, manifest.Values(self.folder), form_of(card))
        if found is not None:
            return np.asarray(found)
        each = np.asarray(task.targets(self.table, self.classes))
        return np.repeat(each, self.kind.counts(self.table, form_of(card)), axis=0)

    def truths(self, task: ModuleType) -> Iterator[np.ndarray]:
        """Yield the true mask (H, W) of each image, or its boxes (M, 5), at its own size."""
        return self.boxes() if task.GIVES == "boxes" else self.masks()

    def boxes(self) -> Iterator[np.ndarray]:
        """Yield the corners and the number of the class of the boxes (M, 5) of each image; raise Refused for none."""
        for row in manifest.rows(self.table):
            if row.boxes is None or row.box_labels is None:
                raise Refused(f"sample {row.sample_id} in {self.folder} has no boxes to compare with: ingest again")
            pairs = zip(row.boxes, row.box_labels, strict=True)
            rows = [(*box, 1 + self.classes.index(name)) for box, name in pairs]
            yield np.array(rows, np.float64).reshape(-1, 5)

    def masks(self) -> Iterator[np.ndarray]:
        """Yield the true mask (H, W) of each image, at its own size; raise Refused where there is none."""
        values = manifest.Values(self.folder)
        for row in manifest.rows(self.table):
            mask = values.mask(row)
            if mask is None:
                raise Refused(f"sample {row.sample_id} in {self.folder} has no mask to compare with: ingest again")
            yield mask

    def index(self, card: Mapping[str, Any] | None = None) -> pd.DataFrame:
        """Return a row for each input, with its sample and its patient."""
        return self.table if card is None else self.kind.index(self.table, form_of(card))

    def without(self, known: pd.DataFrame) -> "TestSet":
        """Return the test set less the samples and the patients in `known`, which a changed split may bring here."""
        table = self.table
        theirs = table["content_sha256"].isin(known["content_sha256"])
        theirs |= table["patient_id"].isin(known["patient_id"].dropna())
        return replace(self, table=table[~theirs].reset_index(drop=True))


def today(samples: Path, dataset: str) -> TestSet:
    """Return the test set in `samples`; raise Refused where there is none."""
    if not (samples / "manifest.parquet").exists():
        raise Refused(f"no samples in {samples}, on which the champion must be scored: run `dvc repro` first")
    lineage = provenance.verify(samples)
    made = lineage["parameters"]["base"]["dataset"]
    if made != dataset:
        raise Refused(f"{samples} holds {made}, the model is for {dataset}: run `make repro` for {dataset} first")
    table, facts = manifest.read(samples)
    return TestSet(
        samples, table[table["split"] == "test"].reset_index(drop=True), facts, lineage.get("key_fingerprint")
    )


def form_of(card: Mapping[str, Any]) -> Form:
    """Return the form of the arrays that a model takes."""
    return Form(tuple(card["input_shape"]), "", dict(card["preprocessing"]))


def card(version: registry.Version) -> dict[str, Any]:
    """Return the card that lies in the version's own pyfunc."""
    model = registry.load(f"models:/{version.name}/{version.number}")
    return dict(model.unwrap_python_model().model.card)


def logged(version: registry.Version, test: TestSet, task: ModuleType) -> np.ndarray | None:
    """Return what was logged as said (N, S) with a version that was evaluated on this test set.

    None: it was evaluated on another one, or on masks of the size of the network's input.
    """
    if hasattr(task, "compared") or version.tags.get("medloop.test_sha256") != test.sha256:
        return None
    table = registry.predictions(version)
    if set(table["sample_id"]) != set(test.table["sample_id"]):
        return None
    columns = task.stored(test.classes)
    if table["sample_id"].is_unique:
        table = table.set_index("sample_id").loc[test.table["sample_id"]]
    return table[columns].to_numpy(np.float64)


def score(
    version: registry.Version, test: TestSet, task: ModuleType, judge: registry.Version | None = None
) -> np.ndarray:
    """Return what the version's own pyfunc says (N, S) of the samples as they were ingested.

    `judge`: of a task that makes images, the version whose study compares them with the samples.
    That the version sees this test set is entered into the ledger.
    """
    ledger.opened(test.table["content_sha256"], version.tags[registry.DIGEST])
    model = registry.load(f"models:/{version.name}/{version.number}")
    if hasattr(task, "fed"):
        return _of_images(version, test, model, judge or version)
    columns, kind = task.served(test.classes), test.kind
    parts = [np.empty((0, len(task.stored(test.classes))))]
    cells = _cells(test, model.unwrap_python_model().model.card["preprocessing"])
    truths = test.truths(task) if hasattr(task, "compared") else None
    while batch := list(islice(cells, BATCH)):
        try:
            found = pd.DataFrame(model.predict(pd.DataFrame({kind.COLUMN: batch})))[columns]
        except ValueError as error:
            raise Refused(f"{version} of {version.name} cannot read today's test set: {error}") from None
        if truths:
            parts.append(task.compared(found[columns[0]], list(islice(truths, len(batch))), test.classes))
        else:
            parts.append(found.to_numpy(np.float64))
    return np.concatenate(parts)


def _of_images(version: registry.Version, test: TestSet, model: Any, judge: registry.Version) -> np.ndarray:
    """Return what is said (N, S) of the samples beside the images that the version makes, as it is served.

    The classes and seeds are those of the judge's study, whose classifier compares: the same for two versions.
    """
    wanted = form_of(card := model.unwrap_python_model().model.card)
    by = registry.folder(judge, study.SHARED)
    seen = study.Shared(by)
    asked = pd.DataFrame({"label": [card["classes"][i] for i in seen.labels], "seed": seen.seeds})
    made = [answers.unmarked(content, wanted.shape) for content in model.predict(asked)["image"]]
    real = np.concatenate(
        [np.asarray(block) for block in test.kind.arrays(test.table, manifest.Values(test.folder), wanted)]
    )
    near = seen.near if judge == version else 0.0
    return seen.said(real, np.stack(made), near)


def _cells(test: TestSet, preprocessing: Mapping[str, Any]) -> Iterator[bytes]:
    values, kind = manifest.Values(test.folder), test.kind
    for row in manifest.rows(test.table):
        yield from (cell for _, cell in kind.encoded(row, values[row], preprocessing))
