import numpy as np
import pandas as pd
import pytest
from scipy.stats import norm, t

from medloop import measures
from medloop.evaluation import bootstrap
from medloop.tasks import classification


def test_samples_of_one_patient_share_a_cluster_and_the_unknown_stand_alone():
    found = bootstrap.clusters(pd.Series(["b", None, "a", "b", None]))
    assert found[0] == found[3]
    assert len(set(found)) == 4
    assert sorted(set(found)) == [0, 1, 2, 3]


def test_a_patients_samples_are_drawn_together():
    groups = np.array([0, 0, 1, 2, 2, 2])
    seen = bootstrap.draw(lambda weights: {"weights": weights}, groups, 500, seed=1)["weights"]
    assert np.array_equal(seen[:, 0], seen[:, 1])
    assert np.array_equal(seen[:, 3], seen[:, 5])
    patients = seen[:, [0, 2, 3]]
    assert (patients.sum(axis=1) == 3).all(), "as many patients are drawn as there are"
    assert patients.mean(axis=0) == pytest.approx(1, abs=0.15)


def test_the_same_seed_draws_the_same_whatever_fits_into_memory_at_once(monkeypatch):
    groups = np.arange(20)

    def drawn() -> np.ndarray:
        return bootstrap.draw(lambda weights: {"weights": weights}, groups, 50, seed=3)["weights"]

    whole = drawn()
    monkeypatch.setattr(bootstrap, "CHUNK", 70)
    assert np.array_equal(whole, drawn())


def test_an_interval_leaves_out_and_counts_what_is_undefined():
    drawn = np.append(np.linspace(0, 1, 99), np.nan)
    found = bootstrap.interval(0.5, drawn, 0.9, size=10**9)
    assert found == {"value": 0.5, "low": pytest.approx(0.05), "high": pytest.approx(0.95), "undefined": 1}


def test_few_patients_widen_an_interval_by_what_students_t_adds():
    drawn = norm.ppf((np.arange(20_000) + 0.5) / 20_000)  # of mean 0 and standard deviation 1
    found = bootstrap.interval(0.0, drawn, 0.95, size=10)
    assert found["high"] == pytest.approx(t.ppf(0.975, 9) * np.sqrt(10 / 9), rel=1e-2)
    assert found["low"] == pytest.approx(-found["high"], rel=1e-2)
    assert bootstrap.interval(0.0, drawn, 0.95, size=1)["reason"] == "a single patient of a class"


def test_the_rarest_class_is_counted_in_patients():
    labels, groups = np.array([0, 0, 0, 1, 1, 1]), np.array([0, 1, 2, 2, 3, 3])
    assert classification.rarest(labels, groups) == 2


@pytest.mark.parametrize(
    ("value", "drawn", "reason"),
    [
        (0.5, [0.4, 0.5, np.nan, 0.6], "undefined in 25% of the resamples"),
        (1.0, [1.0, 1.0, 1.0], "every resample agrees: too few errors to tell"),
        (np.nan, [np.nan, np.nan], "undefined: nothing to count"),
    ],
)
def test_where_there_is_no_interval_a_reason_stands(value, drawn, reason):
    found = bootstrap.interval(value, np.array(drawn), 0.95, size=40)
    assert (found["low"], found["high"], found["reason"]) == (None, None, reason)
    assert found["value"] == (None if np.isnan(value) else value)


def test_intervals_of_clustered_patients_cover_the_true_auc():
    """Two images a patient that look alike: nominal 95% covers; images drawn one by one would be too sure."""
    random = np.random.default_rng(2024)
    true, patients, runs = norm.cdf(1.2 / np.sqrt(2)), 80, 200
    hits = {"patients": 0, "images": 0}
    for run in range(runs):
        labels = np.repeat(random.permutation(np.arange(patients) % 2), 2)
        marks = 1.2 * labels + np.repeat(random.normal(size=patients), 2) * 0.9**0.5
        scores = norm.cdf(marks + random.normal(size=2 * patients) * 0.1**0.5)
        table = np.stack([1 - scores, scores], axis=1)
        for unit, size in (("patients", 2), ("images", 1)):
            drawn = bootstrap.draw(
                lambda weights, y=labels, p=table: {"auc": classification.gate(y, p, weights, positive=1)},
                np.arange(2 * patients) // size,
                400,
                seed=run,
            )["auc"]
            found = bootstrap.interval(classification.score(labels, table), drawn, 0.95, size=patients // 2)
            hits[unit] += found["low"] <= true <= found["high"]
    assert 0.90 <= hits["patients"] / runs <= 0.99
    assert hits["images"] / runs < 0.90


def test_a_calibration_errors_interval_holds_its_own_value():
    """Resampling alone lets a mean of absolute values grow: taken as it is, the interval can lie above the value."""
    random = np.random.default_rng(0)
    score = random.random(150)
    labels = (random.random(150) < score).astype(int)
    table = np.stack([1 - score, score], axis=1)

    def error(weights: np.ndarray | None) -> dict[str, np.ndarray]:
        return measures.of_classes(labels, table, labels, positive=1, weights=weights)

    value = float(error(None)["ece"][0])
    drawn = bootstrap.draw(error, np.arange(150), 500, seed=0)["ece"]
    assert drawn.mean() > value + 0.01
    found = bootstrap.interval(value, drawn, 0.95, size=60, centred=True)
    assert 0 <= found["low"] < value < found["high"]
