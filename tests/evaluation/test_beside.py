"""How far a network is beyond a rival: paired, by patient."""

from dataclasses import replace

import numpy as np
import pandas as pd
import pytest

from medloop import params
from medloop.evaluation import beside, wording
from medloop.tasks import regression
from medloop.tasks.regression import Predictions

SECTION = params.Evaluate(resamples=400)


def predictions(error, samples=80):
    random = np.random.default_rng(0)
    labels = random.normal(size=samples)
    table = pd.DataFrame({"patient_id": [f"p{number // 2}" for number in range(samples)]})
    return Predictions(table, labels, labels + error * random.normal(size=samples))


def test_the_interval_of_a_difference_is_that_of_the_same_patients():
    ours = predictions(0.6)
    theirs = replace(ours, values=ours.values + 0.05 * np.random.default_rng(1).normal(size=80))
    found = beside.beyond(ours, theirs, regression, SECTION, seed=0)["r2"]
    apart = [float(each.metrics()["r2"][0]) for each in (ours, theirs)]
    assert found["value"] == pytest.approx(apart[0] - apart[1])
    assert found["low"] < found["value"] < found["high"]
    alone = beside.beyond(ours, predictions(0.0), regression, SECTION, seed=0)["r2"]
    assert found["high"] - found["low"] < 0.3 * (alone["high"] - alone["low"])


def test_a_network_that_is_worse_than_a_rival_is_told_among_the_limits():
    found = {"beyond": {"ridge": beside.beyond(predictions(1.0), predictions(0.1), regression, SECTION, seed=0)}}
    assert found["beyond"]["ridge"]["r2"]["high"] < 0
    [said] = wording._beaten(found)
    assert said.startswith("Worse than ridge regression on the same inputs: R² -")
    assert "each resample on the same patients: R² -" in wording.beyond(found)[0]


def test_the_same_predictions_have_no_interval():
    ours = predictions(0.5)
    found = beside.beyond(ours, ours, regression, SECTION, seed=0)["r2"]
    assert (found["value"], found["low"]) == (0, None)
