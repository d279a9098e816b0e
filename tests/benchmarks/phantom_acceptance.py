"""What the phantom promises of a whole cohort, measured through the real stages; prints tables, takes minutes a seed.

    python tests/benchmarks/phantom_acceptance.py --seeds 1 2 3 --architectures cnn

Wanted: at least 400 test patients; the mean test AUC of the best architecture within .85 to .95; AUC rising with the
nodules' diameter; classifiers on site, on age and sex, and on mean intensity alone with intervals that contain .5;
logistic regression on pixels below .75. A test AUC stands with its 95% interval from a bootstrap over patients.
"""

import argparse
import os
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from sklearn.linear_model import LogisticRegression, LogisticRegressionCV
from sklearn.metrics import roc_auc_score
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from medloop import inference, params, privacy
from medloop.phantom import anatomy, header, radiograph
from medloop.phantom.options import Options

EDGES_MM = (4, 10, 15, 20, 25, 30.1)
RESAMPLES = 1000
PATIENTS, AUC, PIXELS = 400, (0.85, 0.95), 0.75  # wanted

Estimate = tuple[float, float, float]  # value, low, high


@dataclass
class Split:
    """One side of a cohort, as `preprocess` wrote it."""

    images: np.ndarray  # (N, H, W, 1) uint8
    labels: np.ndarray  # (N,) 1: nodule
    index: pd.DataFrame

    @classmethod
    def read(cls, folder: Path) -> "Split":
        return cls(
            np.load(folder / "inputs.npy"), np.load(folder / "labels.npy"), pd.read_parquet(folder / "index.parquet")
        )

    def __add__(self, other: "Split") -> "Split":
        return Split(
            np.concatenate([self.images, other.images]),
            np.concatenate([self.labels, other.labels]),
            pd.concat([self.index, other.index], ignore_index=True),
        )

    @property
    def flat(self) -> np.ndarray:
        """Pixels (N, H * W) of zero mean and unit variance in each image."""
        rows = self.images.reshape(len(self.images), -1).astype(np.float32)
        return (rows - rows.mean(axis=1, keepdims=True)) / rows.std(axis=1, keepdims=True)


def main() -> None:
    """Measure each seed, then print what was wanted and what came."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seeds", type=int, nargs="+", default=[1, 2, 3])
    parser.add_argument("--architectures", nargs="+", default=["cnn", "lstm", "attention"])
    parser.add_argument("--folder", type=Path, help="keep the outputs here")
    arguments = parser.parse_args()
    folder = arguments.folder or Path(tempfile.mkdtemp())
    os.environ |= {
        "MEDLOOP_KEY_FILE": str(folder / "pseudonym.key"),
        "MEDLOOP_STATE": str(folder / "state"),
        "MLFLOW_TRACKING_URI": f"sqlite:///{folder}/mlflow.db",
        "TF_CPP_MIN_LOG_LEVEL": "3",
    }
    for seed in arguments.seeds:
        prepare(seed, folder / str(seed))
    measured = [measure(seed, arguments.architectures, folder / str(seed)) for seed in arguments.seeds]
    best, rising = (np.mean(part, axis=0) for part in zip(*measured, strict=True))
    print()
    say(
        "AUC by diameter, mean of seeds: " + " ".join(f"{value:.3f}" for value in rising),
        wanted=bool((np.diff(rising) > 0).all()),
    )
    say(f"best architecture, mean of {len(measured)} seeds", float(best), wanted=AUC[0] <= best <= AUC[1])


def measure(seed: int, architectures: list[str], folder: Path) -> tuple[float, list[float]]:
    """Train on a seed's arrays, print the tables, return the AUC of the best on validation, whole and by diameter."""
    print(f"\nseed {seed}")
    settings = params.read()
    base = settings.base.model_copy(update={"seed": seed})
    test, development = Split.read(folder / "holdout/test"), Split.read(folder / "arrays/train")
    development += Split.read(folder / "arrays/val")
    patients = test.index["patient_id"].nunique()
    say("test patients", patients, wanted=patients >= PATIENTS)
    for name, scores in baselines(development, test):
        value = estimate(test, scores)
        if name == "pixels":
            say(f"logistic regression on {name}", *value, wanted=value[0] < PIXELS)
        else:
            say(f"{name} alone", *value, wanted=value[1] <= 0.5 <= value[2])
    scores = train(base, settings, architectures, folder, test)
    value = estimate(test, scores)
    say("best architecture", *value)
    return value[0], by_diameter(test, scores, diameters(settings, seed))


def prepare(seed: int, folder: Path) -> None:
    """Ingest, validate and preprocess the default cohort of a seed, unless that was done before."""
    from medloop.stages.ingest import ingest
    from medloop.stages.preprocess import preprocess
    from medloop.stages.validate import validate

    if (folder / "holdout").exists():
        return
    settings, began = params.read(), time.perf_counter()
    base = settings.base.model_copy(update={"seed": seed})
    samples, validation = folder / "samples", folder / "validation"
    ingest(base, settings.ingest, samples=samples)
    print(f"seed {seed}: ingest took {time.perf_counter() - began:.0f} s", flush=True)
    validate(base, settings.validate, samples=samples, validation=validation)
    outputs = {"arrays": folder / "arrays", "holdout": folder / "holdout"}
    preprocess(base, settings.preprocess, samples=samples, validation=validation, **outputs)


def train(
    base: params.Base, settings: params.Params, architectures: list[str], folder: Path, test: Split
) -> np.ndarray:
    """Return the test scores (N,) of the architecture that is best on validation."""
    from medloop.stages.train import train as fit

    found = {}
    for name in architectures:
        began = time.perf_counter()
        validation = fit(base, settings.train.only(name), arrays=folder / "arrays", model=folder / name)["auc"]
        logits = inference.Network(folder / name / "model.onnx").outputs(test.images)
        found[name] = validation, logits[:, 1] - logits[:, 0]
        value = estimate(test, found[name][1])
        say(f"{name} (validation {validation:.3f}, {time.perf_counter() - began:.0f} s)", *value)
    return max(found.values(), key=lambda pair: pair[0])[1]


def baselines(development: Split, test: Split) -> Iterator[tuple[str, np.ndarray]]:
    """Yield the name and test scores (N,) of classifiers that should know nothing, and of one that knows little."""
    for name, columns in (("site", ["site"]), ("age and sex", ["age_years", "sex"])):
        encoded = pd.get_dummies(pd.concat([development.index, test.index])[columns]).to_numpy(float)
        yield name, fitted(encoded[: len(development.labels)], development.labels, encoded[len(development.labels) :])
    means = [part.images.mean(axis=(1, 2)) for part in (development, test)]
    yield "mean intensity", fitted(means[0], development.labels, means[1])
    chosen = LogisticRegressionCV(Cs=np.logspace(-5, -1, 3), cv=3, scoring="roc_auc", max_iter=300)
    yield "pixels", fitted(development.flat, development.labels, test.flat, chosen)


def fitted(seen: np.ndarray, labels: np.ndarray, unseen: np.ndarray, model: Any = None) -> np.ndarray:
    """Return the decision function on `unseen` of a logistic regression fitted on `seen`."""
    whole = make_pipeline(StandardScaler(), model or LogisticRegression())
    return whole.fit(seen, labels).decision_function(unseen)


def diameters(settings: params.Params, seed: int) -> dict[str, list[float]]:
    """Return by pseudonym of the patient the largest diameter in each study, mm."""
    options = Options(**settings.ingest.options["phantom"])
    pseudonyms, found = privacy.Pseudonyms.load(), {}
    for index in range(options.patients):
        if anatomy.person(index, options, seed).has_nodule:
            patient = anatomy.patient(index, options, seed)
            studies = [radiograph.study(patient, number, seed) for number in range(patient.person.studies)]
            name = pseudonyms.of("patient", header.patient_id(index, seed))
            found[name] = [max(nodule.diameter_mm for nodule in study.nodules) for study in studies]
    return found


def by_diameter(test: Split, scores: np.ndarray, known: dict[str, list[float]]) -> list[float]:
    """Print and return the AUC of studies whose largest nodule lies between two diameters, against those without."""
    order = test.index.groupby("patient_id").cumcount()
    largest = np.array(
        [known[who][nth] if who in known else 0 for who, nth in zip(test.index["patient_id"], order, strict=True)]
    )
    assert ((largest > 0) == test.labels).all()
    values = []
    for low, high in pairwise(EDGES_MM):
        keep = (test.labels == 0) | ((largest >= low) & (largest < high))
        part = Split(test.images[keep], test.labels[keep], test.index[keep].reset_index(drop=True))
        value = estimate(part, scores[keep])
        values.append(value[0])
        say(f"nodules of {low:g} to {high:.0f} mm (n = {int(part.labels.sum())})", *value)
    return values


def estimate(test: Split, scores: np.ndarray) -> Estimate:
    """Return the AUC and its 95% interval from a bootstrap over patients."""
    groups, generator = pd.factorize(test.index["patient_id"])[0], np.random.default_rng(0)
    size = groups.max() + 1
    drawn = []
    for _ in range(RESAMPLES):
        weights = np.bincount(generator.integers(size, size=size), minlength=size)[groups]
        drawn.append(roc_auc_score(test.labels, scores, sample_weight=weights))
    return (roc_auc_score(test.labels, scores), *np.quantile(drawn, [0.025, 0.975]))


def say(
    what: str,
    value: float | None = None,
    low: float | None = None,
    high: float | None = None,
    *,
    wanted: bool | None = None,
) -> None:
    """Print one row."""
    interval = "" if low is None else f"[{low:.3f}, {high:.3f}]"
    shown = "" if value is None else str(value) if isinstance(value, int) else f"{value:.3f}"
    print(
        f"  {what:<46}{shown:>8}  {interval:<16}{'' if wanted is None else 'ok' if wanted else 'NOT AS WANTED'}",
        flush=True,
    )


if __name__ == "__main__":
    main()
