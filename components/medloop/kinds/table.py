"""Tables: the variables of a record, (V,) float32, NaN where there is no value; genes, laboratory values, findings.

What is fitted (means, medians, categories) is fitted on train alone.
"""

import io
import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from medloop import elastic_net, manifest, params, ranking, tabular
from medloop.errors import Refused
from medloop.kinds import Form, Part
from medloop.sources import Sample

NOUN, NOUNS = "record", "records"
NEAR_COPIES = False
WINDOWS = False
SIZED_BY = "preprocess.table"
INPUT_UNITS = "float32, as medloop's preprocessing makes them (preprocessing.features), of unit variance over train"
Unreadable = tabular.Unreadable

PACKAGES = ("numpy",)
INDEX = ["sample_id", "patient_id", "site", "sex", "age_years", "label", "content_sha256"]
BLOCK = 1024  # records looked at together, so that memory stays flat
PICTURED = 8  # features of a record, those farthest from the mean

COLUMN = "table"
DECODER = tabular
REQUIREMENTS: tuple[str, ...] = ()
SUFFIXES = {".csv", ".tsv", ".json"}
WANTED = f"records in files that end in {', '.join(sorted(SUFFIXES))}"


def units(preprocessing: Mapping[str, Any]) -> str:  # noqa: ARG001
    """Return what one array is called, in the plural."""
    return NOUNS


def check(sample: Sample) -> None:
    """Raise Unreadable unless the values are (V,) float32, some of them numbers and none infinite."""
    if sample.values.dtype != np.float32 or sample.values.ndim != 1:
        raise Unreadable(f"a record must be (V,) float32, got {sample.values.shape} {sample.values.dtype}")
    if np.isinf(sample.values).any():
        raise Unreadable("a record must hold finite numbers")
    if np.isnan(sample.values).all():
        raise Unreadable("a record without a single value")


def perceptual_hash(values: np.ndarray) -> int | None:  # noqa: ARG001
    """Return None: records that look alike are another matter."""
    return None


def near_copies(
    rows: pd.DataFrame,  # noqa: ARG001
    values: manifest.Values,  # noqa: ARG001
    sides: Sequence[tuple[np.ndarray, np.ndarray]],  # noqa: ARG001
    thresholds: params.LeakThresholds,  # noqa: ARG001
) -> pd.DataFrame:
    """Return no pair: two patients may have like findings, and only what is the same to the byte is a copy."""
    return pd.DataFrame({"a": np.array([], np.int64), "b": np.array([], np.int64), "correlation": np.array([])})


def form(table: pd.DataFrame, values: manifest.Values, facts: manifest.Facts, section: params.Preprocess) -> Form:
    """Return the form of the arrays: (F,) float32, its constants fitted on train.

    Memory: the train side, four bytes a value.

    Raises:
        Refused: values are missing and are not to be, a named variable does not exist, or a logarithm of less than -1.
    """
    wanted, names = section.table, list(facts.variables)
    _check_named(names, wanted)
    absent = sum((np.isnan(block).sum(axis=0) for block in _blocks(table, values)), np.zeros(len(names), np.int64))
    if wanted.missing == "refuse" and absent.any():
        worst = int(absent.argmax())
        raise Refused(
            f"{int((absent > 0).sum())} of {len(names)} variables have records without a value, most {names[worst]} "
            f"({absent[worst]} of {len(table)}): set preprocess.table.missing: median or indicator, or leave the "
            "variables out in ingest.options"
        )
    train = np.concatenate(list(_blocks(table[table["split"] == "train"], values)))
    levels = [(names.index(name), _levels(train[:, names.index(name)], name)) for name in wanted.categorical]
    plain = [place for place, name in enumerate(names) if name not in wanted.categorical]
    what: dict[str, Any] = {
        "variables": names,
        "codes": facts.record.get("codes", {}),
        "aside": facts.record.get("aside", []),
        "missing": wanted.missing,
        "clip": None if wanted.clip is None else list(wanted.clip),
        "log1p": wanted.log1p,
        "standardise": wanted.standardise,
        "numeric": plain,
        "levels": levels,
        "flags": np.flatnonzero(np.isnan(train).any(axis=0)).tolist() if wanted.missing == "indicator" else [],
    }
    if wanted.log1p and wanted.clip is None and np.nanmin(train[:, plain], initial=0) <= -1:
        raise Refused("preprocess.table.log1p needs values above -1: set preprocess.table.clip, e.g. [0, 1.0e+6]")
    numbers = tabular.transformed(train[:, plain], what).astype(np.float64)
    if wanted.most_varied:
        spread = np.nan_to_num(_moment(np.nanvar, numbers))
        best = np.sort(np.argsort(-spread, kind="stable")[: wanted.most_varied])
        plain, numbers = [plain[i] for i in best], numbers[:, best]
    middle = np.nan_to_num(_moment(np.nanmedian, numbers))
    filled = np.where(np.isnan(numbers), middle, numbers)
    std = filled.std(axis=0)
    constants = {"middle": middle, "mean": filled.mean(axis=0), "std": np.where(std > 1e-6, std, 1.0)}
    what |= {"plain": plain} | {name: _short(found) for name, found in constants.items()}
    what["features"] = [
        *(names[place] for place in plain),
        *(f"{names[place]} = {level:g}" for place, found in levels for level in found),
        *(f"{names[place]} missing" for place in what["flags"]),
    ]
    return Form((len(what["features"]),), "float32", json.loads(json.dumps(what)))


def counts(rows: pd.DataFrame, form: Form) -> np.ndarray:  # noqa: ARG001
    """Return (N,) ones: a record is one array."""
    return np.ones(len(rows), np.int64)


def index(rows: pd.DataFrame, form: Form) -> pd.DataFrame:  # noqa: ARG001
    """Return what is known of each array."""
    return rows[INDEX]


def arrays(rows: pd.DataFrame, values: manifest.Values, form: Form) -> Iterator[memoryview]:
    """Yield features (n, F) float32, block after block, in the order of `rows`.

    Raises:
        Refused: a record holds a category that train does not have.
    """
    for block in _blocks(rows, values):
        try:
            yield np.ascontiguousarray(tabular.features(block, form.preprocessing)).data
        except Unreadable as error:
            raise Refused(f"a record cannot be taken: {error}; see preprocess.table, or leave it out") from None


def targets(rows: pd.DataFrame, values: manifest.Values, form: Form) -> np.ndarray | None:  # noqa: ARG001
    """Return None: a record says nothing of its own future."""
    return None


def floors(
    inputs: Sequence[np.ndarray],
    labels: np.ndarray,
    patients: Sequence[str],
    about: Mapping[str, Any],
    section: params.Preprocess,
    seed: int,
    questions: np.ndarray | None,
) -> dict[str, Any]:
    """Return the elastic net: of classes, with the ranking of the features, or one for each of the `questions`.

    Args:
        inputs: (N, F) of train, then of validation data.
        labels: of both together.
        patients: of each record of both.
        about: about.json.
        section: how often the patients are drawn again.
        seed: of the folds.
        questions: (N, K) of both, what the logits of a task answer, see medloop/tasks; None: which class.
    """
    rows = elastic_net.drawn(patients, seed)
    both = np.concatenate([part[rows[(rows >= begin) & (rows < begin + len(part))] - begin]
                           for begin, part in zip((0, len(inputs[0])), inputs, strict=True)])  # fmt: skip
    own = [patients[row] for row in rows]
    if questions is not None:
        return {elastic_net.NAME: elastic_net.beside_each(both, labels[rows], questions[rows], own, seed)}
    entry = elastic_net.beside(both, labels[rows], own, len(about["classes"]), seed)
    if section.table.resamples:
        names, resamples = about["preprocessing"]["features"], section.table.resamples
        entry["ranking"] = ranking.ranked(both, labels[rows], own, names, entry, resamples=resamples, seed=seed)
    return {elastic_net.NAME: entry}


def augment(
    arrays: np.ndarray, section: params.Augment, random: np.random.Generator, part: Part | None = None
) -> np.ndarray:
    """Return copies of features (N, F) with `noise` added.

    Raises:
        Refused: a change that only images know.
    """
    if section == params.Augment():
        return arrays
    if other := {name for name, value in section if value} - {"noise"}:
        raise Refused(f"train.augment: tables know noise, not {', '.join(sorted(other))}: set it to 0")
    part = part or Part(len(arrays), slice(None))
    noise = random.standard_normal((part.count, *arrays.shape[1:]), np.float32)[part.rows]
    return np.asarray(arrays + section.noise * noise, np.float32)


def described(card: Mapping[str, Any]) -> str:
    """Return the network's input in words."""
    what = card["preprocessing"]
    more = [f"clipped to {what['clip'][0]:g} to {what['clip'][1]:g}"] if what["clip"] else []
    more += ["as logarithms"] if what["log1p"] else []
    more += ["each record standardised over its variables"] if what["standardise"] == "record" else []
    missing = {"refuse": "none missing", "median": "medians of train for missing ones"}
    more += [missing.get(what["missing"], f"medians of train for missing ones, {len(what['flags'])} indicators")]
    return f"{len(what['features'])} numbers of {len(what['variables'])} variables, {', '.join(more)}"


def picture(array: np.ndarray, card: Mapping[str, Any], marks: Mapping[str, float]) -> tuple[str, bytes]:  # noqa: ARG001
    """Return the features farthest from the mean of train as bars, in standard deviations, as SVG."""
    import matplotlib as mpl
    from matplotlib.figure import Figure

    far = np.argsort(-np.abs(array), kind="stable")[:PICTURED][::-1]
    names = [card["preprocessing"]["features"][place] for place in far]
    figure = Figure(figsize=(2.6, 1.9), layout="constrained")
    axes = figure.subplots()
    axes.barh(range(len(far)), array[far], color="#0072b2")
    axes.set_yticks(range(len(far)), [name if len(name) <= 16 else f"{name[:15]}…" for name in names], parse_math=False)
    axes.axvline(0, color="0.3", linewidth=0.8)
    axes.set_xlabel("standard deviations from the mean", fontsize=7)
    axes.tick_params(labelsize=7)
    axes.spines[["top", "right"]].set_visible(False)
    text = io.StringIO()
    with mpl.rc_context({"svg.hashsalt": "medloop"}):  # the same bytes for the same record
        figure.savefig(text, format="svg", metadata={"Date": None, "Creator": None})
    return "image/svg+xml", text.getvalue().encode()


def example(card: Mapping[str, Any]) -> bytes:
    """Return the record of nobody: medians, and the first of each variable's categories."""
    what = card["preprocessing"]
    record = np.zeros(len(what["variables"]), np.float32)
    middle = np.asarray(what["middle"])
    record[what["plain"]] = np.expm1(middle) if what["log1p"] else middle
    for place, levels in what["levels"]:
        record[place] = levels[0]
    return tabular.encode(record, what["variables"])


def is_input(path: Path) -> bool:
    """Tell by its suffix whether a file holds records."""
    return path.suffix.lower() in SUFFIXES


def cells(content: bytes, name: str, preprocessing: Mapping[str, Any]) -> Iterator[tuple[str, str, bytes]]:
    """Yield each record of a file as one of its own, called by its number; a record that lacks a cell is its own error.

    Raises:
        Unreadable: the file holds no records, or others than those of the model's variables.
    """
    header, found = tabular.objects(content)
    if header is not None:
        tabular.check_names(header, preprocessing)
    for number, record in enumerate(found, 1):
        key = f"{name}#{number}"
        yield key, key, json.dumps([record]).encode()


def encoded(row: Any, values: np.ndarray, preprocessing: Mapping[str, Any]) -> Iterator[tuple[int | None, bytes]]:  # noqa: ARG001
    """Yield the one cell of a packed record."""
    yield None, tabular.encode(values, preprocessing["variables"])


def paired(preprocessing: Mapping[str, Any]) -> dict[str, Any]:
    """Return the variables: two models are compared on the same ones."""
    return {"variables": preprocessing["variables"]}


def _blocks(rows: pd.DataFrame, values: manifest.Values) -> Iterator[np.ndarray]:
    """Yield records (n, V)."""
    for begin in range(0, len(rows), BLOCK):
        yield np.stack(list(values.each(rows.iloc[begin : begin + BLOCK])))


def _check_named(names: Sequence[str], wanted: params.Tables) -> None:
    if unknown := [name for name in wanted.categorical if name not in names]:
        raise Refused(f"preprocess.table.categorical: there is no variable {unknown[0]!r} among the {len(names)}")


def _levels(column: np.ndarray, name: str) -> list[float]:
    found = np.unique(column[~np.isnan(column)])
    if len(found) > 64:
        raise Refused(f"preprocess.table.categorical: {name} has {len(found)} values in train, more than 64")
    return [float(level) for level in found]


def _moment(compute: Any, numbers: np.ndarray) -> np.ndarray:
    """Return what `compute` says of each column, NaN of one without a value."""
    known = ~np.isnan(numbers).all(axis=0)
    found = np.full(numbers.shape[1], np.nan)
    found[known] = compute(numbers[:, known], axis=0)
    return found


def _short(values: np.ndarray) -> list[float]:
    """Return numbers that are float32 to the bit, as texts of few digits hold them."""
    return [float(value) for value in np.asarray(values, np.float32)]
