"""Sequences: a signal with one or more leads, (T, C) float32, or a stretch of one that stands on one side.

Windows are cut within a sample, so that two which overlap stand on the same side, whatever their length and stride.
"""

import io
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from medloop import manifest, params, signals
from medloop.errors import Refused
from medloop.kinds import Form, Part
from medloop.sources import Sample

NOUN, NOUNS = "sequence", "sequences"
NEAR_COPIES = False
WINDOWS = True
SIZED_BY = "preprocess.sequence"
INPUT_UNITS = "float32 in the unit of the signal (preprocessing.unit), a row a moment, a column a lead"
Unreadable = signals.Unreadable

PACKAGES = ("numpy",)
INDEX = ["sample_id", "patient_id", "site", "sex", "age_years", "label", "content_sha256"]
BLOCK_BYTES = 16 * 2**20  # of windows copied at once, so that memory stays flat

COLUMN = "sequence"
DECODER = signals
REQUIREMENTS: tuple[str, ...] = ()
HEADER = ".hea"  # of a WFDB record
SUFFIXES = {".csv", HEADER, ".npy", ".tsv", ".txt"}
WANTED = f"signals in files that end in {', '.join(sorted(SUFFIXES))}"


def units(preprocessing: Mapping[str, Any]) -> str:
    """Return what one array is called, in the plural."""
    return "windows" if preprocessing["windows"] else NOUNS


def check(sample: Sample) -> None:
    """Raise Unreadable unless the values are (T, C) float32, every one a finite number."""
    if sample.values.dtype != np.float32 or sample.values.ndim != 2:
        raise Unreadable(f"a signal must be (T, C) float32, got {sample.values.shape} {sample.values.dtype}")
    signals.checked(sample.values)


def perceptual_hash(values: np.ndarray) -> int | None:  # noqa: ARG001
    """Return None: signals that look alike are another matter."""
    return None


def near_copies(
    rows: pd.DataFrame,  # noqa: ARG001
    values: manifest.Values,  # noqa: ARG001
    sides: Sequence[tuple[np.ndarray, np.ndarray]],  # noqa: ARG001
    thresholds: params.LeakThresholds,  # noqa: ARG001
) -> pd.DataFrame:
    """Return no pair: heartbeats of two patients may be alike, and only what is the same to the byte is a copy."""
    return pd.DataFrame({"a": np.array([], np.int64), "b": np.array([], np.int64), "correlation": np.array([])})


def form(
    table: pd.DataFrame,
    values: manifest.Values,  # noqa: ARG001
    facts: manifest.Facts,
    section: params.Preprocess,
) -> Form:
    """Return the form of the windows: (L, C) float32, or (L, C + 1) where some are padded.

    Raises:
        Refused: leads, rates or units differ; lengths do, and are not to; a sample is shorter than a window; or the
            stretches of a recording lie nearer to each other than a window is long.
    """
    wanted = section.sequence
    leads = _one({shape[1] for shape in table["shape"]}, "number of leads")
    rate, unit = _one(set(table["rate_hz"].dropna()), "sampling rate"), _one(set(table["unit"].dropna()), "unit")
    lengths = np.array([shape[0] for shape in table["shape"]])
    shortest, longest = int(lengths.min()), int(lengths.max())
    mask = False
    if wanted.window is None:
        mask = shortest < longest
        if mask and wanted.unequal == "refuse":
            raise Refused(
                f"sequences must be of one length, got {shortest} to {longest}: set preprocess.sequence.unequal: pad "
                "(the model is told what is padding), or a window"
            )
    span = wanted.horizon + wanted.window if wanted.window else 0
    if shortest < span:
        row = table.iloc[int(lengths.argmin())]
        raise Refused(
            f"sample {row['sample_id']} ({row['split']}) has {shortest} moments, a window with its horizon takes "
            f"{span}: shorten preprocess.sequence.window, or leave the recording out"
        )
    if facts.split_in_time:
        _check_gaps(table, span)
    length = wanted.window or longest
    what = {
        "length": length,
        "leads": int(leads),
        "names": list(facts.variables),
        "mask": mask,
        "windows": wanted.window is not None,
        "stride": wanted.stride,
        "horizon": wanted.horizon,
        "block": wanted.block if facts.split_in_time else None,
        "rate_hz": rate,
        "unit": unit,
    }
    return Form((length, int(leads) + mask), "float32", what)


def counts(rows: pd.DataFrame, form: Form) -> np.ndarray:
    """Return (N,) how many windows each row holds."""
    what = form.preprocessing
    if not what["windows"]:
        return np.ones(len(rows), np.int64)
    lengths = np.array([shape[0] for shape in rows["shape"]], np.int64)
    return (lengths - what["length"] - what["horizon"]) // what["stride"] + 1


def index(rows: pd.DataFrame, form: Form) -> pd.DataFrame:
    """Return what is known of each window: its sample, and where it begins.

    `block` names the windows that the bootstrap draws together where time is split: neighbours say the same thing.
    """
    number = counts(rows, form)
    known = rows.iloc[np.repeat(np.arange(len(rows)), number)][INDEX].reset_index(drop=True)
    block, start = form.preprocessing["block"], rows["start"].fillna(0).to_numpy(np.int64)
    if not form.preprocessing["windows"]:  # beats, say, of recordings that are cut in time
        return known.assign(block=_blocks_of(rows["study_id"], start // block)) if block else known
    within = np.concatenate([np.arange(n) for n in number]) * form.preprocessing["stride"]
    known = known.assign(start=within + np.repeat(start, number))
    if block:
        known["block"] = _blocks_of(np.repeat(np.arange(len(rows)), number), within // block)
    return known


def _blocks_of(recording: Any, number: np.ndarray) -> np.ndarray:
    """Return the block (N,) of each place, by its recording (N,) and the number (N,) of its block there."""
    return pd.factorize(pd.factorize(recording)[0] * (2**32) + number)[0]


def arrays(rows: pd.DataFrame, values: manifest.Values, form: Form) -> Iterator[memoryview]:
    """Yield windows (N, L, C) float32, block after block, sample by sample, in the order of time."""
    for row in manifest.rows(rows):
        for block in _blocks(values[row], form.preprocessing):
            yield block.data


def targets(rows: pd.DataFrame, values: manifest.Values, form: Form) -> np.ndarray | None:
    """Return (N,) float32: the first lead `horizon` moments after each window; None without a horizon."""
    what = form.preprocessing
    if not what["horizon"]:
        return None
    first = what["length"] - 1 + what["horizon"]
    found = [
        np.asarray(values[row][first :: what["stride"], 0], np.float32)[:count]
        for row, count in zip(manifest.rows(rows), counts(rows, form), strict=True)
    ]
    return np.concatenate(found) if found else np.zeros(0, np.float32)


def augment(
    arrays: np.ndarray,
    section: params.Augment,
    random: np.random.Generator,
    part: Part | None = None,
    real: np.ndarray | None = None,
) -> np.ndarray:
    """Return changed copies of windows (N, L, C): `contrast` scales them about their mean, then `noise` is added.

    Where `real` (N, L, 1), the last channel, says which moments are, they alone are counted and changed, and it stays.

    Raises:
        Refused: a change that only images know.
    """
    if section == params.Augment():
        return arrays
    if other := {name for name, value in section if value} - {"contrast", "noise"}:
        raise Refused(f"train.augment: sequences know contrast and noise, not {', '.join(sorted(other))}: set it to 0")
    part = part or Part(len(arrays), slice(None))
    drawn = random.uniform(-section.contrast, section.contrast, (part.count, 1, 1))[part.rows]
    values = arrays if real is None else arrays[..., :-1]
    counted: dict[str, Any] = {} if real is None else {"where": np.broadcast_to(real > 0, values.shape)}
    mean, deviation = values.mean(axis=1, keepdims=True, **counted), values.std(axis=1, keepdims=True, **counted)
    changed = (values - mean) * (1 + drawn.astype(np.float32)) + mean
    if section.noise:
        noise = random.standard_normal((part.count, *values.shape[1:]), np.float32)[part.rows]
        changed += section.noise * deviation * noise
    return changed if real is None else np.concatenate([changed * real, real], axis=-1)


def described(card: Mapping[str, Any]) -> str:
    """Return the network's input in words."""
    what = card["preprocessing"]
    named = f" ({', '.join(what['names'])})" if what.get("names") else ""
    leads = f"{what['leads']} lead{'s' * (what['leads'] > 1)}{named}"
    rate = f" at {what['rate_hz']:g} Hz ({what['length'] / what['rate_hz']:.3g} s)" if what["rate_hz"] else ""
    unit = f", in {what['unit']}" if what["unit"] else ""
    ahead = f"; to predict: the value {what['horizon']} ahead" if what["horizon"] else ""
    padded = ", shorter ones padded" if what["mask"] else ""
    return f"{what['length']} moments{rate} of {leads}{unit}{padded}{ahead}"


def picture(array: np.ndarray, card: Mapping[str, Any], marks: Mapping[str, float]) -> tuple[str, bytes]:
    """Return the traces of one window as SVG, with what follows it: `true` and `predicted`."""
    import matplotlib as mpl
    from matplotlib.figure import Figure

    what = card["preprocessing"]
    real = array[array[:, -1] > 0, :-1] if what["mask"] else array
    step = 1000 / what["rate_hz"] if what["rate_hz"] else 1.0
    time = np.arange(len(real)) * step
    figure = Figure(figsize=(2.6, 1.9), layout="constrained")
    axes = figure.subplots()
    dots = "." if len(real) <= 40 else ""
    for lead in real.T:
        axes.plot(time, lead, color="#0072b2" if real.shape[1] == 1 else None, linewidth=1.2, marker=dots, markersize=4)
    if marks:
        ahead = (len(real) - 1 + what["horizon"]) * step
        axes.plot(ahead, marks["true"], "o", color="black", markersize=6, label="true")
        axes.plot(ahead, marks["predicted"], "x", color="#d55e00", markersize=7, markeredgewidth=2, label="predicted")
        axes.legend(fontsize=7, frameon=False)
    axes.set_xlabel("ms" if what["rate_hz"] else "moment", fontsize=8)
    axes.set_ylabel(what["unit"] or "", fontsize=8)
    axes.tick_params(labelsize=7)
    axes.spines[["top", "right"]].set_visible(False)
    text = io.StringIO()
    with mpl.rc_context({"svg.hashsalt": "medloop"}):  # the same bytes for the same window
        figure.savefig(text, format="svg", metadata={"Date": None, "Creator": None})
    return "image/svg+xml", text.getvalue().encode()


def example(card: Mapping[str, Any]) -> bytes:
    """Return one window of noise, which is nobody's, as a .npy file."""
    what = card["preprocessing"]
    noise = np.random.default_rng(0).normal(size=(what["length"], what["leads"]))
    return signals.encode(noise.astype(np.float32))


def is_input(path: Path) -> bool:
    """Tell by its suffix whether a file is a signal."""
    return path.suffix.lower() in SUFFIXES


def opened(path: Path, preprocessing: Mapping[str, Any]) -> bytes:
    """Return the content of a file; of a WFDB header the record that it heads, the model's leads if they have names.

    Raises:
        Unreadable: the record lacks a lead.
    """
    if path.suffix.lower() != HEADER:
        return path.read_bytes()
    import wfdb

    record = wfdb.rdrecord(str(path.with_suffix("")))
    found, names = record.sig_name or [], preprocessing.get("names", ())
    if any(found.count(name) != 1 for name in names):
        raise Unreadable(f"the record must have each of the model's leads once: {', '.join(names)}")
    places = [found.index(name) for name in names] or slice(None)
    return signals.encode(record.p_signal[:, places].astype(np.float32))


def cells(content: bytes, name: str, preprocessing: Mapping[str, Any]) -> Iterator[tuple[str, str, bytes]]:
    """Yield a file as it is, or where it is longer than the model's window each window as a file of its own."""
    values = signals.decode(content, preprocessing.get("names", ()))
    if not preprocessing["windows"] or len(values) <= preprocessing["length"]:
        yield name, name, content
        return
    for begin, window in _windows(values, {**preprocessing, "horizon": 0}):
        yield f"{name}#{begin}", f"{name}#{begin}", signals.encode(window)


def encoded(row: Any, values: np.ndarray, preprocessing: Mapping[str, Any]) -> Iterator[tuple[int | None, bytes]]:  # noqa: ARG001
    """Yield the cells of a packed sample: its windows in the order of time."""
    if not preprocessing["windows"]:
        yield None, signals.encode(values)
        return
    for begin, window in _windows(values, preprocessing):
        yield begin, signals.encode(window)


def paired(preprocessing: Mapping[str, Any]) -> dict[str, Any]:
    """Return in what two models must agree to say something of the same windows."""
    return {name: preprocessing[name] for name in ("windows", "stride", "horizon")} | (
        {"length": preprocessing["length"]} if preprocessing["windows"] else {}
    )


def _one(found: set[Any], name: str) -> Any:
    """Return the only element; None for none; raise Refused for several."""
    if len(found) > 1:
        listed = ", ".join(map(str, sorted(found)))
        raise Refused(f"all sequences must have one {name}, got {listed}: choose those that belong together")
    return next(iter(found), None)


def _check_gaps(table: pd.DataFrame, span: int) -> None:
    """Refuse stretches of one recording on two sides with less than a window between them."""
    ends = table["start"] + table["shape"].map(lambda shape: int(shape[0]))
    stretches = table.assign(end=ends).sort_values(["study_id", "start"])
    before = stretches.shift()
    beside = (stretches["study_id"] == before["study_id"]) & (stretches["split"] != before["split"])
    gaps = (stretches["start"] - before["end"])[beside]
    if len(gaps) and gaps.min() < span:
        raise Refused(
            f"between stretches on two sides there must be at least a window with its horizon, {span} moments, got "
            f"{int(gaps.min())}: widen the gap in ingest.options, or shorten preprocess.sequence.window"
        )


def _blocks(values: np.ndarray, what: Mapping[str, Any]) -> Iterator[np.ndarray]:
    """Yield windows (n, L, C) of a signal (T, C), a few megabytes at a time."""
    if not what["windows"]:
        yield signals.fit(values, length=what["length"], leads=what["leads"], mask=what["mask"])[None]
        return
    usable = values[: len(values) - what["horizon"]]
    view = np.lib.stride_tricks.sliding_window_view(usable, what["length"], axis=0)[:: what["stride"]]  # (n, C, L)
    step = max(1, BLOCK_BYTES // (4 * what["length"] * what["leads"]))
    for begin in range(0, len(view), step):
        yield np.ascontiguousarray(view[begin : begin + step].transpose(0, 2, 1))


def _windows(values: np.ndarray, what: Mapping[str, Any]) -> Iterator[tuple[int, np.ndarray]]:
    """Yield each window of a signal with the place where it begins."""
    begin = 0
    for block in _blocks(values, what):
        for window in block:
            yield begin, window
            begin += what["stride"]
