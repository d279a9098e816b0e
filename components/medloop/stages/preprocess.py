"""Write samples as arrays of one shape: development data to one folder, the test set to another."""

import json
import sys
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from medloop import imaging, manifest, params, provenance
from medloop.errors import Refused
from medloop.shards import Shard, check

SCHEMA_VERSION = 1
INDEX = ["sample_id", "patient_id", "site", "sex", "age_years", "label", "content_sha256"]
BLOCK = 256  # images fitted at once, so that memory stays flat
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

    A split's folder holds `images.npy` (N, H, W, C) uint8, `labels.npy` (N,) int32 and `index.parquet`, in the order
    of the manifest. The images are made here, or taken from what `preprocess_part` wrote for each shard.

    Raises:
        Refused: validation did not pass or belongs to other samples, a split is empty, an image has colours that the
            model does not take, or the parts do not fit together.
    """
    table, facts = _passed(base, samples, validation)
    about = _about(section, table, facts, json.loads((samples / "ingest.json").read_text()))
    inputs = {"samples": samples, "validation": validation}
    made = _made_with(base, section, inputs)
    made_before = [check(parts, made) if parts else [] for parts in (arrays_parts, holdout_parts)]
    pixels = manifest.Pixels(samples)
    with provenance.writing("preprocess", base, section, arrays, holdout, inputs=inputs) as (development, sealed):
        for split, folder, parts in (
            ("train", development, made_before[0]),
            ("val", development, made_before[0]),
            ("test", sealed, made_before[1]),
        ):
            rows = table[table["split"] == split].reset_index(drop=True)
            blocks = _copied(parts, split) if parts else _fitted(rows, pixels, section)
            _write(rows, blocks, section, folder / split)
            codes = pd.Categorical(rows["label"], categories=facts.classes).codes
            np.save(folder / split / "labels.npy", codes.astype(np.int32))
            rows[INDEX].to_parquet(folder / split / "index.parquet", index=False)
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
    """Write the images of one of `shards` shards of each split: train and val to `arrays`, test to `holdout`.

    Raises:
        Refused: as `preprocess`, which takes the parts of all shards.
    """
    table, _ = _passed(base, samples, validation)
    own, pixels = Shard(shard, shards), manifest.Pixels(samples)
    inputs = {"samples": samples, "validation": validation}
    facts = {"shard": [shard, shards], "recipe": _recipe()}
    with provenance.writing(PART, base, section, arrays, holdout, inputs=inputs, **facts) as (development, sealed):
        for split, folder in (("train", development), ("val", development), ("test", sealed)):
            rows = table[table["split"] == split]
            mine = rows[own.rows(len(rows))].reset_index(drop=True)
            _write(mine, _fitted(mine, pixels, section), section, folder / split)


def _passed(base: params.Base, samples: Path, validation: Path) -> tuple[pd.DataFrame, manifest.Facts]:
    """Return the table and the facts of samples that validation has passed, and that the task takes."""
    _check(samples, validation)
    table, facts = manifest.read(samples)
    if facts.multi_label:
        raise Refused(f"the task {base.task} takes one label an image, the source {facts.source} gives several")
    return table, facts


def _made_with(base: params.Base, section: params.Preprocess, inputs: dict[str, Path]) -> dict[str, Any]:
    """Return what the lineage of a part must say."""
    read = {name: provenance.digest(path) for name, path in inputs.items()}
    return {"stage": PART, "parameters": provenance.stated(base, section), "inputs": read, "recipe": _recipe()}


def _recipe() -> str:
    """Return the digest of the code and the packages that make an image."""
    packages = {name: metadata.version(name) for name in ("numpy", "opencv-python-headless")}
    return provenance.json_digest([provenance.code_behind(sys.modules[__name__]), packages])


def _check(samples: Path, validation: Path) -> None:
    judged = provenance.read_lineage(validation)["inputs"].get("samples")
    if judged != provenance.digest(samples):
        raise Refused(f"{validation} speaks of other samples than those in {samples}: run `medloop validate` again")
    if not json.loads((validation / "result.json").read_text())["success"]:
        raise Refused(f"{validation} says that the samples in {samples} did not pass: mend them and ingest again")


def _about(
    section: params.Preprocess, table: pd.DataFrame, facts: manifest.Facts, ingested: dict[str, Any]
) -> dict[str, Any]:
    """Return what training and the report need to know of the three splits together."""
    counts = pd.crosstab(table["split"], table["label"]).reindex(
        index=manifest.SPLITS, columns=facts.classes, fill_value=0
    )
    for split, row in counts.iterrows():
        if not row.sum():
            raise Refused(f"split {split} is empty: preprocess needs train, val and test samples")
    groups = {
        column: {split: rows[column].value_counts().sort_index().to_dict() for split, rows in table.groupby("split")}
        for column in ("site", "sex", "modality")
    }
    patients = table.groupby("split")["patient_id"].nunique().to_dict() if facts.has_patients else {}
    return {
        "schema_version": SCHEMA_VERSION,
        "input_shape": [*section.size_px, section.channels],
        "classes": list(facts.classes),
        "facts": {**asdict(facts), "classes": list(facts.classes)},
        "counts": counts.to_dict("index"),
        "groups": groups,
        "patients": patients,
        "rejected": len(ingested["rejected"]),
        "notes": ingested["notes"],
        "preprocessing": {
            "size_px": list(section.size_px),
            "channels": section.channels,
            "clip_percentiles": list(section.clip_percentiles),
        },
    }


def _write(rows: pd.DataFrame, blocks: Iterable[bytes | memoryview], section: params.Preprocess, folder: Path) -> None:
    """Write `blocks` of the images of `rows`, one after the other, to `folder/images.npy`."""
    folder.mkdir()
    header = {"descr": "|u1", "fortran_order": False, "shape": (len(rows), *section.size_px, section.channels)}
    with (folder / "images.npy").open("wb") as file:  # not mapped: a full disk would kill the process without a word
        np.lib.format.write_array_header_1_0(file, header)
        for block in blocks:
            file.write(block)


def _copied(parts: Iterable[Path], split: str) -> Iterator[bytes]:
    """Yield the images of all parts, block after block, without their headers."""
    for part in parts:
        with (part / split / "images.npy").open("rb") as file:
            np.lib.format.read_magic(file)
            np.lib.format.read_array_header_1_0(file)
            while block := file.read(CHUNK):
                yield block


def _fitted(rows: pd.DataFrame, pixels: manifest.Pixels, section: params.Preprocess) -> Iterator[memoryview]:
    """Yield images (N, H, W, C) uint8, block after block, in the order of `rows`; OpenCV leaves other threads free."""

    def fit(row: Any) -> np.ndarray:
        try:
            return imaging.fit(pixels[row], row.bit_depth, **section.model_dump())
        except ValueError as error:
            raise Refused(f"sample {row.sample_id} ({row.split}): {error}; see preprocess.channels") from None

    with ThreadPoolExecutor() as pool:
        for start in range(0, len(rows), BLOCK):
            yield np.stack(list(pool.map(fit, rows.iloc[start : start + BLOCK].itertuples()))).data
