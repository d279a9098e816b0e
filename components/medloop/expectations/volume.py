"""What `validate` expects of volumes: a suite for the samples, and where there are classes one for them."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import great_expectations.expectations as gxe
import numpy as np
import pandas as pd

from medloop import checks, manifest, params, volumes

KIND = "volume"
OFTEN_MISSING = ("site", "sex", "age_years", "spacing_mm")
MEASURED = ("shortest_side", "not_finite", "voxel_range", "anisotropy", "end_share")
REMEDIES = {
    "no voxel that is no number": "take the volume out below ingest.root",
    "no constant volume": "take the volume out below ingest.root",
    "no flat volume": "take the volume out below ingest.root",
    "voxels with equal sides": "preprocess.volume.spacing_mm",
    "few voxels at the ends of the scale": "validate.max_saturated",
    **{f"{name} known": "validate.max_missing" for name in OFTEN_MISSING},
}
SUITE = checks.Suite(REMEDIES)


def tables(samples: Path) -> dict[str, pd.DataFrame]:
    """Return what the suites are about: `samples`, a row a sample, and `classes`, a row a split and class."""
    table, facts = manifest.read(samples)
    measured = table.assign(**_measured(table, samples), **checks.sides(table, facts, samples))
    return {"samples": measured, "classes": checks.classes(table, facts)} if facts.classes else {"samples": measured}


def suites(section: params.Validate, samples: Path) -> dict[str, list[gxe.Expectation]]:
    """Return the expectations of each table; `meta` holds their level, what they are called, and what is wanted."""
    _, facts = manifest.read(samples)
    expected = checks.expected(SUITE, facts, MEASURED, numbers=())
    expected += _voxels_expected(section)
    share = f"known for at least {1 - section.max_missing:.0%}"
    expected += [
        SUITE.warn(
            f"{name} known", share, gxe.ExpectColumnValuesToNotBeNull, column=name, mostly=1 - section.max_missing
        )
        for name in OFTEN_MISSING
    ]
    made = {"samples": expected}
    return made | {"classes": checks.classes_expected(SUITE, section)} if facts.classes else made


def _voxels_expected(section: params.Validate) -> Iterator[gxe.Expectation]:
    most, above = section.max_saturated, 1e-9
    least, highest = gxe.ExpectColumnMinToBeBetween, gxe.ExpectColumnMaxToBeBetween
    yield SUITE.critical("no voxel that is no number", "none", highest, column="not_finite", max_value=0)
    yield SUITE.critical("no constant volume", "at least two values", least, column="voxel_range", min_value=above)
    yield SUITE.critical("no flat volume", "2 voxels each side", least, column="shortest_side", min_value=2)
    yield SUITE.warn(
        "voxels with equal sides",
        f"the longest within {volumes.UNEQUAL - 1:.0%} of the shortest",
        highest,
        column="anisotropy",
        max_value=volumes.UNEQUAL,
    )
    yield SUITE.warn(
        "few voxels at the ends of the scale", f"at most {most:.0%}", highest, column="end_share", max_value=most
    )


def _measured(table: pd.DataFrame, samples: Path) -> dict[str, Any]:
    """Return what one pass over the voxels measures of each sample."""
    values = manifest.Values(samples)
    found = np.zeros((len(table), len(MEASURED)))
    for i, row in enumerate(manifest.rows(table)):
        volume, spacing = values[row], row.spacing_mm
        low, high = float(volume.min()), float(volume.max())
        bad = np.count_nonzero(~np.isfinite(volume))
        ends = np.count_nonzero((volume == low) | (volume == high)) / volume.size
        unequal = 1.0 if spacing is None else max(spacing) / min(spacing)
        found[i] = min(volume.shape), bad, high - low, unequal, ends
    return dict(zip(MEASURED, found.T, strict=True))
