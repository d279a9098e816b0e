"""What `validate` expects of samples of any kind: the suites of expectations/ add what their kind wants."""

import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import great_expectations.expectations as gxe
import pandas as pd

from medloop import leaks, manifest, marks, params, provenance

NEVER_MISSING = [field.name for field in manifest.SCHEMA if not field.nullable]
NUMBERS = {
    field.name: str(field.type).replace("double", "float64")
    for field in manifest.SCHEMA
    if str(field.type).lstrip("u").startswith(("int", "float", "double"))
}
MEASURED = ("patient_sides", "copies_elsewhere", "leaks", "synthetic_aside")

AGAIN = "the samples are damaged: run ingest again"
REMEDIES = {  # by check: the parameter that governs it, or what to do; for the others `AGAIN`
    "rows": "look at what ingest.root and ingest.options lead to",
    "labels known": "correct the labels below ingest.root",
    "patients on one side": "correct the splits of the source, or leave them out and let ingest.split make them",
    "no copy on another side": "ingest.leaks",
    "synthetic images in train alone": "take them out below ingest.root, or give them split train and no patient",
    "patients known": "name the patient of each sample at the source",
    "every class in every split": "more samples, another ingest.split, or validate.min_samples_per_class",
    "class balance": "validate.min_class_share",
}


class Suite:
    """Makes expectations that know their level, what they are called, what is wanted, and what helps."""

    def __init__(self, remedies: Mapping[str, str]) -> None:
        self._remedies = {**REMEDIES, **remedies}

    def critical(self, check: str, wanted: str, kind: type[gxe.Expectation], **arguments: Any) -> gxe.Expectation:
        """Return an expectation that stops the pipeline where it fails."""
        return kind(**arguments, severity="critical", meta=self._meta(check, "critical", wanted))

    def warn(self, check: str, wanted: str, kind: type[gxe.Expectation], **arguments: Any) -> gxe.Expectation:
        """Return an expectation that is recorded where it fails."""
        return kind(**arguments, severity="warning", meta=self._meta(check, "warn", wanted))

    def _meta(self, check: str, level: str, wanted: str) -> dict[str, str]:
        return {"check": check, "level": level, "wanted": wanted, "remedy": self._remedies.get(check, AGAIN)}


def expected(suite: Suite, facts: manifest.Facts, measured: Sequence[str], numbers: Sequence[str]) -> list[Any]:
    """Return what is expected of every sample table, of `facts`.

    Args:
        suite: makes the expectations.
        facts: of the table.
        measured: columns that the kind adds.
        numbers: columns of the manifest that hold a number for this kind in every row.
    """
    return [*_schema(suite, measured, numbers), *_labels(suite, facts), *_patients(suite, facts), *_leaks(suite, facts)]


def _schema(suite: Suite, measured: Sequence[str], numbers: Sequence[str]) -> Iterator[gxe.Expectation]:
    names = [*manifest.SCHEMA.names, *MEASURED, *measured]
    yield suite.critical(
        "columns", "those of the manifest", gxe.ExpectTableColumnsToMatchSet, column_set=names, exact_match=True
    )
    yield suite.critical("rows", "at least 1", gxe.ExpectTableRowCountToBeBetween, min_value=1)
    for name in NEVER_MISSING:
        yield suite.critical(f"{name} present", "in every row", gxe.ExpectColumnValuesToNotBeNull, column=name)
    for name, kind in NUMBERS.items():
        if name in (*numbers, "age_years", "offset"):  # null turns integers into floats
            yield suite.critical(f"{name} is a number", kind, gxe.ExpectColumnValuesToBeOfType, column=name, type_=kind)
    yield suite.critical("sample ids unique", "one row each", gxe.ExpectColumnValuesToBeUnique, column="sample_id")


def _labels(suite: Suite, facts: manifest.Facts) -> Iterator[gxe.Expectation]:
    splits, classes = list(manifest.SPLITS), list(facts.classes)
    yield suite.critical(
        "splits known", " ".join(splits), gxe.ExpectColumnValuesToBeInSet, column="split", value_set=splits
    )
    if not classes or facts.masks or facts.boxes:  # those are looked at on their own
        return
    wanted = ", ".join(classes)
    yield suite.critical("label present", "in every row", gxe.ExpectColumnValuesToNotBeNull, column="label")
    if facts.multi_label:
        one = "|".join(re.escape(name) for name in classes)
        several = rf"^(?:(?:{one})(?:\|(?:{one}))*)?$"
        yield suite.critical("labels known", wanted, gxe.ExpectColumnValuesToMatchRegex, column="label", regex=several)
    else:
        yield suite.critical("labels known", wanted, gxe.ExpectColumnValuesToBeInSet, column="label", value_set=classes)


def _patients(suite: Suite, facts: manifest.Facts) -> Iterator[gxe.Expectation]:
    level = suite.critical if facts.has_patients else suite.warn  # a source without patients is said to have none
    yield level("patients known", "in every row", gxe.ExpectColumnValuesToNotBeNull, column="patient_id")
    if facts.split_in_time:  # a patient stands on every side, and what counts are moments
        return
    yield suite.critical(
        "patients on one side",
        "at most 1 split each",
        gxe.ExpectColumnMaxToBeBetween,
        column="patient_sides",
        max_value=1,
    )


def _leaks(suite: Suite, facts: manifest.Facts) -> Iterator[gxe.Expectation]:
    level = (
        suite.warn if facts.leaks == "report" else suite.critical
    )  # for benchmarks the leak is recorded, and never promoted
    yield level(
        "no copy on another side",
        f"0 for each {facts.kind}",
        gxe.ExpectColumnMaxToBeBetween,
        column="copies_elsewhere",
        max_value=0,
    )
    yield suite.critical(
        "synthetic images in train alone",
        "none in validation or test data, nor of a patient there",
        gxe.ExpectColumnMaxToBeBetween,
        column="synthetic_aside",
        max_value=0,
    )
    yield suite.critical(
        "leaks as recorded",
        f"at most {facts.leak_pairs} test {facts.kind}s with a copy",
        gxe.ExpectColumnSumToBeBetween,
        column="leaks",
        max_value=facts.leak_pairs,
    )


def classes_expected(suite: Suite, section: params.Validate) -> list[gxe.Expectation]:
    """Return what is expected of the classes of each split."""
    least, share = section.min_samples_per_class, section.min_class_share
    lowest = gxe.ExpectColumnMinToBeBetween
    return [
        suite.critical(
            "every class in every split", f"at least {least} each", lowest, column="samples", min_value=least
        ),
        suite.warn("class balance", f"at least {share:.0%} of train", lowest, column="share_of_train", min_value=share),
    ]


def sides(table: pd.DataFrame, facts: manifest.Facts, samples: Path) -> dict[str, Any]:
    """Return in how many splits a sample's patient stands, its copies on other sides, and 1 where that is a leak."""
    thresholds = provenance.read_lineage(samples)["parameters"]["section"]["leak_thresholds"]
    pairs = leaks.find(table, manifest.Values(samples), params.LeakThresholds.model_validate(thresholds), facts.kind)
    copies = table["sample_id"].map(pd.concat([pairs["sample_a"], pairs["sample_b"]]).value_counts()).fillna(0)
    return {
        "patient_sides": table.groupby("patient_id")["split"].transform("nunique").fillna(1),
        "copies_elsewhere": copies,
        "synthetic_aside": marks.aside(table).astype(int),
        "leaks": ((table["split"] == "test") & (copies > 0)).astype(int),
    }


def classes(table: pd.DataFrame, facts: manifest.Facts) -> pd.DataFrame:
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
