"""Which variables tell classes apart, and how stable that choice is when patients are drawn again.

Sources: Nogueira, Sechidis and Brown, On the stability of feature selection algorithms, JMLR 2018 (stability with its
interval); Meinshausen and Buehlmann, Stability selection, 2010 (halves of the samples).
"""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from scipy.special import ndtri
from threadpoolctl import threadpool_limits

from medloop import elastic_net

SHOWN = 25
CONFIDENCE = 0.95


@threadpool_limits.wrap(limits=1)
def ranked(
    inputs: np.ndarray,
    labels: np.ndarray,
    patients: Sequence[str],
    names: Sequence[str],
    entry: Mapping[str, Any],
    *,
    resamples: int,
    seed: int,
) -> dict[str, Any]:
    """Return the features in order of how often an elastic net selects them on halves of the patients.

    Two selections are judged: that of the elastic net under the penalty of `entry`, and as many by the largest F of a
    one-way analysis of variance.

    Args:
        inputs: (N, F) of train and validation data.
        labels: (N,) class indices.
        patients: the name of each sample's patient.
        names: of the features.
        entry: what `elastic_net.beside` made of the same data.
        resamples: how many halves are drawn.
        seed: of the halves.
    """
    inputs, classes = np.asarray(inputs, np.float64), len(entry["outputs"][0])
    whole, strength = elastic_net.kept(entry), f_values(inputs, labels)
    top = min(max(1, len(entry["rows"])), inputs.shape[1] - 1)
    _, patient = np.unique(np.asarray(patients), return_inverse=True)
    random = np.random.default_rng(seed)
    by_net, by_f = np.zeros((2, resamples, inputs.shape[1]), bool)
    for number in range(resamples):
        rows = half(labels, patient, random)
        found = elastic_net.fit(inputs[rows], labels[rows], classes, entry["penalty"], start=whole)
        by_net[number] = found.size > 0
        by_f[number, np.argsort(-f_values(inputs[rows], labels[rows]), kind="stable")[:top]] = True
    often, size = by_net.mean(axis=0), whole.size
    order = np.lexsort((-strength, -size, -often))[:SHOWN]
    return {
        "resamples": resamples,
        "patients": int(patient.max()) + 1,
        "features": inputs.shape[1],
        "selected": int((size > 0).sum()),
        "stability": {"elastic_net": stability(by_net), "f": stability(by_f)},
        "top": [
            {
                "name": names[place],
                "selected": float(often[place]),
                "selected_f": float(by_f[:, place].mean()),
                "weight": float(size[place]),
                "f": float(strength[place]),
            }
            for place in order
        ],
    }


def half(labels: np.ndarray, patient: np.ndarray, random: np.random.Generator) -> np.ndarray:
    """Return the rows (n,) of half of the patients of each class, who count for that of their first sample."""
    _, first = np.unique(patient, return_index=True)
    label, chosen = labels[first], []
    for each in np.unique(label):
        those = np.flatnonzero(label == each)
        chosen.append(random.permutation(those)[: max(1, (len(those) + 1) // 2)])
    return np.flatnonzero(np.isin(patient, np.concatenate(chosen)))


def f_values(inputs: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """Return the F (F,) of a one-way analysis of variance of each feature (N, F) by class; 0 of a constant one."""
    classes, counts = np.unique(labels, return_counts=True)
    means = np.stack([inputs[labels == each].mean(axis=0) for each in classes])
    between = (counts[:, None] * (means - inputs.mean(axis=0)) ** 2).sum(axis=0) / (len(classes) - 1)
    place = np.searchsorted(classes, labels)
    within = ((inputs - means[place]) ** 2).sum(axis=0) / (len(labels) - len(classes))
    return np.asarray(np.divide(between, within, out=np.zeros_like(between), where=within > 1e-12))


def stability(selected: np.ndarray) -> dict[str, float | None]:
    """Return {value, low, high} of selections (M, F): 1 where all agree, 0 where they agree as chance would have it.

    None where nothing, or everything, is selected each time.
    """
    count, features = selected.shape
    chosen = selected.astype(np.float64)
    often, sizes = chosen.mean(axis=0), chosen.sum(axis=1)
    mean = sizes.mean()
    chance = mean / features * (1 - mean / features)
    if chance < 1e-12 or count < 2:
        return {"value": None, "low": None, "high": None}
    value = 1 - (count / (count - 1) * often * (1 - often)).mean() / chance
    each = (
        chosen @ often / features
        - sizes * mean / features**2
        + value / 2 * (2 * sizes * mean / features**2 - sizes / features - mean / features + 1)
    ) / chance
    error = np.sqrt(4 / count**2 * ((each - each.mean()) ** 2).sum()) * ndtri(0.5 + CONFIDENCE / 2)
    return {"value": float(value), "low": float(value - error), "high": float(min(1, value + error))}
