"""What `validate` expects of records: a suite for the samples, and where there are classes one for them."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import great_expectations.expectations as gxe
import numpy as np
import pandas as pd

from medloop import checks, manifest, params

KIND = "table"
OFTEN_MISSING = ("site", "sex", "age_years")
MEASURED = ("variables", "infinite", "missing_share", "spread")
REMEDIES = {
    "no infinite value": "correct the table below ingest.root",
    "one number of variables": "ingest.options.table: leave, unequal",
    "few values missing": "validate.max_missing",
    "values that differ": "look at what the record holds: all its values are the same",
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
    expected += _values_expected(section, len(facts.variables))
    share = f"known for at least {1 - section.max_missing:.0%}"
    expected += [
        SUITE.warn(
            f"{name} known", share, gxe.ExpectColumnValuesToNotBeNull, column=name, mostly=1 - section.max_missing
        )
        for name in OFTEN_MISSING
    ]
    made = {"samples": expected}
    return made | {"classes": checks.classes_expected(SUITE, section)} if facts.classes else made


def _values_expected(section: params.Validate, variables: int) -> Iterator[gxe.Expectation]:
    most, highest = section.max_missing, gxe.ExpectColumnMaxToBeBetween
    between = {"column": "variables", "min_value": variables, "max_value": variables}
    yield SUITE.critical("no infinite value", "none", highest, column="infinite", max_value=0)
    yield SUITE.critical("one number of variables", f"{variables}", gxe.ExpectColumnValuesToBeBetween, **between)
    yield SUITE.critical(
        "values that differ", "two in each record", gxe.ExpectColumnMinToBeBetween, column="spread", min_value=1e-9
    )
    yield SUITE.warn(
        "few values missing", f"at most {most:.0%} of a record", highest, column="missing_share", max_value=most
    )


def _measured(table: pd.DataFrame, samples: Path) -> dict[str, Any]:
    """Return what one pass over the values measures of each sample."""
    values = manifest.Values(samples)
    found = np.zeros((len(table), len(MEASURED)))
    for i, row in enumerate(manifest.rows(table)):
        record = values[row]
        known = record[np.isfinite(record)]
        spread = float(np.ptp(known)) if len(known) > 1 else float(record.size == 1)
        found[i] = record.size, np.isinf(record).sum(), np.isnan(record).mean(), spread
    return dict(zip(MEASURED, found.T, strict=True))
