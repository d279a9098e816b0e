"""Write samples as arrays of one shape: development data to one folder, the test set to another."""

import json
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from medloop import imaging, manifest, params, provenance
from medloop.errors import Refused

SCHEMA_VERSION = 1
INDEX = ["sample_id", "patient_id", "site", "sex", "age_years", "label", "content_sha256"]
BLOCK = 256  # images fitted at once, so that memory stays flat


def preprocess(
    base: params.Base,
    section: params.Preprocess,
    *,
    samples: Path,
    validation: Path,
    arrays: Path,
    holdout: Path,
) -> dict[str, Any]:
    """Write train and val to `arrays`, test to `holdout`, and return what `about.json` says of the three.

    A split's folder holds `images.npy` (N, H, W, C) uint8, `labels.npy` (N,) int32 and `index.parquet`, in the order
    of the manifest.

    Raises:
        Refused: validation did not pass or belongs to other samples, a split is empty, or an image has colours that the
            model does not take.
    """
    _check(samples, validation)
    table, facts = manifest.read(samples)
    if facts.multi_label:
        raise Refused(f"the task {base.task} takes one label an image, the source {facts.source} gives several")
    pixels = manifest.Pixels(samples)
    about = _about(section, table, facts, json.loads((samples / "ingest.json").read_text()))
    inputs = {"samples": samples, "validation": validation}
    with provenance.writing("preprocess", base, section, arrays, holdout, inputs=inputs) as (development, sealed):
        for split, folder in (("train", development), ("val", development), ("test", sealed)):
            rows = table[table["split"] == split].reset_index(drop=True)
            _write(rows, pixels, facts, section, folder / split)
        for folder in (development, sealed):
            provenance.write_json(folder / "about.json", about)
    return about


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


def _write(
    rows: pd.DataFrame, pixels: manifest.Pixels, facts: manifest.Facts, section: params.Preprocess, folder: Path
) -> None:
    folder.mkdir()
    header = {"descr": "|u1", "fortran_order": False, "shape": (len(rows), *section.size_px, section.channels)}
    with (folder / "images.npy").open("wb") as file:  # not mapped: a full disk would kill the process without a word
        np.lib.format.write_array_header_1_0(file, header)
        for images in _fitted(rows, pixels, section):
            file.write(images.data)
    codes = pd.Categorical(rows["label"], categories=facts.classes).codes
    np.save(folder / "labels.npy", codes.astype(np.int32))
    rows[INDEX].to_parquet(folder / "index.parquet", index=False)


def _fitted(rows: pd.DataFrame, pixels: manifest.Pixels, section: params.Preprocess) -> Iterator[np.ndarray]:
    """Yield images (N, H, W, C) uint8, block after block, in the order of `rows`; OpenCV leaves other threads free."""

    def fit(row: Any) -> np.ndarray:
        try:
            return imaging.fit(pixels[row], row.bit_depth, **section.model_dump())
        except ValueError as error:
            raise Refused(f"sample {row.sample_id} ({row.split}): {error}; see preprocess.channels") from None

    with ThreadPoolExecutor() as pool:
        for start in range(0, len(rows), BLOCK):
            yield np.stack(list(pool.map(fit, rows.iloc[start : start + BLOCK].itertuples())))
