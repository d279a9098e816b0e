"""Finds samples that stand in two splits: `ingest` drops or refuses them, `validate` sees that none is left."""

import numpy as np
import pandas as pd

from medloop import kinds, manifest, params, plugins

COLUMNS = ["sample_a", "sample_b", "split_a", "split_b", "label_a", "label_b", "kind", "correlation", "conflicting"]


def find(
    table: pd.DataFrame, values: manifest.Values, thresholds: params.LeakThresholds, kind: str = "image"
) -> pd.DataFrame:
    """Return the pairs of samples in different splits that hold the same, one row a pair.

    `sample_a` stands in the split that matters more (test, then val). `kind` is "identical" for equal shape, type and
    values, else "near", as the `kind` of sample finds it; `correlation` is of the aligned pixels; `conflicting` says
    that the labels differ.
    """
    if table.empty:
        return pd.DataFrame(columns=COLUMNS)
    rows = table.reset_index(drop=True)
    places = {split: np.flatnonzero(rows["split"] == split) for split in manifest.SPLITS}
    sides = [(places["test"], np.append(places["val"], places["train"])), (places["val"], places["train"])]
    found = [_identical(rows, a, b) for a, b in sides]
    found.append(plugins.load(kinds, kind).near_copies(rows, values, sides, thresholds).assign(kind="near"))
    pairs = pd.concat(found).drop_duplicates(["a", "b"], ignore_index=True)
    return _described(rows, pairs)


def to_drop(pairs: pd.DataFrame) -> set[str]:
    """Return the ids to leave out so that no pair is left: never a test sample, and a train copy before a val copy."""
    beside_test = pairs["split_a"] == "test"
    dropped = set(pairs.loc[beside_test, "sample_b"])
    rest = pairs[~beside_test & ~pairs["sample_a"].isin(dropped)]
    return dropped | set(rest["sample_b"])


def refusal(pairs: pd.DataFrame, noun: str = "image") -> str:
    """Return what `Refused` says of `pairs`: how many between which splits, with which labels, and what to do."""
    counts = pairs.groupby(["split_a", "split_b", "kind"]).size().reset_index(name="n")
    between = ", ".join(f"{row.n} {row.kind} between {row.split_a} and {row.split_b}" for row in counts.itertuples())
    conflicting = int(pairs["conflicting"].sum())
    shown = pairs.sort_values(["conflicting", "correlation"], ascending=False, kind="stable").head(5)
    examples = "\n".join(
        f"  {row.sample_a} ({row.split_a}, {row.label_a}) = {row.sample_b} ({row.split_b}, {row.label_b}), "
        f"{row.kind}, correlation {row.correlation:.3f}"
        for row in shown.itertuples()
    )
    return (
        f"no {noun} may stand on two sides, got {len(pairs)} pairs: {between}; {conflicting} with conflicting labels\n"
        f"{examples}\nmend the source, or set ingest.leaks: drop (leaves out the train or validation copy) "
        "or report (for benchmarks: such a model cannot be promoted)"
    )


def _identical(table: pd.DataFrame, first: np.ndarray, second: np.ndarray) -> pd.DataFrame:
    digests = table["content_sha256"]
    short = np.fromiter((int(digest[:16], 16) for digest in digests), np.uint64, len(digests))
    first, second = first[np.isin(short[first], short[second])], second[np.isin(short[second], short[first])]
    a = pd.DataFrame({"a": first, "digest": digests.iloc[first].array})  # few are left: to join all takes much memory
    b = pd.DataFrame({"b": second, "digest": digests.iloc[second].array})
    return a.merge(b, on="digest")[["a", "b"]].assign(kind="identical", correlation=1.0)


def _described(table: pd.DataFrame, pairs: pd.DataFrame) -> pd.DataFrame:
    columns: dict[str, pd.Series] = {}
    for side in "ab":
        rows = table.iloc[pairs[side].to_numpy(np.int64)].reset_index(drop=True)
        columns |= {f"sample_{side}": rows["sample_id"], f"split_{side}": rows["split"], f"label_{side}": rows["label"]}
    made = pd.DataFrame(columns)
    made["kind"], made["correlation"] = pairs["kind"].astype("str"), pairs["correlation"].astype("float64")
    return made.assign(conflicting=_sets(made["label_a"]) != _sets(made["label_b"]))[COLUMNS]


def _sets(labels: pd.Series) -> pd.Series:
    """Return labels as sets: several labels say the same in any order."""
    return labels.fillna("").map(lambda joined: frozenset(joined.split("|"))).astype(object)
