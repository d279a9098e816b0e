"""What `validate` measures and expects of what was drawn on images: masks, instance maps and boxes."""

from collections.abc import Iterator
from typing import Any

import great_expectations.expectations as gxe
import numpy as np
import pandas as pd

from medloop import checks, manifest, params

OF_MASKS = ("mask_beyond", "mask_empty", "mask_share", "instances_off")
OF_BOXES = ("boxes_faulty", "boxes_none")
SOURCE = "correct what was drawn below ingest.root"
REMEDIES = {
    "mask present": SOURCE,
    "mask values are classes": SOURCE,
    "objects are where the mask is": SOURCE,
    "no mask over everything": SOURCE,
    "boxes within their image": SOURCE,
    "images with an object": "validate.max_empty",
    "images with a box": "validate.max_empty",
}


def columns(facts: manifest.Facts) -> tuple[str, ...]:
    """Return what `measured` adds to the samples."""
    return (*(OF_MASKS if facts.masks else ()), *(OF_BOXES if facts.boxes else ()))


def measured(table: pd.DataFrame, facts: manifest.Facts, values: manifest.Values) -> tuple[dict[str, Any], list[str]]:
    """Return the columns of each sample that are measured in one pass, and the classes that it shows, joined by "|"."""
    found: dict[str, list[float]] = {name: [] for name in columns(facts)}
    shown = []
    for row in manifest.rows(table):
        held = set[str]()
        for wanted, measure in ((facts.masks, _mask), (facts.boxes, _boxes)):
            if wanted:
                numbers, names = measure(row, facts, values)
                held |= names
                for name, number in numbers.items():
                    found[name].append(number)
        shown.append("|".join(name for name in facts.classes if name in held))
    return {name: np.array(column, np.float64) for name, column in found.items()}, shown


def expected(suite: checks.Suite, facts: manifest.Facts, section: params.Validate) -> Iterator[gxe.Expectation]:
    """Yield what is expected of masks and boxes, where the samples have them."""
    highest, mean = gxe.ExpectColumnMaxToBeBetween, gxe.ExpectColumnMeanToBeBetween
    if facts.masks:
        wanted, most = f"0 to {len(facts.classes)}", section.max_empty
        known = gxe.ExpectColumnValuesToNotBeNull
        yield suite.critical("mask present", "in every row", known, column="mask_offset")
        yield suite.critical("mask values are classes", wanted, highest, column="mask_beyond", max_value=0)
        yield suite.critical(
            "objects are where the mask is", "no pixel off", highest, column="instances_off", max_value=0
        )
        yield suite.warn("no mask over everything", "some background", highest, column="mask_share", max_value=1 - 1e-9)
        yield suite.warn("images with an object", f"all but {most:.0%}", mean, column="mask_empty", max_value=most)
    if facts.boxes:
        within = "not empty, of a class, inside"
        yield suite.critical("boxes within their image", within, highest, column="boxes_faulty", max_value=0)
    if facts.boxes and not facts.masks:
        most = section.max_empty
        yield suite.warn("images with a box", f"all but {most:.0%}", mean, column="boxes_none", max_value=most)


def _mask(row: Any, facts: manifest.Facts, values: manifest.Values) -> tuple[dict[str, float], set[str]]:
    mask, objects = values.mask(row), values.instances(row)
    if mask is None:  # the expectation of its presence says so
        return dict.fromkeys(OF_MASKS, 0.0), set()
    pixels = np.bincount(mask.ravel(), minlength=256)
    share = 1 - pixels[0] / mask.size
    off = 0 if objects is None else np.count_nonzero((objects > 0) != (mask > 0))
    beyond = max(0, int(mask.max()) - len(facts.classes))
    numbers = dict(zip(OF_MASKS, (beyond, pixels[0] == mask.size, share, off), strict=True))
    return numbers, {name for name, count in zip(facts.classes, pixels[1:], strict=False) if count}


def _boxes(row: Any, facts: manifest.Facts, values: manifest.Values) -> tuple[dict[str, float], set[str]]:  # noqa: ARG001
    boxes, names = ([] if column is None else list(column) for column in (row.boxes, row.box_labels))
    height, width = row.shape[:2]
    faulty = abs(len(boxes) - len(names)) + sum(name not in facts.classes for name in names)
    faulty += sum(not (0 <= x0 < x1 <= width and 0 <= y0 < y1 <= height) for x0, y0, x1, y1 in boxes)
    return {"boxes_faulty": faulty, "boxes_none": not boxes}, set(names)
