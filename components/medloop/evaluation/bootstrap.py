"""Intervals from a bootstrap over patients: whole patients are drawn, so that a patient's images stay together."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pandas as pd
from scipy.special import ndtr, stdtrit

Compute = Callable[[np.ndarray], dict[str, np.ndarray]]

CHUNK = 1_000_000  # sample weights held at once: 8 MB, and what metrics make of them several times as much
MAX_UNDEFINED = 0.05  # share of resamples without a value, e.g. for want of a class; above it there is no interval


def clusters(patients: pd.Series) -> np.ndarray:
    """Return the number (N,) of each sample's patient, from 0; a sample without one is a patient of its own."""
    codes, known = pd.factorize(patients)
    alone = codes < 0
    codes[alone] = len(known) + np.arange(alone.sum())
    return codes


def draw(compute: Compute, groups: np.ndarray, resamples: int, seed: int) -> dict[str, np.ndarray]:
    """Return what `compute` makes of sample weights (R, N), for R `resamples` of the clusters `groups` (N,).

    Each resample draws as many clusters as there are, with replacement; a sample weighs as often as its cluster came.
    """
    generator = np.random.default_rng(seed)
    size = int(groups.max()) + 1
    parts = []
    step = max(1, CHUNK // len(groups))
    for begin in range(0, resamples, step):
        counts = generator.multinomial(size, np.full(size, 1 / size), min(step, resamples - begin))
        parts.append(compute(counts[:, groups].astype(np.float64)))
    return {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}


def interval(value: float, drawn: np.ndarray, confidence: float, *, size: int, centred: bool = False) -> dict[str, Any]:
    """Return {value, low, high, undefined}, and a `reason` where there is no interval; what is undefined is None.

    The plain percentile interval is too short in small samples: with ten patients of a class, 95% were 91 to 93. The
    expanded one, wider by what Student's t adds for `size`, were 94 to 95.

    Source: Hesterberg, What teachers should know about the bootstrap, 2015, section 4.2.

    Args:
        value: of the sample itself.
        drawn: (R,) of the resamples; those that are NaN are left out and counted as `undefined`.
        confidence: of the interval, e.g. 0.95.
        size: number of clusters of the rarest class.
        centred: take the mean shift of the resamples off the interval. A calibration error, being a mean of absolute
            values, grows by resampling alone, and its plain interval can lie wholly above it.
    """
    defined = drawn[np.isfinite(drawn)]
    undefined = len(drawn) - len(defined)
    result = {"value": _number(value), "low": None, "high": None, "undefined": undefined}
    reason = _why_not(value, defined, undefined / len(drawn), size)
    if reason:
        return result | {"reason": reason}
    if centred:
        defined = np.maximum(defined - (defined.mean() - value), 0)
    tail = ndtr(stdtrit(size - 1, (1 - confidence) / 2) * np.sqrt(size / (size - 1)))
    low, high = np.quantile(defined, [tail, 1 - tail])
    return result | {"low": float(low), "high": float(high)}


def _why_not(value: float, defined: np.ndarray, undefined: float, size: int) -> str | None:
    if not np.isfinite(value):
        return "undefined: nothing to count"
    if size < 2:
        return "a single patient of a class"
    if undefined > MAX_UNDEFINED:
        return f"undefined in {undefined:.0%} of the resamples"
    if np.ptp(defined) == 0:
        return "every resample agrees: too few errors to tell"
    return None


def _number(value: float) -> float | None:
    return float(value) if np.isfinite(value) else None
