"""What `validate` expects of images: a suite for the samples and one for the classes of each split."""

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import great_expectations.expectations as gxe
import numpy as np
import pandas as pd

from medloop import leaks, manifest, params, provenance

OFTEN_MISSING = ("site", "sex", "age_years", "row_spacing_mm")
NEVER_MISSING = [field.name for field in manifest.SCHEMA if not field.nullable]
NUMBERS = {
    field.name: str(field.type).replace("double", "float64") for field in manifest.SCHEMA if field.name != "boxes"
}
MEASURED = ("pixel_max", "pixel_range", "above_depth", "saturated_share", "patient_sides", "copies_elsewhere", "leaks")

AGAIN = "the samples are damaged: run ingest again"
REMEDIES = {  # by check: the parameter that governs it, or what to do; for the others `AGAIN`
    "rows": "look at what ingest.root and ingest.options lead to",
    "labels known": "correct the labels below ingest.root",
    "patients on one side": "correct the splits of the source, or leave them out and let ingest.split make them",
    "no copy on another side": "ingest.leaks",
    "patients known": "name the patient of each sample at the source",
    "no empty image": "take the image out below ingest.root",
    "no constant image": "take the image out below ingest.root",
    "pixels within their bits": "correct the bits that the files give, or take them out below ingest.root",
    "bit depth": "validate.bit_depths",
    "height_px": "validate.size_px",
    "width_px": "validate.size_px",
    "few pixels at the ends of the scale": "validate.max_saturated",
    "every class in every split": "more samples, another ingest.split, or validate.min_samples_per_class",
    "class balance": "validate.min_class_share",
    **{f"{name} known": "validate.max_missing" for name in OFTEN_MISSING},
}


def tables(samples: Path) -> dict[str, pd.DataFrame]:
    """Return what the suites are about: `samples`, a row a sample, and `classes`, a row a split and class."""
    table, facts = manifest.read(samples)
    measured = table.assign(**_pixels(table, samples), **_sides(table, samples))
    return {"samples": measured, "classes": _classes(table, facts)}


def suites(section: params.Validate, samples: Path) -> dict[str, list[gxe.Expectation]]:
    """Return the expectations of each table; `meta` holds their level, what they are called, and what is wanted."""
    _, facts = manifest.read(samples)
    expected = [*_schema(), *_labels(facts), *_patients(facts), *_leaks(facts), *_pixels_expected(section)]
    share = f"known for at least {1 - section.max_missing:.0%}"
    expected += [
        _warn(f"{name} known", share, gxe.ExpectColumnValuesToNotBeNull, column=name, mostly=1 - section.max_missing)
        for name in OFTEN_MISSING
    ]
    return {"samples": expected, "classes": _classes_expected(section)}


def _schema() -> Iterator[gxe.Expectation]:
    names = [*manifest.SCHEMA.names, *MEASURED]
    yield _critical(
        "columns", "those of the manifest", gxe.ExpectTableColumnsToMatchSet, column_set=names, exact_match=True
    )
    yield _critical("rows", "at least 1", gxe.ExpectTableRowCountToBeBetween, min_value=1)
    for name in NEVER_MISSING:
        yield _critical(f"{name} present", "in every row", gxe.ExpectColumnValuesToNotBeNull, column=name)
    for name, kind in NUMBERS.items():
        if kind.lstrip("u").startswith(("int", "float")) and name != "mask_offset":  # null turns integers into floats
            yield _critical(f"{name} is a number", kind, gxe.ExpectColumnValuesToBeOfType, column=name, type_=kind)
    yield _critical("sample ids unique", "one row each", gxe.ExpectColumnValuesToBeUnique, column="sample_id")


def _labels(facts: manifest.Facts) -> Iterator[gxe.Expectation]:
    splits, classes = list(manifest.SPLITS), list(facts.classes)
    yield _critical("splits known", " ".join(splits), gxe.ExpectColumnValuesToBeInSet, column="split", value_set=splits)
    wanted = ", ".join(classes)
    if facts.multi_label:
        one = "|".join(re.escape(name) for name in classes)
        several = rf"^(?:(?:{one})(?:\|(?:{one}))*)?$"
        yield _critical("labels known", wanted, gxe.ExpectColumnValuesToMatchRegex, column="label", regex=several)
    else:
        yield _critical("labels known", wanted, gxe.ExpectColumnValuesToBeInSet, column="label", value_set=classes)


def _patients(facts: manifest.Facts) -> Iterator[gxe.Expectation]:
    level = _critical if facts.has_patients else _warn  # a source without patients is said to have none
    yield level("patients known", "in every row", gxe.ExpectColumnValuesToNotBeNull, column="patient_id")
    yield _critical(
        "patients on one side",
        "at most 1 split each",
        gxe.ExpectColumnMaxToBeBetween,
        column="patient_sides",
        max_value=1,
    )


def _leaks(facts: manifest.Facts) -> Iterator[gxe.Expectation]:
    level = _warn if facts.leaks == "report" else _critical  # for benchmarks the leak is recorded, and never promoted
    yield level(
        "no copy on another side",
        "0 for each image",
        gxe.ExpectColumnMaxToBeBetween,
        column="copies_elsewhere",
        max_value=0,
    )
    yield _critical(
        "leaks as recorded",
        f"at most {facts.leak_pairs} test images with a copy",
        gxe.ExpectColumnSumToBeBetween,
        column="leaks",
        max_value=facts.leak_pairs,
    )


def _pixels_expected(section: params.Validate) -> Iterator[gxe.Expectation]:
    depths, most = list(section.bit_depths), section.max_saturated
    least, highest = gxe.ExpectColumnMinToBeBetween, gxe.ExpectColumnMaxToBeBetween
    yield _critical("no empty image", "a pixel above 0", least, column="pixel_max", min_value=1)
    yield _critical("no constant image", "at least two values", least, column="pixel_range", min_value=1)
    yield _critical("pixels within their bits", "none above", highest, column="above_depth", max_value=0)
    yield _critical(
        "bit depth", f"one of {depths}", gxe.ExpectColumnValuesToBeInSet, column="bit_depth", value_set=depths
    )
    for name, side in zip(("height_px", "width_px"), section.size_px or (), strict=False):
        between = {"column": name, "min_value": side, "max_value": side}
        yield _critical(name, f"{side}", gxe.ExpectColumnValuesToBeBetween, **between)
    yield _warn(
        "few pixels at the ends of the scale", f"at most {most:.0%}", highest, column="saturated_share", max_value=most
    )


def _classes_expected(section: params.Validate) -> list[gxe.Expectation]:
    least, share = section.min_samples_per_class, section.min_class_share
    lowest = gxe.ExpectColumnMinToBeBetween
    return [
        _critical("every class in every split", f"at least {least} each", lowest, column="samples", min_value=least),
        _warn("class balance", f"at least {share:.0%} of train", lowest, column="share_of_train", min_value=share),
    ]


def _critical(check: str, wanted: str, kind: type[gxe.Expectation], **arguments: Any) -> gxe.Expectation:
    return kind(**arguments, severity="critical", meta=_meta(check, "critical", wanted))


def _warn(check: str, wanted: str, kind: type[gxe.Expectation], **arguments: Any) -> gxe.Expectation:
    return kind(**arguments, severity="warning", meta=_meta(check, "warn", wanted))


def _meta(check: str, level: str, wanted: str) -> dict[str, str]:
    return {"check": check, "level": level, "wanted": wanted, "remedy": REMEDIES.get(check, AGAIN)}


def _pixels(table: pd.DataFrame, samples: Path) -> dict[str, Any]:
    """Return what one pass over the pixels measures of each sample."""
    pixels = manifest.Pixels(samples)
    found = np.zeros((len(table), 4))
    for i, row in enumerate(list[Any](table.itertuples())):
        image = pixels[row]
        low, high = int(image.min()), int(image.max())
        at_the_ends = np.count_nonzero((image == low) | (image == high)) / image.size
        found[i] = high, high - low, max(0, high - (2 ** int(row.bit_depth) - 1)), at_the_ends
    return dict(zip(MEASURED[:4], found.T, strict=True))


def _sides(table: pd.DataFrame, samples: Path) -> dict[str, Any]:
    """Return in how many splits a sample's patient stands, its copies on other sides, and 1 where that is a leak."""
    thresholds = provenance.read_lineage(samples)["parameters"]["section"]["leak_thresholds"]
    pairs = leaks.find(table, manifest.Pixels(samples), params.LeakThresholds.model_validate(thresholds))
    copies = table["sample_id"].map(pd.concat([pairs["sample_a"], pairs["sample_b"]]).value_counts()).fillna(0)
    return {
        "patient_sides": table.groupby("patient_id")["split"].transform("nunique").fillna(1),
        "copies_elsewhere": copies,
        "leaks": ((table["split"] == "test") & (copies > 0)).astype(int),
    }


def _classes(table: pd.DataFrame, facts: manifest.Facts) -> pd.DataFrame:
    """Return a row for each split and class, those without a sample too."""
    labels = table.assign(label=table["label"].str.split("|")).explode("label") if facts.multi_label else table
    rows = []
    for split in manifest.SPLITS:
        side = labels[labels["split"] == split]
        for name in facts.classes:
            count = int((side["label"] == name).sum())
            share = count / max(1, len(table[table["split"] == split])) if split == "train" else None
            rows.append({"split": split, "label": name, "samples": count, "share_of_train": share})
    return pd.DataFrame(rows)
