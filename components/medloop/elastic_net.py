"""Logistic regression with an elastic net, which stands beside every network that tells labels from tables.

The mean over samples of the negative log-likelihood, plus penalty * (ratio * |w|_1 + (1 - ratio) / 2 * |w|_2^2); of two
classes with one column of weights, of more with one for each. It is solved by accelerated proximal gradients with
restarts on a working set of features, until every feature left out fulfils its condition of optimality: which features
are selected is then exact, and takes some 10 ms where thousands of genes meet dozens of patients. On one thread: with
matrices as small as these several are forty times slower on a busy machine, and sums would depend on their number.

Sources: Zou and Hastie, 2005; Beck and Teboulle, A fast iterative shrinkage-thresholding algorithm, 2009; O'Donoghue
and Candes, 2015; Tibshirani et al., Strong rules for discarding predictors, 2012.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from threadpoolctl import threadpool_limits

from medloop import dealing

RATIO = 0.5  # half lasso, half ridge: correlated genes come in together
PENALTIES = 12  # from that under which nothing is selected down to LEAST times it
LEAST = 0.005
FOLDS = 5
MOST = 5000  # samples; of more a part is drawn, patient by patient
EXACT = 1e-3  # of the lasso's penalty: how far a condition of optimality may be missed
ITERATIONS = 5000
NAME = "elastic_net"


@dataclass(frozen=True)
class Fit:
    """Weights of a model."""

    coef: np.ndarray  # (F, 1) of two classes, (F, K) of more
    intercept: np.ndarray  # (1,) or (K,)
    apart: bool = False  # each column answers yes or no by itself

    def outputs(self, inputs: np.ndarray) -> np.ndarray:
        """Return logits (N, K) of features (N, F)."""
        used = np.flatnonzero(self.coef.any(axis=1))
        found = np.asarray(inputs[:, used], np.float64) @ self.coef[used] + self.intercept
        if self.apart or found.shape[1] > 1:
            return found
        return np.concatenate([np.zeros_like(found), found], axis=1)

    @property
    def size(self) -> np.ndarray:
        """The largest weight of each feature (F,), zero of one that is not selected."""
        return np.asarray(np.abs(self.coef).max(axis=1))


def fit(
    inputs: np.ndarray,
    labels: np.ndarray,
    classes: int,
    penalty: float,
    *,
    ratio: float = RATIO,
    weights: np.ndarray | None = None,
    start: Fit | None = None,
) -> Fit:
    """Return the elastic net of features (N, F) and class indices (N,).

    Args:
        inputs: float64, of unit variance.
        labels: of `classes` classes.
        classes: how many there are.
        penalty: of the mean loss.
        ratio: of the lasso in it, above 0.
        weights: (N,) of the samples, e.g. how often a bootstrap drew each; None: all weigh one.
        start: an earlier solution nearby.
    """
    used = np.ones(len(labels)) if weights is None else np.asarray(weights, np.float64)
    inputs, labels, used = inputs[used > 0], labels[used > 0], used[used > 0] / used.sum()
    truth = (labels == 1).astype(np.float64)[:, None] if classes == 2 else np.eye(classes)[labels]
    coef = np.zeros((inputs.shape[1], truth.shape[1])) if start is None else start.coef.copy()
    intercept = np.zeros(truth.shape[1]) if start is None else start.intercept.copy()
    lasso, working = penalty * ratio, np.asarray(coef.any(axis=1), bool)
    while True:
        chosen = np.flatnonzero(working)
        part = inputs[:, chosen]
        coef[chosen], intercept = _solved(part, truth, used, penalty, ratio, coef[chosen], intercept)
        residual = used[:, None] * (_said(part @ coef[chosen] + intercept) - truth)
        steepest = np.abs(inputs.T @ residual).max(axis=1)
        missed = np.flatnonzero(~working & (steepest > lasso * (1 + EXACT)))
        if not len(missed):
            return Fit(coef, intercept)
        worst = missed[np.argsort(-steepest[missed], kind="stable")]
        working = working | np.isin(np.arange(len(working)), worst[: max(20, len(chosen))])


def penalties(inputs: np.ndarray, labels: np.ndarray, classes: int, ratio: float = RATIO) -> np.ndarray:
    """Return penalties from the least under which nothing is selected down, (PENALTIES,)."""
    truth = (labels == 1).astype(np.float64)[:, None] if classes == 2 else np.eye(classes)[labels]
    most = np.abs(inputs.T @ (truth - truth.mean(axis=0))).max() / len(labels) / ratio
    return np.asarray(most * np.geomspace(1, LEAST, PENALTIES))


def path(inputs: np.ndarray, labels: np.ndarray, classes: int, grid: np.ndarray, **how: Any) -> list[Fit]:
    """Return the elastic net under each penalty of `grid`, each begun where the one before ended."""
    found: list[Fit] = []
    for penalty in grid:
        found.append(fit(inputs, labels, classes, penalty, start=found[-1] if found else None, **how))
    return found


def drawn(patients: Sequence[str], seed: int) -> np.ndarray:
    """Return which samples (n,) are fitted: all, or of more than MOST those of some of the patients."""
    if len(patients) <= MOST:
        return np.arange(len(patients))
    _, patient = np.unique(np.asarray(patients), return_inverse=True)
    rank = np.random.default_rng(seed).permutation(patient.max() + 1)[patient]
    return np.sort(np.argsort(rank, kind="stable")[:MOST])


@threadpool_limits.wrap(limits=1)
def beside(inputs: np.ndarray, labels: np.ndarray, patients: Sequence[str], classes: int, seed: int) -> dict[str, Any]:
    """Return the elastic net whose penalty cross-validation by patient chose, as about.json keeps it.

    It holds what the networks of the folds said of the samples that they had not seen, by which its temperature and
    threshold are chosen as those of a network are.

    Args:
        inputs: (N, F) of train and validation data.
        labels: (N,) class indices.
        patients: the name of each sample's patient.
        classes: how many there are.
        seed: of the folds.
    """
    inputs = np.asarray(inputs, np.float64)
    found, unseen, how = _chosen(inputs, labels, patients, classes, seed)
    return how | _entry(found, labels, unseen)


@threadpool_limits.wrap(limits=1)
def beside_each(
    inputs: np.ndarray, labels: np.ndarray, questions: np.ndarray, patients: Sequence[str], seed: int
) -> dict[str, Any]:
    """Return elastic nets side by side, one for each yes or no that a network answers by a logit of its own.

    Each chooses its penalty as that of `beside` does. Where all have one answer, how often it is given stands for it.

    Args:
        inputs: (N, F) of train and validation data.
        labels: (N,) or (N, L), for the record.
        questions: (N, K) 1 and 0; -1 of a sample that is not asked.
        patients: the name of each sample's patient.
        seed: of the folds.
    """
    inputs = np.asarray(inputs, np.float64)
    fits, unseen, hows = [], np.zeros(questions.shape), []
    for place, truth in enumerate(questions.T):
        asked = np.flatnonzero(truth >= 0)
        if len(np.unique(truth[asked])) == 2:
            own = np.asarray(patients)[asked].tolist()
            found, said, how = _chosen(inputs[asked], truth[asked], own, 2, seed)
        else:
            found, how = _constant(truth[asked], inputs.shape[1]), {}
            said = found.outputs(inputs[asked])
        fits.append(found)
        hows.append(how)
        unseen[asked, place] = said[:, 1] - said[:, 0]
    whole = Fit(
        np.concatenate([each.coef for each in fits], axis=1),
        np.concatenate([each.intercept for each in fits]),
        apart=True,
    )
    return {"each": hows} | _entry(whole, labels, unseen)


def _chosen(
    inputs: np.ndarray, labels: np.ndarray, patients: Sequence[str], classes: int, seed: int
) -> tuple[Fit, np.ndarray, dict[str, Any]]:
    """Return the elastic net, what those of the folds said of samples unseen (N, classes), and how it was chosen."""
    grid = penalties(inputs, labels, classes)
    _, fewest = dealing.dealt(patients, labels, 2, seed)
    fold, _ = dealing.dealt(patients, labels, max(2, min(FOLDS, fewest)), seed)
    unseen = np.zeros((len(grid), len(labels), classes))
    for number in range(fold.max() + 1):
        out = fold == number
        for place, each in enumerate(path(inputs[~out], labels[~out], classes, grid)):
            unseen[place, out] = each.outputs(inputs[out])
    losses = [_loss(outputs, labels) for outputs in unseen]
    best = int(np.argmin(losses))
    found = path(inputs, labels, classes, grid[: best + 1])[-1]
    how = {"penalty": float(grid[best]), "ratio": RATIO, "loss": [float(loss) for loss in losses]}
    return found, unseen[best], how


def _constant(truth: np.ndarray, features: int) -> Fit:
    """Return an answer by how often it is yes, half a sample of each added."""
    odds = np.log((truth.sum() + 0.5) / (len(truth) - truth.sum() + 0.5))
    return Fit(np.zeros((features, 1)), np.array([odds]))


def _entry(found: Fit, labels: np.ndarray, unseen: np.ndarray) -> dict[str, Any]:
    rows = np.flatnonzero(found.size)
    return {
        "rows": rows.tolist(),
        "coef": found.coef[rows].round(8).tolist(),
        "intercept": found.intercept.round(8).tolist(),
        "apart": found.apart,
        "features": len(found.coef),
        "labels": labels.tolist(),
        "outputs": unseen.round(6).tolist(),
    }


def kept(entry: Mapping[str, Any]) -> Fit:
    """Return the weights that `beside` left."""
    intercept = np.array(entry["intercept"])
    coef = np.zeros((entry["features"], len(intercept)))
    if entry["rows"]:
        coef[entry["rows"]] = entry["coef"]
    return Fit(coef, intercept, entry["apart"])


def _said(logits: np.ndarray) -> np.ndarray:
    """Return the probability of the second of two classes (N, 1), or of each of more (N, K)."""
    if logits.shape[1] == 1:
        return 1 / (1 + np.exp(-np.clip(logits, -500, 500)))
    exponential = np.exp(logits - logits.max(axis=1, keepdims=True))
    return np.asarray(exponential / exponential.sum(axis=1, keepdims=True))


def _loss(outputs: np.ndarray, labels: np.ndarray) -> float:
    shifted = outputs - outputs.max(axis=1, keepdims=True)
    return float(np.mean(np.log(np.exp(shifted).sum(axis=1)) - shifted[np.arange(len(labels)), labels]))


def _solved(
    inputs: np.ndarray,
    truth: np.ndarray,
    weights: np.ndarray,
    penalty: float,
    ratio: float,
    coef: np.ndarray,
    intercept: np.ndarray,
) -> tuple[np.ndarray, np.ndarray]:
    """Return weights (F, K) and intercepts (K,) of a few features (N, F), none of which is left out."""
    lasso, ridge = penalty * ratio, penalty * (1 - ratio)
    scaled = np.sqrt(weights)[:, None] * np.concatenate([inputs, np.ones((len(inputs), 1))], axis=1)
    curvature = (0.25 if truth.shape[1] == 1 else 0.5) * float(np.linalg.norm(scaled, 2)) ** 2 + ridge
    ahead, ahead_of, speed = coef, intercept, 1.0
    for _ in range(ITERATIONS):
        residual = weights[:, None] * (_said(inputs @ ahead + ahead_of) - truth)
        moved = ahead - (inputs.T @ residual + ridge * ahead) / curvature
        new = np.sign(moved) * np.maximum(np.abs(moved) - lasso / curvature, 0)
        new_of = ahead_of - residual.sum(axis=0) / curvature
        step, step_of = new - coef, new_of - intercept
        short = curvature * max(np.abs(new - ahead).max(initial=0), np.abs(new_of - ahead_of).max())
        turned = ((ahead - new) * step).sum() + ((ahead_of - new_of) * step_of).sum() > 0
        coef, intercept = new, new_of
        if short < EXACT * lasso:
            break
        faster = 1.0 if turned else (1 + np.sqrt(1 + 4 * speed**2)) / 2
        push = 0.0 if turned else (speed - 1) / faster
        ahead, ahead_of, speed = coef + push * step, intercept + push * step_of, faster
    return coef, intercept
