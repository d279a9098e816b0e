"""A number to predict: loss, gating metric, the metrics of a report, and what a network must beat."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pandas as pd

from medloop import params
from medloop import predictions as parts
from medloop.answers.regression import said
from medloop.errors import Refused

__all__ = ["said"]

KINDS = ("image", "sequence", "volume", "table")
NUMBERS = True
GATE = "r2"
METRICS = ("mae", "rmse", "r2")
CENTRED = ()
RIDGE_FEATURES = 4096  # with more the rival is left out: its equations would take gigabytes
BLOCK = 2**16  # arrays looked at together, so that memory stays flat


@dataclass(frozen=True)
class Predictions(parts.Predictions):
    """What a model said of each sample."""

    values: np.ndarray  # (N,) predicted

    def frame(self) -> pd.DataFrame:
        """Return predictions.parquet: who, the true value and the predicted one."""
        return self.who().assign(label=self.labels, prediction=self.values)

    def metrics(self, weights: np.ndarray | None = None) -> dict[str, np.ndarray]:
        """Return each of METRICS under each row of sample weights (R, N)."""
        return metrics(self.labels, self.values, weights)

    def too_small(self) -> str | None:
        """Return None: numbers have no rare classes."""
        return None


def check(facts: Mapping[str, Any]) -> None:
    """Take any data set: whether it has numbers to predict is seen when they are gathered."""


def outputs(classes: Sequence[str]) -> int:  # noqa: ARG001
    """Return one: a network tells one number."""
    return 1


def targets(rows: pd.DataFrame, classes: Sequence[str]) -> np.ndarray:  # noqa: ARG001
    """Return the column `target` (N,) float32.

    Raises:
        Refused: a sample has none.
    """
    found = rows["target"].to_numpy(np.float64)
    if missing := int((~np.isfinite(found)).sum()):
        raise Refused(
            f"task regression needs a number for every sample, {missing} of {len(found)} have none: give the source's "
            "targets, or for signals preprocess.sequence.horizon"
        )
    return found.astype(np.float32)


def fitted(labels: np.ndarray) -> dict[str, float]:
    """Return mean and standard deviation of the training targets; raise Refused where they are all the same."""
    mean, std = float(labels.mean(dtype=np.float64)), float(labels.std(dtype=np.float64))
    if not std > 0:
        raise Refused(f"regression needs targets that differ, all {len(labels)} of train are {mean:g}")
    return {"mean": mean, "std": std}


def scaled(labels: np.ndarray, target: Mapping[str, float]) -> np.ndarray:
    """Return targets of zero mean and unit variance, (N,) float32: networks begin with outputs of that size."""
    return ((labels - target["mean"]) / target["std"]).astype(np.float32)


def loss(section: params.Train | None = None) -> Any:
    """Return the mean squared error of scaled targets (B,), outputs (B, 1) and sample weights (B,) or none.

    Raises:
        Refused: a parameter asks for what only classes know.
    """
    from keras import losses

    section = section or params.Train()
    plain = {"loss": "cross_entropy", "label_smoothing": 0, "mixup": 0, "sampling": "natural"}
    if other := [f"train.{name}: {value}" for name, value in plain.items() if getattr(section, name) != value]:
        raise Refused(f"task regression has no classes to smooth, mix, weigh or balance: set {', '.join(other)}")
    return losses.MeanSquaredError()


def score(labels: np.ndarray, said: np.ndarray) -> float:
    """Return the gating metric, R2, of predictions (N, 1); raise Refused where one is no number."""
    if bad := int((~np.isfinite(said)).sum()):
        raise Refused(f"predictions must be finite numbers, {bad} of {len(said)} are not")
    return float(gate(labels, said, np.ones((1, len(labels))))[0])


def gate(labels: np.ndarray, said: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """Return the share of variance explained (R,) for sample weights (R, N); NaN where all that weighs is the same."""
    return metrics(labels, said[:, 0], weights)["r2"]


def metrics(labels: np.ndarray, values: np.ndarray, weights: np.ndarray | None = None) -> dict[str, np.ndarray]:
    """Return each of METRICS under each row of sample weights (R, N), as (R,) float64.

    Args:
        labels: (N,) true values.
        values: (N,) predicted ones.
        weights: e.g. how often a bootstrap drew each sample; None: (1, N) ones.
    """
    weights = np.ones((1, len(labels))) if weights is None else weights
    truth = labels.astype(np.float64)
    truth = truth - truth.mean()  # sums of squares would cancel out
    error = values - labels.astype(np.float64)
    sums = weights @ np.stack([np.ones(len(truth)), np.abs(error), error**2, truth, truth**2], axis=1)  # (R, 5)
    total, absolute, squared, first, second = sums.T
    with np.errstate(invalid="ignore", divide="ignore"):
        spread = second - first**2 / total
        r2 = np.where(spread > 1e-12 * second, 1 - squared / spread, np.nan)
        return {"mae": absolute / total, "rmse": np.sqrt(squared / total), "r2": r2}


def floors(inputs: np.ndarray, labels: np.ndarray, card: Mapping[str, Any]) -> dict[str, Any]:
    """Return the rivals of a network: persistence, where the target continues a signal, and ridge regression.

    Args:
        inputs: (N, ...) of train.
        labels: (N,) their targets.
        card: says under `preprocessing` how the inputs came about.
    """
    found: dict[str, Any] = {"persistence": {}} if card["preprocessing"].get("horizon") else {}
    if np.prod(inputs.shape[1:]) <= RIDGE_FEATURES:
        found["ridge"] = _ridge(inputs, labels)
    return found


def rivals(floors: Mapping[str, Any], inputs: np.ndarray, predictions: Predictions) -> dict[str, Predictions]:
    """Return what each of `floors` predicts of inputs (N, ...), in place of a network's `predictions`."""
    found = {}
    if "persistence" in floors:
        found["persistence"] = np.asarray(inputs[:, -1, 0], np.float64)
    if "ridge" in floors:
        weights = np.array(floors["ridge"]["weights"])
        found["ridge"] = np.concatenate([x @ weights for x in _flat(inputs)]) + floors["ridge"]["intercept"]
    return {name: replace(predictions, values=values) for name, values in found.items()}


def chosen(
    labels: np.ndarray,  # noqa: ARG001
    outputs: np.ndarray,  # noqa: ARG001
    card: Mapping[str, Any],  # noqa: ARG001
    section: params.Evaluate,  # noqa: ARG001
) -> dict[str, Any]:
    """Return nothing: a number has no threshold."""
    return {}


def predictions(table: pd.DataFrame, labels: np.ndarray, outputs: np.ndarray, card: Mapping[str, Any]) -> Predictions:
    """Return what the model of the final `card` says by its outputs (N, 1)."""
    return Predictions(table, labels, said(outputs, card)[:, 0])


def read(table: pd.DataFrame, card: Mapping[str, Any]) -> Predictions:  # noqa: ARG001
    """Return what predictions.parquet says."""
    return Predictions(table, table["label"].to_numpy(), table["prediction"].to_numpy())


def rarest(labels: np.ndarray, groups: np.ndarray) -> int:  # noqa: ARG001
    """Return the number of clusters: numbers have no rare classes."""
    return len(np.unique(groups))


def too_few(labels: np.ndarray, classes: Sequence[str], rule: params.Promote) -> str | None:  # noqa: ARG001
    """Return None: numbers have no rare classes."""
    return None


def stored(classes: Sequence[str]) -> list[str]:  # noqa: ARG001
    """Return the column of predictions.parquet that holds the prediction."""
    return ["prediction"]


def served(classes: Sequence[str]) -> list[str]:  # noqa: ARG001
    """Return the same column of the served model."""
    return ["prediction"]


def _ridge(inputs: np.ndarray, labels: np.ndarray) -> dict[str, Any]:
    """Return ridge regression on features of unit variance with a penalty of 1."""
    count, mean, spread = len(inputs), 0.0, 0.0
    for x in _flat(inputs):
        mean = mean + x.sum(axis=0) / count
    for x in _flat(inputs):
        spread = spread + ((x - mean) ** 2).sum(axis=0) / count
    scale = np.sqrt(np.maximum(spread, 1e-12))
    middle = float(labels.mean(dtype=np.float64))
    square, product, begin = 0.0, 0.0, 0
    for x in _flat(inputs):
        z = (x - mean) / scale
        square = square + z.T @ z
        product = product + z.T @ (labels[begin : begin + len(x)] - middle)
        begin += len(x)
    weights = np.linalg.solve(square + np.eye(len(scale)), product) / scale
    return {"weights": weights.tolist(), "intercept": float(middle - np.dot(mean, weights))}


def _flat(inputs: np.ndarray) -> Iterator[np.ndarray]:
    """Yield (n, features) float64, a few of the inputs (N, ...) at a time."""
    step = max(1, BLOCK // max(1, int(np.prod(inputs.shape[1:])) // 64))
    for begin in range(0, len(inputs), step):
        block = inputs[begin : begin + step]
        yield np.asarray(block, np.float64).reshape(len(block), -1)
