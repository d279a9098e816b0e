"""Grades: metrics against scikit-learn, the loss against its formula, and probabilities that fall along the scale."""

import math

import numpy as np
import pandas as pd
import pytest
from sklearn import metrics as reference

from medloop import params
from medloop.answers import ordinal as answers
from medloop.errors import Refused
from medloop.tasks import ordinal
from medloop.training import backend

FACTS = {"classes": ("none", "mild", "severe"), "ordered": True, "source": "folder"}


@pytest.fixture(scope="module")
def said():
    """Labels, steps and probabilities of 200 samples of four grades."""
    random = np.random.default_rng(0)
    labels = random.integers(0, 4, 200)
    steps = random.normal(0, 1.5, (200, 3)) + 1.5 * (labels[:, None] - np.arange(3) - 0.5)
    return labels, steps, answers.probabilities(steps)


def test_metrics_agree_with_scikit_learn(said):
    labels, _, probability = said
    decided = answers.decide(probability)
    found = {name: value[0] for name, value in ordinal.metrics(labels, probability, decided).items()}
    above = np.cumsum(probability[:, ::-1], axis=1)[:, ::-1]
    wanted = {
        "kappa": reference.cohen_kappa_score(labels, decided, weights="quadratic"),
        "mae": reference.mean_absolute_error(labels, decided),
        "accuracy": reference.accuracy_score(labels, decided),
        "within_one": np.mean(np.abs(labels - decided) <= 1),
        "balanced_accuracy": reference.balanced_accuracy_score(labels, decided),
        "auc": np.mean([reference.roc_auc_score(labels >= k, above[:, k]) for k in (1, 2, 3)]),
        "brier": np.mean(((probability - np.eye(4)[labels]) ** 2).sum(axis=1)),
    }
    assert list(found) == list(ordinal.METRICS)
    assert {name: found[name] for name in wanted} == pytest.approx(wanted)
    assert ordinal.score(labels, probability) == pytest.approx(wanted["kappa"])


def test_weights_stand_for_repeated_samples(said):
    labels, _, probability = said
    weights = np.random.default_rng(1).integers(0, 4, (3, len(labels))).astype(float)
    found = ordinal.metrics(labels, probability, answers.decide(probability), weights)
    for row, weight in enumerate(weights):
        drawn = np.repeat(np.arange(len(labels)), weight.astype(int))
        wanted = ordinal.metrics(labels[drawn], probability[drawn], answers.decide(probability[drawn]))
        assert {name: value[row] for name, value in found.items()} == pytest.approx(
            {name: value[0] for name, value in wanted.items()}
        )


def test_probabilities_sum_to_one_and_that_of_more_falls_with_the_grade(said):
    _, steps, probability = said
    assert probability.sum(axis=1) == pytest.approx(1)
    assert (probability >= 0).all()
    by_hand = 1 / (1 + np.exp(-steps))
    assert 1 - probability[:, 0] == pytest.approx(by_hand[:, 0])
    assert probability[:, 3] == pytest.approx(by_hand.prod(axis=1))
    extreme = answers.probabilities(np.array([[800.0, -800.0, 0.0], [-800.0, 800.0, 800.0]]))
    assert extreme == pytest.approx(np.array([[0, 1, 0, 0], [1, 0, 0, 0]]))


@pytest.mark.parametrize("section", [None, params.Train(mixup=0.2, label_smoothing=0.2, loss="focal", focal_gamma=2)])
def test_the_loss_is_the_likelihood_of_the_grade(said, section):
    backend.start("tensorflow", seed=0)
    labels, steps, probability = (part[:20] for part in said)
    weights = np.random.default_rng(2).uniform(0, 2, 20)
    shares = np.eye(4)[labels] if section is None else np.random.default_rng(3).dirichlet(np.ones(4), 20)
    given = labels if section is None else shares.astype(np.float32)
    smoothed = shares if section is None else 0.8 * shares + 0.05
    gamma = 0 if section is None else 2
    lost = -(smoothed * (1 - probability) ** gamma * np.log(probability)).sum(axis=1)
    found = float(ordinal.loss(section)(given, steps.astype(np.float32), weights.astype(np.float32)))
    assert found == pytest.approx(np.mean(lost * weights), rel=1e-4)


def test_calibration_takes_back_what_class_weights_add():
    random = np.random.default_rng(0)
    prior = np.array([0.6, 0.1, 0.3])
    labels = random.choice(3, 4000, p=prior)
    near = np.exp(-0.5 * (random.normal(1.5 * labels)[:, None] - 1.5 * np.arange(3)) ** 2)
    by_balanced = [np.log(near[:, k + 1 :].sum(axis=1) / near[:, k]) for k in (0, 1)]  # what a network then learns
    steps = 1.5 * np.stack(by_balanced, axis=1)
    chosen = ordinal.chosen(labels[:2000], steps[:2000], {}, params.Evaluate())
    assert chosen["calibrated"]
    truth = near[2000:] * prior / (near[2000:] @ prior)[:, None]
    told, raw = (answers.said(steps[2000:], card) for card in (chosen, {}))
    assert np.abs(told - truth).mean() < 0.03 < np.abs(raw - truth).mean()
    assert ordinal.score(labels[2000:], told) > ordinal.score(labels[2000:], raw) + 0.03
    assert told.sum(axis=1) == pytest.approx(1)


def test_predictions_survive_their_file(said, tmp_path):
    labels, steps, _ = said
    table = pd.DataFrame({name: [None] * 200 for name in ("patient_id", "site", "sex", "age_years")})
    table["sample_id"] = [f"s{i}" for i in range(200)]
    card = {"classes": list("abcd"), "temperature": [1.3, 1.2, 1.1], "bias": [0.1, 0.0, -0.2]}
    made = ordinal.predictions(table, labels, steps, card)
    made.frame().to_parquet(tmp_path / "p.parquet")
    again = ordinal.read(pd.read_parquet(tmp_path / "p.parquet"), card)
    assert np.array_equal(again.probabilities, made.probabilities)
    assert np.array_equal(again.decisions, made.decisions)
    assert made.counts()["classes"] == {name: int((labels == k).sum()) for k, name in enumerate("abcd")}


@pytest.mark.parametrize(
    ("facts", "said"),
    [
        ({"ordered": False}, r"states none of its classes \(none, mild, severe\): .* in ingest.order"),
        ({"multi_label": True}, "several labels: take multilabel"),
    ],
)
def test_an_order_that_nobody_stated_is_refused(facts, said):
    with pytest.raises(Refused, match=said):
        ordinal.check(FACTS | facts)


def test_two_grades_are_no_scale():
    with pytest.raises(Refused, match="at least three grades, got 2: none, severe"):
        ordinal.outputs(["none", "severe"])
    assert ordinal.outputs(FACTS["classes"]) == 2
    assert math.isnan(ordinal.gate(np.zeros(3, int), np.eye(3)[[0, 0, 0]], np.ones((1, 3)))[0])
