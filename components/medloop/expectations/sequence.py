"""What `validate` expects of sequences: a suite for the samples, and where there are classes one for them."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import great_expectations.expectations as gxe
import numpy as np
import pandas as pd

from medloop import checks, manifest, params

KIND = "sequence"
OFTEN_MISSING = ("site", "sex", "age_years", "rate_hz")
MEASURED = ("length", "leads", "not_finite", "range", "still_share", "overlap")
REMEDIES = {
    "no value that is no number": "take the record out below ingest.root, or the lead out of ingest.options",
    "no flat signal": "take the record out below ingest.root, or the lead out of ingest.options",
    "few moments without a change": "validate.max_saturated",
    "one number of leads": "ingest.options: choose the leads that all records have",
    "stretches apart": "the source must cut recordings so that no moment stands on two sides",
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
    table, facts = manifest.read(samples)
    expected = checks.expected(SUITE, facts, MEASURED, numbers=())
    expected += _signals_expected(section, int(table["shape"].iloc[0][1]) if len(table) else 1)
    share = f"known for at least {1 - section.max_missing:.0%}"
    expected += [
        SUITE.warn(
            f"{name} known", share, gxe.ExpectColumnValuesToNotBeNull, column=name, mostly=1 - section.max_missing
        )
        for name in OFTEN_MISSING
    ]
    made = {"samples": expected}
    return made | {"classes": checks.classes_expected(SUITE, section)} if facts.classes else made


def _signals_expected(section: params.Validate, leads: int) -> Iterator[gxe.Expectation]:
    most, above = section.max_saturated, 1e-9
    least, highest = gxe.ExpectColumnMinToBeBetween, gxe.ExpectColumnMaxToBeBetween
    between = {"column": "leads", "min_value": leads, "max_value": leads}
    yield SUITE.critical("no value that is no number", "none", highest, column="not_finite", max_value=0)
    yield SUITE.critical("no flat signal", "two values in every lead", least, column="range", min_value=above)
    yield SUITE.critical("one number of leads", f"{leads}", gxe.ExpectColumnValuesToBeBetween, **between)
    yield SUITE.critical("stretches apart", "0 moments on two sides", highest, column="overlap", max_value=0)
    yield SUITE.warn(
        "few moments without a change", f"at most {most:.0%}", highest, column="still_share", max_value=most
    )


def _measured(table: pd.DataFrame, samples: Path) -> dict[str, Any]:
    """Return what one pass over the values measures of each sample."""
    values = manifest.Values(samples)
    found = np.zeros((len(table), len(MEASURED)))
    for i, row in enumerate(manifest.rows(table)):
        signal = values[row]
        bad = int(np.count_nonzero(~np.isfinite(signal)))
        spread = float(np.min(signal.max(axis=0) - signal.min(axis=0)))
        still = np.count_nonzero(np.diff(signal, axis=0) == 0) / max(1, signal.size - signal.shape[1])
        found[i] = *signal.shape, bad, spread, still, 0
    return dict(zip(MEASURED, found.T, strict=True)) | {"overlap": _overlap(table)}


def _overlap(table: pd.DataFrame) -> np.ndarray:
    """Return (N,) how many moments of each sample lie in another side's, of the recordings whose places are known."""
    shared = np.zeros(len(table))
    starts = table["start"].to_numpy(np.float64)
    ends = starts + np.array([shape[0] for shape in table["shape"]], np.float64)
    for recording in table["study_id"].dropna().unique():
        places = np.flatnonzero(table["study_id"] == recording)
        order = places[np.argsort(starts[places], kind="stable")]
        reach: dict[str, float] = {}  # of each side, where its samples have ended so far
        for i in order:
            side = table["split"].iloc[i]
            others = [end for name, end in reach.items() if name != side]
            shared[i] = max(0.0, max(others, default=-np.inf) - starts[i])
            reach[side] = max(reach.get(side, -np.inf), ends[i])
    return shared
