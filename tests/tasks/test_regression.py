import numpy as np
import pandas as pd
import pytest
from sklearn import metrics as reference
from sklearn.linear_model import Ridge

from medloop import params
from medloop.errors import Refused
from medloop.evaluation import scores
from medloop.tasks import regression


def data(n: int = 200, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    random = np.random.default_rng(seed)
    labels = random.normal(100, 3, n).astype(np.float32)
    return labels, labels + random.normal(0.5, 1, n)


def test_metrics_agree_with_scikit_learn_weighted_and_not():
    labels, values = data()
    weights = np.random.default_rng(1).integers(0, 4, (5, len(labels))).astype(float)
    found = regression.metrics(labels, values, weights)
    for row, weight in enumerate(weights):
        assert found["mae"][row] == pytest.approx(reference.mean_absolute_error(labels, values, sample_weight=weight))
        assert found["rmse"][row] == pytest.approx(
            reference.root_mean_squared_error(labels, values, sample_weight=weight)
        )
        assert found["r2"][row] == pytest.approx(reference.r2_score(labels, values, sample_weight=weight))
    assert regression.score(labels, values[:, None]) == pytest.approx(reference.r2_score(labels, values))


def test_every_value_stands_inside_its_interval_and_blocks_widen_it():
    labels, values = data()
    table = pd.DataFrame({"patient_id": ["p"] * len(labels), "block": np.arange(len(labels)) // 10})
    section = params.Evaluate(resamples=300)
    found = scores.scores(regression.Predictions(table, labels, values), regression, section, seed=0)
    assert list(found) == list(regression.METRICS)
    assert all(entry["low"] < entry["value"] < entry["high"] for entry in found.values())
    alone = scores.scores(
        regression.Predictions(table.drop(columns="block"), labels, values), regression, section, seed=0
    )
    assert alone["rmse"]["reason"], "one patient says nothing about patients"


def test_scaled_targets_come_back_as_they_were():
    labels, _ = data()
    target = regression.fitted(labels)
    scaled = regression.scaled(labels, target)
    assert scaled.mean() == pytest.approx(0, abs=1e-4)
    assert scaled.std() == pytest.approx(1, abs=1e-4)
    np.testing.assert_allclose(regression.said(scaled[:, None], {"target": target})[:, 0], labels, rtol=1e-5)


def test_rivals_are_persistence_and_the_ridge_of_scikit_learn():
    random = np.random.default_rng(0)
    inputs = random.normal(size=(300, 10, 1)).astype(np.float32) * 0.2 + 3
    labels = (inputs[:, -1, 0] * 2 - inputs[:, 3, 0] + random.normal(size=300) * 0.1).astype(np.float32)
    floors = regression.floors(inputs, labels, {"preprocessing": {"horizon": 1}})
    flat = inputs[..., 0].astype(float)
    scaled = (flat - flat.mean(axis=0)) / flat.std(axis=0)
    wanted = Ridge(alpha=1.0).fit(scaled, labels).predict(scaled)
    blank = regression.Predictions(pd.DataFrame(index=range(300)), labels, np.zeros(300))
    found = regression.rivals(floors, inputs, blank)
    np.testing.assert_allclose(found["ridge"].values, wanted, atol=1e-5)
    np.testing.assert_array_equal(found["persistence"].values, inputs[:, -1, 0])
    assert "persistence" not in regression.floors(inputs, labels, {"preprocessing": {}})


def test_samples_without_a_number_and_numbers_that_do_not_differ_are_refused():
    with pytest.raises(Refused, match="a number for every sample, 1 of 2 have none"):
        regression.targets(pd.DataFrame({"target": [1.0, None]}), ())
    with pytest.raises(Refused, match="targets that differ, all 3 of train are 2"):
        regression.fitted(np.full(3, 2.0, np.float32))


def test_predictions_are_read_back_from_their_own_table():
    labels, values = data(20)
    table = pd.DataFrame({name: ["x"] * 20 for name in ("sample_id", "patient_id", "site", "sex", "age_years")})
    frame = regression.Predictions(table.assign(start=range(20), block=0), labels, values).frame()
    again = regression.read(frame, {})
    assert {"start", "block"} <= set(frame)
    np.testing.assert_array_equal(again.metrics()["rmse"], regression.metrics(labels, values)["rmse"])


@pytest.mark.parametrize(
    "given", [{"loss": "focal"}, {"label_smoothing": 0.1}, {"mixup": 0.2}, {"sampling": "balanced"}]
)
def test_what_only_classes_know_is_refused(given):
    [(name, value)] = given.items()
    with pytest.raises(
        Refused, match=f"task regression has no classes to smooth, mix, weigh or balance: set train.{name}"
    ):
        regression.loss(params.Train(**given))
    assert getattr(params.Train(**given), name) == value
