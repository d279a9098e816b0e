"""Write samples as arrays of one shape: development data to one folder, the test set to another."""

import json
import sys
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from importlib import metadata
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pandas as pd

from medloop import kinds, manifest, pairing, params, plugins, provenance, tasks
from medloop.errors import Refused
from medloop.kinds import Form
from medloop.shards import Shard, check

SCHEMA_VERSION = 2
PART, CHUNK = "preprocess-part", 2**20  # bytes copied at once


def preprocess(
    base: params.Base,
    section: params.Preprocess,
    *,
    samples: Path,
    validation: Path,
    arrays: Path,
    holdout: Path,
    arrays_parts: Sequence[Path] = (),
    holdout_parts: Sequence[Path] = (),
) -> dict[str, Any]:
    """Write train and val to `arrays`, test to `holdout`, and return what `about.json` says of the three.

    A split's folder holds `inputs.npy` (N, ...), images (N, H, W, C) uint8 or windows (N, L, C) float32, `labels.npy`
    (N,), int32 of classes or float32, (N, L) uint8 of several labels at once, (N, H, W) uint8 of masks, or (N, M, 5)
    float32 of boxes, and `index.parquet`, in the order of the manifest; those of validation and test `instances.npy`
    (N, H, W) uint16 too, where objects are told apart. The inputs and the maps are made here, or taken from what
    `preprocess_part` wrote for each shard.

    Raises:
        Refused: validation did not pass or belongs to other samples, a split is empty, the task does not take the
            samples, their kind does not make arrays of one form of them, or the parts do not fit together.
    """
    job = _job(base, section, samples, validation)
    inputs = {"samples": samples, "validation": validation}
    made = _made_with(job, base, section, inputs)
    made_before = [check(parts, made) if parts else [] for parts in (arrays_parts, holdout_parts)]
    with provenance.writing("preprocess", base, section, arrays, holdout, inputs=inputs) as (development, sealed):
        tables = {}
        for split, folder, parts in (
            ("train", development, made_before[0]),
            ("val", development, made_before[0]),
            ("test", sealed, made_before[1]),
        ):
            rows = job.rows(split)
            (folder / split).mkdir()
            for layer in job.layers(split):
                blocks = _copied(parts, split, layer) if parts else job.blocks(layer, rows)
                _write(layer, rows, blocks, job, folder / split)
            if not job.form.masks:
                np.save(folder / split / "labels.npy", job.labels(rows))
            tables[split] = job.index(rows)
            tables[split].to_parquet(folder / split / "index.parquet", index=False)
        about = _about(job, tables, json.loads((samples / "ingest.json").read_text()))
        if floors := _floors(job, about, development, section, base.seed):
            about["floors"] = floors
        for folder in (development, sealed):
            provenance.write_json(folder / "about.json", about)
    return about


def preprocess_part(
    base: params.Base,
    section: params.Preprocess,
    *,
    samples: Path,
    validation: Path,
    arrays: Path,
    holdout: Path,
    shard: int,
    shards: int,
) -> None:
    """Write inputs and maps of one of `shards` shards of each split: train and val to `arrays`, test to `holdout`.

    Raises:
        Refused: as `preprocess`, which takes the parts of all shards.
    """
    job, own = _job(base, section, samples, validation), Shard(shard, shards)
    inputs = {"samples": samples, "validation": validation}
    facts = {"shard": [shard, shards], "recipe": _recipe(job)}
    with provenance.writing(PART, base, section, arrays, holdout, inputs=inputs, **facts) as (development, sealed):
        for split, folder in (("train", development), ("val", development), ("test", sealed)):
            rows = job.rows(split)
            mine = rows[own.rows(len(rows))].reset_index(drop=True)
            (folder / split).mkdir()
            for layer in job.layers(split):
                _write(layer, mine, job.blocks(layer, mine), job, folder / split)


@dataclass(frozen=True)
class Layer:
    """One file of arrays: the inputs, or maps that stand under them."""

    name: str
    dtype: str
    shape: tuple[int, ...]  # of one array
    source: str | None = None  # what the maps are made of


@dataclass(frozen=True)
class Job:
    """Samples that validation has passed, and what is made of them."""

    table: pd.DataFrame
    facts: manifest.Facts
    values: manifest.Values
    kind: ModuleType
    task: ModuleType
    form: Form

    def rows(self, split: str) -> pd.DataFrame:
        """Return the samples of a split, in the order of the manifest."""
        return self.table[self.table["split"] == split].reset_index(drop=True)

    def notes(self) -> list[str]:
        """Return what a reader of the report must know of the arrays."""
        return self.kind.notes(self.table, self.values, self.form) if hasattr(self.kind, "notes") else []

    def layers(self, split: str) -> list[Layer]:
        """Return the files that are written block after block."""
        form = self.form
        found = [Layer("inputs.npy", form.dtype, form.shape)]
        if form.masks:
            found.append(Layer("labels.npy", "uint8", form.shape[:-1], "mask"))
        if form.masks and split != "train" and self.table["instances_offset"].notna().all():
            found.append(Layer("instances.npy", "uint16", form.shape[:-1], "instances"))
        return found

    def blocks(self, layer: Layer, rows: pd.DataFrame) -> Iterator[memoryview]:
        """Return the arrays of a file, block after block."""
        if layer.source is None:
            return iter(self.kind.arrays(rows, self.values, self.form))
        return iter(self.kind.layers(rows, self.values, self.form, layer.source))

    def labels(self, rows: pd.DataFrame) -> np.ndarray:
        """Return (N, ..) what is to be told of each array: as the values say it, else as the task finds it."""
        if self.form.boxes:
            return np.asarray(self.kind.boxes(rows, self.form, self.facts.classes))
        found = self.kind.targets(rows, self.values, self.form)
        if found is not None:
            return np.asarray(found)
        each = np.asarray(self.task.targets(rows, self.facts.classes))
        return np.repeat(each, self.kind.counts(rows, self.form), axis=0)

    def index(self, rows: pd.DataFrame) -> pd.DataFrame:
        """Return a row for each array; with boxes those of the whole image, five numbers each, the class last."""
        found: pd.DataFrame = self.kind.index(rows, self.form)
        if not self.form.boxes:
            return found
        numbers = {name: place for place, name in enumerate(self.facts.classes, 1)}
        pairs = zip(rows["boxes"], rows["box_labels"], strict=True)
        flat = [[float(n) for box, name in zip(*pair, strict=True) for n in (*box, numbers[name])] for pair in pairs]
        whole = pd.Series(flat, rows["sample_id"], dtype=object)
        return found.assign(boxes=whole.loc[found["sample_id"]].to_numpy())


def _job(base: params.Base, section: params.Preprocess, samples: Path, validation: Path) -> Job:
    _check(samples, validation)
    table, facts = manifest.read(samples)
    pairing.check(base.task, facts.kind)
    kind, task = plugins.load(kinds, facts.kind), plugins.load(tasks, base.task)
    for split in manifest.SPLITS:
        if not (table["split"] == split).any():
            raise Refused(f"split {split} is empty: preprocess needs train, val and test samples")
    facts = _told(base, facts, task)
    values = manifest.Values(samples)
    form = kind.form(table, values, facts, section)
    if not form.preprocessing.get("horizon"):
        task.check(asdict(facts))
    elif not task.NUMBERS:
        raise Refused(f"preprocess.sequence.horizon gives numbers to predict, task {base.task} takes none: set it to 0")
    else:
        facts = replace(facts, classes=(), multi_label=False)  # what a recording is labelled with is not asked for
    return Job(table, facts, values, kind, task, form)


def _told(base: params.Base, facts: manifest.Facts, task: ModuleType) -> manifest.Facts:
    """Return the facts with that alone which the task tells of a sample: of masks and boxes that come together, one.

    Raises:
        Refused: the samples have none of it.
    """
    wanted = getattr(task, "GIVES", "")
    drawn = {"map": ("masks", "segmentation"), "boxes": ("boxes", "detection")}
    there = [name for name, _ in drawn.values() if getattr(facts, name)]
    if there and (wanted not in drawn or drawn[wanted][0] not in there):
        fit = " or ".join(task for name, task in drawn.values() if name in there)
        lacking = drawn[wanted][0] if wanted in drawn else "labels"
        raise Refused(
            f"the samples have {' and '.join(there)} and no {lacking}, task {base.task} wants {lacking}: set "
            f"base.task: {fit}"
        )
    return replace(facts, masks=facts.masks and wanted == "map", boxes=facts.boxes and wanted == "boxes")


def _made_with(job: Job, base: params.Base, section: params.Preprocess, inputs: dict[str, Path]) -> dict[str, Any]:
    """Return what the lineage of a part must say."""
    read = {name: provenance.digest(path) for name, path in inputs.items()}
    return {"stage": PART, "parameters": provenance.stated(base, section), "inputs": read, "recipe": _recipe(job)}


def _recipe(job: Job) -> str:
    """Return the digest of the code and the packages that make an array."""
    packages = {name: metadata.version(name) for name in job.kind.PACKAGES}
    return provenance.json_digest([provenance.code_behind(sys.modules[__name__], job.kind), packages])


def _check(samples: Path, validation: Path) -> None:
    judged = provenance.read_lineage(validation)["inputs"].get("samples")
    if judged != provenance.digest(samples):
        raise Refused(f"{validation} speaks of other samples than those in {samples}: run `medloop validate` again")
    if not json.loads((validation / "result.json").read_text())["success"]:
        raise Refused(f"{validation} says that the samples in {samples} did not pass: mend them and ingest again")


def _about(job: Job, tables: dict[str, pd.DataFrame], ingested: dict[str, Any]) -> dict[str, Any]:
    """Return what training and the report need to know of the three splits together."""
    table, facts = job.table, job.facts
    counts = {split: _counts(index, facts) for split, index in tables.items()}
    groups = {
        column: {split: rows[column].value_counts().sort_index().to_dict() for split, rows in table.groupby("split")}
        for column in ("site", "sex", "modality")
    }
    patients = table.groupby("split")["patient_id"].nunique().to_dict() if facts.has_patients else {}
    return {
        "schema_version": SCHEMA_VERSION,
        "input_shape": list(job.form.shape),
        "classes": list(facts.classes),
        "facts": {**asdict(facts), "classes": list(facts.classes), "variables": list(facts.variables)},
        "counts": counts,
        "groups": groups,
        "patients": patients,
        "rejected": len(ingested["rejected"]),
        "notes": [*ingested["notes"], *job.notes()],
        "preprocessing": job.form.preprocessing,
    }


def _counts(index: pd.DataFrame, facts: manifest.Facts) -> dict[str, int]:
    """Return how many arrays there are of each class; in all, without classes or with several in one sample."""
    if facts.masks or facts.boxes:
        return {"all": index["sample_id"].nunique()}  # of which there may be many windows
    if not facts.classes or facts.multi_label:
        return {"all": len(index)}
    found = index["label"].value_counts()
    return {name: int(found.get(name, 0)) for name in facts.classes}


def _floors(
    job: Job, about: dict[str, Any], development: Path, section: params.Preprocess, seed: int
) -> dict[str, Any]:
    """Return what a network must beat: of the task, fitted on train alone, and of the kind, on train and validation."""
    inputs, labels = (
        [np.load(development / split / f"{name}.npy", mmap_mode="r") for split in ("train", "val")]
        for name in ("inputs", "labels")
    )
    found = dict(job.task.floors(inputs[0], labels[0], about)) if hasattr(job.task, "floors") else {}
    if not hasattr(job.kind, "floors") or job.task.NUMBERS:
        return found
    both = np.concatenate(labels)
    questions = job.task.questions(both, job.facts.classes) if hasattr(job.task, "questions") else None
    index = pd.concat([pd.read_parquet(development / split / "index.parquet") for split in ("train", "val")])
    patients = index["patient_id"].fillna(index["sample_id"]).tolist()
    return found | dict(job.kind.floors(inputs, both, patients, about, section, seed, questions))


def _write(layer: Layer, rows: pd.DataFrame, blocks: Iterable[bytes | memoryview], job: Job, folder: Path) -> None:
    """Write `blocks` of what `rows` become, one after the other, to a file in `folder`."""
    shape = (int(job.kind.counts(rows, job.form).sum()), *layer.shape)
    header = {"descr": np.lib.format.dtype_to_descr(np.dtype(layer.dtype)), "fortran_order": False, "shape": shape}
    with (folder / layer.name).open("wb") as file:  # not mapped: a full disk would kill the process without a word
        np.lib.format.write_array_header_1_0(file, header)
        for block in blocks:
            file.write(block)


def _copied(parts: Iterable[Path], split: str, layer: Layer) -> Iterator[bytes]:
    """Yield the arrays of all parts, block after block, without their headers."""
    for part in parts:
        with (part / split / layer.name).open("rb") as file:
            np.lib.format.read_magic(file)
            np.lib.format.read_array_header_1_0(file)
            while block := file.read(CHUNK):
                yield block
