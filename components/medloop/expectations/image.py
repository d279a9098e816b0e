"""What `validate` expects of images: a suite for the samples and one for the classes of each split."""

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import great_expectations.expectations as gxe
import numpy as np
import pandas as pd

from medloop import checks, drawn, manifest, params

KIND = "image"
OFTEN_MISSING = ("site", "sex", "age_years", "spacing_mm")
MEASURED = ("height_px", "width_px", "pixel_max", "pixel_range", "above_depth", "saturated_share")
REMEDIES = {
    "no empty image": "take the image out below ingest.root",
    "no constant image": "take the image out below ingest.root",
    "pixels within their bits": "correct the bits that the files give, or take them out below ingest.root",
    "bit depth": "validate.bit_depths",
    "height_px": "validate.size_px",
    "width_px": "validate.size_px",
    "few pixels at the ends of the scale": "validate.max_saturated",
    **{f"{name} known": "validate.max_missing" for name in OFTEN_MISSING},
    **drawn.REMEDIES,
}
SUITE = checks.Suite(REMEDIES)


def tables(samples: Path) -> dict[str, pd.DataFrame]:
    """Return what the suites are about: `samples`, a row a sample, and `classes`, a row a split and class.

    A class of masks or boxes has the samples that show it.
    """
    table, facts = manifest.read(samples)
    measured = table.assign(**_pixels(table, samples), **checks.sides(table, facts, samples))
    if not facts.classes:
        return {"samples": measured}
    if not facts.masks and not facts.boxes:
        return {"samples": measured, "classes": checks.classes(table, facts)}
    columns, shown = drawn.measured(table, facts, manifest.Values(samples))
    classes = checks.classes(table.assign(label=shown), replace(facts, multi_label=True))
    return {"samples": measured.assign(**columns), "classes": classes}


def suites(section: params.Validate, samples: Path) -> dict[str, list[gxe.Expectation]]:
    """Return the expectations of each table; `meta` holds their level, what they are called, and what is wanted."""
    _, facts = manifest.read(samples)
    measured = (*MEASURED, *drawn.columns(facts))
    expected = checks.expected(SUITE, facts, measured, numbers=("perceptual_hash", "bit_depth"))
    expected += _pixels_expected(section)
    expected += drawn.expected(SUITE, facts, section)
    share = f"known for at least {1 - section.max_missing:.0%}"
    expected += [
        SUITE.warn(
            f"{name} known", share, gxe.ExpectColumnValuesToNotBeNull, column=name, mostly=1 - section.max_missing
        )
        for name in OFTEN_MISSING
    ]
    return {"samples": expected, "classes": checks.classes_expected(SUITE, section)}


def _pixels_expected(section: params.Validate) -> Iterator[gxe.Expectation]:
    depths, most = list(section.bit_depths), section.max_saturated
    known = gxe.ExpectColumnValuesToNotBeNull
    least, highest = gxe.ExpectColumnMinToBeBetween, gxe.ExpectColumnMaxToBeBetween
    yield SUITE.critical("perceptual_hash present", "in every row", known, column="perceptual_hash")
    yield SUITE.critical("bit_depth present", "in every row", known, column="bit_depth")
    yield SUITE.critical("no empty image", "a pixel above 0", least, column="pixel_max", min_value=1)
    yield SUITE.critical("no constant image", "at least two values", least, column="pixel_range", min_value=1)
    yield SUITE.critical("pixels within their bits", "none above", highest, column="above_depth", max_value=0)
    yield SUITE.critical(
        "bit depth", f"one of {depths}", gxe.ExpectColumnValuesToBeInSet, column="bit_depth", value_set=depths
    )
    for name, side in zip(("height_px", "width_px"), section.size_px or (), strict=False):
        between = {"column": name, "min_value": side, "max_value": side}
        yield SUITE.critical(name, f"{side}", gxe.ExpectColumnValuesToBeBetween, **between)
    yield SUITE.warn(
        "few pixels at the ends of the scale", f"at most {most:.0%}", highest, column="saturated_share", max_value=most
    )


def _pixels(table: pd.DataFrame, samples: Path) -> dict[str, Any]:
    """Return what one pass over the pixels measures of each sample."""
    pixels = manifest.Values(samples)
    found = np.zeros((len(table), len(MEASURED)))
    for i, row in enumerate(manifest.rows(table)):
        image = pixels[row]
        low, high = int(image.min()), int(image.max())
        at_the_ends = np.count_nonzero((image == low) | (image == high)) / image.size
        found[i] = *image.shape[:2], high, high - low, max(0, high - (2 ** int(row.bit_depth) - 1)), at_the_ends
    return dict(zip(MEASURED, found.T, strict=True))
