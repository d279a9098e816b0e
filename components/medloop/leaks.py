"""Finds images that stand in two splits: `ingest` drops or refuses them, `validate` sees that none is left."""

import math
import os
import tempfile

import cv2
import numpy as np
import pandas as pd

from medloop import manifest, params, twins

COLUMNS = ["sample_a", "sample_b", "split_a", "split_b", "label_a", "label_b", "kind", "correlation", "conflicting"]
SIDES_PX = (28, 96)  # images are compared at their own size within these


def find(table: pd.DataFrame, pixels: manifest.Pixels, thresholds: params.LeakThresholds) -> pd.DataFrame:
    """Return the pairs of samples in different splits that hold the same picture, one row a pair.

    `sample_a` stands in the split that matters more (test, then val). `kind` is "identical" for equal shape, type and
    pixels, else "near"; `correlation` is of the aligned pixels; `conflicting` says that the labels differ.
    Memory: about 400 MB, however many samples there are to compare; on disk, for its time, 3 to 37 kB a sample.
    """
    if table.empty:
        return pd.DataFrame(columns=COLUMNS)
    rows = table.reset_index(drop=True)
    images = _shrunk(rows, pixels)
    places = {split: np.flatnonzero(rows["split"] == split) for split in manifest.SPLITS}
    sides = [(places["test"], np.append(places["val"], places["train"])), (places["val"], places["train"])]
    found = [_identical(rows, a, b) for a, b in sides]
    found += [twins.find(images, a, b, thresholds).assign(kind="near") for a, b in sides]
    pairs = pd.concat(found).drop_duplicates(["a", "b"], ignore_index=True)
    return _described(rows, pairs)


def to_drop(pairs: pd.DataFrame) -> set[str]:
    """Return the ids to leave out so that no pair is left: never a test sample, and a train copy before a val copy."""
    beside_test = pairs["split_a"] == "test"
    dropped = set(pairs.loc[beside_test, "sample_b"])
    rest = pairs[~beside_test & ~pairs["sample_a"].isin(dropped)]
    return dropped | set(rest["sample_b"])


def refusal(pairs: pd.DataFrame) -> str:
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
        f"no image may stand on two sides, got {len(pairs)} pairs: {between}; {conflicting} with conflicting labels\n"
        f"{examples}\nmend the source, or set ingest.leaks: drop (leaves out the train or validation copy) "
        "or report (for benchmarks: such a model cannot be promoted)"
    )


def _shrunk(table: pd.DataFrame, pixels: manifest.Pixels) -> np.ndarray:
    """Return gray images (N, S, S) float32 of zero mean and unit variance, in a file without a name.

    S is the usual shorter side, held within SIDES_PX; a constant image is zeros.
    """
    usual = np.median(np.minimum(table["height_px"], table["width_px"]))
    side = int(np.clip(usual, *SIDES_PX))
    images = _scratch((len(table), side, side))
    for place, image in zip(images, pixels.each(table), strict=True):
        small = cv2.resize(image, (side, side), interpolation=cv2.INTER_AREA)
        gray = small.astype(np.float32) if small.ndim == 2 else small.mean(axis=2, dtype=np.float32)
        gray -= gray.mean()
        place[:] = gray / max(gray.std(), 1e-3)
    return images


def _scratch(shape: tuple[int, ...]) -> np.ndarray:
    """Return an array of float32 in a file that goes with it.

    Raises:
        OSError: no room for it; writing to a mapped file that finds none would kill the process.
    """
    with tempfile.TemporaryFile() as file:
        os.posix_fallocate(file.fileno(), 0, 4 * math.prod(shape))
        return np.memmap(file, np.float32, "r+", shape=shape)


def _identical(table: pd.DataFrame, first: np.ndarray, second: np.ndarray) -> pd.DataFrame:
    digests = table["content_sha256"]
    a = pd.DataFrame({"a": first, "digest": digests.iloc[first].array})
    b = pd.DataFrame({"b": second, "digest": digests.iloc[second].array})
    return a.merge(b, on="digest")[["a", "b"]].assign(kind="identical", correlation=1.0)


def _described(table: pd.DataFrame, pairs: pd.DataFrame) -> pd.DataFrame:
    columns: dict[str, pd.Series] = {}
    for side in "ab":
        rows = table.iloc[pairs[side].to_numpy(np.int64)].reset_index(drop=True)
        columns |= {f"sample_{side}": rows["sample_id"], f"split_{side}": rows["split"], f"label_{side}": rows["label"]}
    made = pd.DataFrame(columns)
    made["kind"], made["correlation"] = pairs["kind"].astype("str"), pairs["correlation"].astype("float64")
    return made.assign(conflicting=made["label_a"] != made["label_b"])[COLUMNS]
