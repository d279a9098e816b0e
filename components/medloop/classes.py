"""Which classes a data set has, and whether every sample is told what its source promises: labels, masks or boxes."""

from collections import Counter
from collections.abc import Mapping
from types import ModuleType
from typing import Any

import pandas as pd

from medloop import manifest, params
from medloop.errors import Refused


def found(
    source: ModuleType, options: params.Section, section: params.Ingest, table: pd.DataFrame, said: Mapping[str, Any]
) -> tuple[str, ...]:
    """Return the classes in label order: of what the source says, else of the labels that came.

    Raises:
        Refused: `ingest.order` names others.
    """
    if "classes" in said:  # of masks or boxes
        return tuple(said["classes"])
    if table["label"].isna().all():
        return ()
    if hasattr(source, "classes"):
        names = tuple(source.classes(options))
    else:
        names = tuple(sorted(set(_labels(table["label"].dropna(), multi_label(source, options)))))
    if section.order is None:
        return names
    if sorted(section.order) != sorted(names):
        raise Refused(
            f"ingest.order must name each class once, from the lowest to the highest: the classes are "
            f"{', '.join(names)}, it names {', '.join(section.order)}"
        )
    return section.order


def multi_label(source: ModuleType, options: params.Section) -> bool:
    """Tell whether a sample may have several labels, or none."""
    return source.multi_label(options) if hasattr(source, "multi_label") else False


def check(table: pd.DataFrame, facts: manifest.Facts) -> None:
    """Raise Refused where samples lack what others have, show an unknown class, or leave a side empty."""
    if facts.masks or facts.boxes:
        _check_drawn(table, facts)
    elif facts.classes or facts.multi_label:
        _check_labels(table, facts)
    _check_sides(table)


def counts(table: pd.DataFrame, facts: manifest.Facts) -> dict[str, dict[str, int]]:
    """Return how many samples each class has in each split, or without labels how many there are."""
    if not facts.classes or facts.masks or facts.boxes:
        return {split: {"samples": int((table["split"] == split).sum())} for split in manifest.SPLITS}
    found = {split: Counter(_labels(rows["label"], facts.multi_label)) for split, rows in table.groupby("split")}
    return {split: {name: found[split][name] for name in facts.classes} for split in manifest.SPLITS}


def _check_drawn(table: pd.DataFrame, facts: manifest.Facts) -> None:
    for wanted, column, name in ((facts.masks, "mask_offset", "a mask"), (facts.boxes, "boxes", "a list of boxes")):
        if wanted and (missing := int(table[column].isna().sum())):
            raise Refused(
                f"every sample must have {name}, {missing} of {len(table)} have none: of one without any object it is "
                "empty"
            )
    found = {label for labels in table["box_labels"].dropna() for label in labels}
    if facts.boxes and (unknown := sorted(found - set(facts.classes))):
        raise Refused(f"boxes must be of {', '.join(facts.classes)}, got {', '.join(unknown)}")


def _check_labels(table: pd.DataFrame, facts: manifest.Facts) -> None:
    if unlabelled := int(table["label"].isna().sum()):
        raise Refused(f"every sample or none must have a label, {unlabelled} of {len(table)} have none")
    found = set(_labels(table["label"], facts.multi_label))
    if unknown := sorted(found - set(facts.classes)):
        raise Refused(f"labels must be of {', '.join(facts.classes)}, got {', '.join(unknown)}")
    if not found and facts.multi_label:
        raise Refused("there must be at least one label that a sample has, none has any: check the labels")
    if len(found) < 1 + (not facts.multi_label):
        raise Refused(f"there must be at least two classes, got only {', '.join(found) or 'none'}: check the labels")


def _check_sides(table: pd.DataFrame) -> None:
    patients = (
        table.assign(patient=table["patient_id"].fillna(table["sample_id"])).groupby("split")["patient"].nunique()
    )
    if empty := [split for split in manifest.SPLITS if split not in patients.index]:
        shares = ", ".join(f"{split} {patients.get(split, 0)}" for split in manifest.SPLITS)
        raise Refused(
            f"no sample stands in {' or '.join(empty)} (patients: {shares}): add patients, or change the shares or the "
            "salt in ingest.split"
        )


def _labels(column: pd.Series, multi_label: bool) -> list[str]:
    """Return every label in `column`: of several, each one; of none, none."""
    if not multi_label:
        return list(column)
    return [label for joined in column for label in joined.split("|") if label]
