"""Intervals of every metric from 2,000 resamples of patients, against a loop over scikit-learn's metrics.

The loop does 50 resamples, and its time is taken per resample. Prints seconds and the ratio of times, medians of
interleaved runs. 1,000 samples of 700 patients, two classes.
"""

import statistics
import time

import numpy as np
import pandas as pd
from sklearn import metrics as reference

from medloop import params
from medloop.evaluation import scores
from medloop.tasks import classification

SAMPLES, PATIENTS, LOOPS, RUNS = 1000, 700, 50, 5


def main() -> None:
    """Print the seconds of both ways and their ratio."""
    predictions, section = _predictions(), params.Evaluate()
    seconds: dict[str, list[float]] = {"loop": [], "product": []}
    for run in range(RUNS):
        start = time.perf_counter()
        loop(predictions, run)
        seconds["loop"].append((time.perf_counter() - start) / LOOPS * section.resamples)
        start = time.perf_counter()
        scores.scores(predictions, classification, section, run)
        seconds["product"].append(time.perf_counter() - start)
    plain, product = (statistics.median(seconds[way]) for way in ("loop", "product"))
    print(
        f"{section.resamples} resamples: {product:.2f} s, {plain / product:.0f}x scikit-learn in a loop ({plain:.1f} s)"
    )


def loop(predictions: classification.Predictions, seed: int) -> list[list[float]]:
    """Return the metrics that scikit-learn has, of LOOPS resamples."""
    random = np.random.default_rng(seed)
    rows = predictions.table.groupby("patient_id").indices
    patients = np.array(list(rows))
    values = []
    for _ in range(LOOPS):
        drawn = np.concatenate([rows[patient] for patient in random.choice(patients, len(patients))])
        truth, decided, score = (
            predictions.labels[drawn],
            predictions.decisions[drawn],
            predictions.probabilities[drawn, 1],
        )
        values.append(
            [
                reference.roc_auc_score(truth, score),
                reference.accuracy_score(truth, decided),
                reference.balanced_accuracy_score(truth, decided),
                reference.recall_score(truth, decided),
                reference.recall_score(truth, decided, pos_label=0),
                reference.precision_score(truth, decided),
                reference.precision_score(truth, decided, pos_label=0),
                reference.f1_score(truth, decided),
                reference.brier_score_loss(truth, score),
            ]
        )
    return values


def _predictions() -> classification.Predictions:
    random = np.random.default_rng(0)
    labels = random.integers(0, 2, SAMPLES)
    score = 1 / (1 + np.exp(-random.normal(labels * 1.5 - 0.75)))
    patients = random.integers(0, PATIENTS, SAMPLES).astype(str)
    return classification.Predictions(
        pd.DataFrame({"patient_id": patients}),
        labels,
        np.stack([1 - score, score], axis=1),
        (score > 0.5).astype(int),
        ["clear", "nodule"],
        1,
    )


if __name__ == "__main__":
    main()
