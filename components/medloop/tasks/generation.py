"""Images for teaching, made by class: how a network is trained, and what the images are held against.

The network is told apart from those of other tasks by what it is given and gives, see answers/generation.py; its own
output says how wrong it is, and that is the loss. Epochs are held against one another by it, on validation images with
the same noise each time; architectures, versions and the report by the images that they make, see `study`. Wherever
tasks speak of what is said of a sample (N, S), here it is how near a real image is to the made ones, by the features of
a classifier: MEASURED, then FEATURES numbers. What has nothing to do with the sample is the same in each row.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from types import ModuleType
from typing import Any

import numpy as np
import pandas as pd

from medloop import kernel_distance, measures, params
from medloop import predictions as parts
from medloop.answers import generation as answers
from medloop.answers.classification import probabilities
from medloop.errors import Refused
from medloop.tasks.classification import fitted, rarest, scaled, targets, too_few

__all__ = ["fitted", "rarest", "scaled", "targets", "too_few"]

KINDS = ("image",)
GIVES = "image"
NUMBERS = False
GATE = "kid"
LOWER_IS_BETTER = True
METRICS = ("kid", "kid_train", "kid_ratio", "auc_synthetic", "auc_real", "auc_lost")
CENTRED = ()
JUDGE = "cnn"  # architecture of the classifier by whose features images are compared
FEATURES = 64
RESAMPLES = 500  # for the standard error of the distance of train images
USE = "for teaching; never for diagnosis, for validation or test data, nor as training data without a look"
MEASURED = ("own", "cross", "train_own", "train_cross", "near")  # kernels of made and train images; share too near
SEEN = len(MEASURED) + FEATURES


@dataclass(frozen=True)
class Predictions(parts.Predictions):
    """What a study said of each real image."""

    said: np.ndarray  # (N, SEEN)
    real: np.ndarray  # (N, classes) probabilities by a classifier trained on train images
    synthetic: np.ndarray  # (N, classes) likewise, trained on made ones
    classes: list[str]
    study: Any = None  # `study.Study` with the test images; None where it is read back

    def frame(self) -> pd.DataFrame:
        """Return predictions.parquet: who, the label, what is said, and both classifiers' probabilities."""
        columns = dict(zip(stored(self.classes), self.said.T, strict=True))
        for name in ("real", "synthetic"):
            columns |= {f"{name}_{i}": column for i, column in enumerate(getattr(self, name).T)}
        return pd.concat([self.who().assign(label=self.labels.astype(np.int32)), pd.DataFrame(columns)], axis=1)

    def metrics(self, weights: np.ndarray | None = None) -> dict[str, np.ndarray]:
        """Return each of METRICS under each row of sample weights (R, N); a ratio to what is not positive is NaN."""
        weights = np.ones((1, len(self.labels))) if weights is None else weights
        made, train = _distances(self.said, weights)
        auc = {name: measures.auc(self.labels, getattr(self, name), weights) for name in ("synthetic", "real")}
        with np.errstate(invalid="ignore", divide="ignore"):
            ratio = np.where(train > 0, made / train, np.nan)
        return {
            "kid": made,
            "kid_train": train,
            "kid_ratio": ratio,
            "auc_synthetic": auc["synthetic"],
            "auc_real": auc["real"],
            "auc_lost": auc["real"] - auc["synthetic"],
        }

    def counts(self) -> dict[str, Any]:
        """Return the number of samples, of patients (None where they are unknown) and of samples by class."""
        by_class = np.bincount(self.labels, minlength=len(self.classes)).tolist()
        return {**super().counts(), "classes": dict(zip(self.classes, by_class, strict=True))}

    def too_small(self) -> str | None:
        """Return why a group of these gets no interval, or None."""
        return "fewer than 5 samples of a class" if min(self.counts()["classes"].values()) < 5 else None


def check(facts: Mapping[str, Any]) -> None:
    """Raise Refused for a data set without classes, or whose samples carry several labels at once."""
    if facts.get("multi_label") or not facts.get("classes"):
        raise Refused(
            f"task generation makes images of one class each, source {facts.get('source')!r} gives "
            f"{'several labels' if facts.get('multi_label') else 'no label'} an image: choose another source"
        )


def outputs(classes: Sequence[str]) -> int:
    """Return the number of classes that a network can be asked for; raise Refused for fewer than two."""
    if len(classes) < 2:
        raise Refused(f"generation is judged by classes that are told apart, it needs two or more, got {len(classes)}")
    return len(classes)


def loss(section: params.Train | None = None) -> Any:
    """Return the loss of labels (B,), outputs (B, H, W, C + 1) and weights (B,) or none: the mean of the last channel.

    Raises:
        Refused: a parameter asks for what only networks know that tell a class.
    """
    from keras import ops

    section = section or params.Train()
    plain: dict[str, Any] = {"loss": "cross_entropy", "label_smoothing": 0, "mixup": 0, "members": 1, "folds": 0}
    other = [f"train.{name}: {value}" for name, value in plain.items() if getattr(section, name) != value]
    if section.tta != params.Views():
        other.append("train.tta: {}")
    if other:
        raise Refused(f"task generation makes images, of which there is no mean, and no class: set {', '.join(other)}")

    def mean(labels: Any, outputs: Any, weights: Any = None) -> Any:  # noqa: ARG001
        wrong = ops.mean(outputs[..., -1], axis=(1, 2))
        return ops.mean(wrong if weights is None else wrong * ops.cast(weights, wrong.dtype))

    return mean


def fed_shape(shape: Sequence[int]) -> tuple[int, ...]:
    """Return the shape of a network's input for images (H, W, C)."""
    return (*shape[:2], 2 * shape[2] + 2)


def fed(images: np.ndarray, labels: np.ndarray, random: np.random.Generator) -> np.ndarray:
    """Return a network's input for images (B, H, W, C) uint8: with noise, and times that are spread over the batch."""
    pictures = images.astype(np.float32) / 127.5 - 1
    times = (random.random() + random.permutation(len(images)) / len(images)) % 1
    return answers.given(pictures, random.standard_normal(images.shape, np.float32), times, labels)


def making(architecture: ModuleType) -> dict[str, Any]:
    """Return what the card says of how an image is made, and of what it is for."""
    return {"steps": architecture.STEPS, "use": USE}


def said(outputs: np.ndarray, card: Mapping[str, Any]) -> np.ndarray:  # noqa: ARG001
    """Return what is said (N, SEEN) of real images, of what a study gave of them (N, SEEN + 2 classes)."""
    return np.asarray(outputs[:, :SEEN], np.float64)


def score(labels: np.ndarray, said: np.ndarray) -> float:
    """Return the gating metric, KID of the made images to the real ones; raise Refused where one is no number."""
    if not np.isfinite(said).all():
        bad = int((~np.isfinite(said).all(axis=1)).sum())
        raise Refused(f"features must be finite numbers, those of {bad} of {len(said)} images are not")
    if len(said) < 2:
        raise Refused(f"KID needs at least two real images, got {len(said)}")
    return float(gate(labels, said, np.ones((1, len(labels))))[0])


def gate(labels: np.ndarray, said: np.ndarray, weights: np.ndarray) -> np.ndarray:  # noqa: ARG001
    """Return KID (R,) of the made images to the real ones under weights (R, N) of these; the lower the better."""
    return _distances(said, weights)[0]


def objection(labels: np.ndarray, said: np.ndarray, rule: params.Promote) -> str | None:
    """Return why images so far from the real ones, or too near to train images, are not to be shown; or None.

    Where the distance of the train images is lost in the noise, and may be below zero, its standard error over
    resamples of the real images stands for it.
    """
    made, train = (float(each[0]) for each in _distances(said, np.ones((1, len(labels)))))
    weights = np.random.default_rng(0).multinomial(len(labels), np.full(len(labels), 1 / len(labels)), RESAMPLES)
    noise = float(np.nanstd(_distances(said, weights.astype(np.float64))[1]))
    near = float(said[0, MEASURED.index("near")])
    if near > rule.max_near:
        return (
            f"it memorises: {near:.2%} of its images are nearer to a train image than train images are to each other, "
            f"promote.max_near is {rule.max_near:.2%}"
        )
    if made > rule.max_kid_ratio * max(train, noise):
        return (
            f"test kid {made:.4f} is more than promote.max_kid_ratio {rule.max_kid_ratio:g} times that of the train "
            f"images, {train:.4f} with a standard error of {noise:.4f}"
        )
    return None


def chosen(
    labels: np.ndarray,  # noqa: ARG001
    outputs: np.ndarray,  # noqa: ARG001
    card: Mapping[str, Any],  # noqa: ARG001
    section: params.Evaluate,
) -> dict[str, Any]:
    """Return nothing: an image has no threshold."""
    if section.positive_class is not None:
        raise Refused("evaluate.positive_class must be null for task generation: no class is decided")
    return {}


def predictions(table: pd.DataFrame, labels: np.ndarray, outputs: np.ndarray, card: Mapping[str, Any]) -> Predictions:
    """Return what a study gave of real images (N, SEEN + 2 classes)."""
    real, synthetic = (probabilities(each) for each in np.split(outputs[:, SEEN:], 2, axis=1))
    return Predictions(table, labels.astype(np.int64), said(outputs, card), real, synthetic, list(card["classes"]))


def more(predictions: Predictions) -> dict[str, Any]:
    """Return what metrics.json says beside the metrics: how near the made images are to real ones."""
    assert predictions.study is not None
    return {"memorisation": predictions.study.told()}


def read(table: pd.DataFrame, card: Mapping[str, Any]) -> Predictions:
    """Return what predictions.parquet says."""
    classes = list(card["classes"])
    real, synthetic = (table[[f"{name}_{i}" for i in range(len(classes))]].to_numpy() for name in ("real", "synthetic"))
    return Predictions(table, table["label"].to_numpy(), table[stored(classes)].to_numpy(), real, synthetic, classes)


def stored(classes: Sequence[str]) -> list[str]:  # noqa: ARG001
    """Return the columns of predictions.parquet that hold what is said."""
    return [*MEASURED, *(f"feature_{i}" for i in range(FEATURES))]


def _distances(said: np.ndarray, weights: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return KID (R,) of the made images, and of the train images, to the real ones under their weights (R, N)."""
    own, cross, train_own, train_cross, _ = np.ascontiguousarray(
        said[:, : len(MEASURED)].T
    )  # the same to the last bit,
    features = np.ascontiguousarray(said[:, len(MEASURED) :])  # whether computed or read back
    between = kernel_distance.weighted(features, weights)
    total = weights.sum(axis=1)
    return (
        between + own[0] - 2 * (weights @ cross) / total,
        between + train_own[0] - 2 * (weights @ train_cross) / total,
    )
