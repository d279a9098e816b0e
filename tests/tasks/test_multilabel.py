"""Several labels at once: metrics against scikit-learn, the loss against its formula, and labels that nobody has."""

import numpy as np
import pandas as pd
import pytest
from sklearn import metrics as reference
from sklearn.linear_model import LogisticRegression

from medloop import calibration, params
from medloop.answers import multilabel as answers
from medloop.errors import Refused
from medloop.evaluation import scores
from medloop.tasks import multilabel
from medloop.training import backend, data, mixup

NAMES = ["mass", "nodule", "hernia"]
CARD = {"classes": NAMES, "temperature": [1.0, 2.0, 0.5], "threshold": [0.5, 0.3, 0.6]}


def table(count):
    known = {name: [None] * count for name in ("patient_id", "site", "sex", "age_years")}
    return pd.DataFrame({"sample_id": [f"s{i:03}" for i in range(count)], **known})


@pytest.fixture(scope="module")
def said():
    """Labels, logits and what the model of CARD says of 150 samples with three labels, one in ten with the third."""
    random = np.random.default_rng(0)
    labels = (random.random((150, 3)) < [0.5, 0.3, 0.1]).astype(np.uint8)
    logits = random.normal(0, 1, (150, 3)) + 1.5 * labels - 0.7
    return labels, logits, multilabel.predictions(table(150), labels, logits, CARD)


def test_metrics_agree_with_scikit_learn(said):
    labels, _, found = said
    p, decided = found.probabilities, found.decisions
    wanted = {
        "auc": reference.roc_auc_score(labels, p, average="macro"),
        "accuracy": 1 - reference.hamming_loss(labels, decided),
        "sensitivity": reference.recall_score(labels, decided, average="macro"),
        "specificity": reference.recall_score(1 - labels, 1 - decided, average="macro"),
        "f1": reference.f1_score(labels, decided, average="macro"),
        "brier": np.mean([reference.brier_score_loss(labels[:, i], p[:, i]) for i in range(3)]),
        "average_precision": reference.average_precision_score(labels, p, average="macro"),
        "micro_f1": reference.f1_score(labels, decided, average="micro"),
        "exact_match": reference.accuracy_score(labels, decided),
    }
    metrics = {name: value[0] for name, value in found.metrics().items()}
    assert list(metrics) == list(multilabel.METRICS)
    assert {name: metrics[name] for name in wanted} == pytest.approx(wanted)
    assert multilabel.score(labels, p) == pytest.approx(wanted["auc"])
    one = {name: value[0] for name, value in found.by_label()["nodule"].metrics().items()}
    assert one["average_precision"] == pytest.approx(reference.average_precision_score(labels[:, 1], p[:, 1]))
    assert one["ppv"] == pytest.approx(reference.precision_score(labels[:, 1], decided[:, 1]))


def test_weights_stand_for_repeated_samples(said):
    labels, logits, found = said
    weights = np.random.default_rng(1).integers(0, 4, (3, 150)).astype(float)
    values = found.metrics(weights)
    for row, weight in enumerate(weights):
        drawn = np.repeat(np.arange(150), weight.astype(int))
        wanted = multilabel.predictions(table(len(drawn)), labels[drawn], logits[drawn], CARD).metrics()
        assert {name: value[row] for name, value in values.items()} == pytest.approx(
            {name: value[0] for name, value in wanted.items()}
        )


def test_each_label_has_its_metrics_with_intervals(said):
    found = scores.by_label(said[2], multilabel, params.Evaluate(resamples=200), seed=0)
    assert list(found) == NAMES
    auc = found["mass"]["metrics"]["auc"]
    assert auc["low"] < auc["value"] < auc["high"]
    assert found["hernia"]["n"] == said[0][:, 2].sum()


def test_a_label_that_nobody_has_has_no_part_in_the_means(said):
    labels, logits, _ = said
    without = labels * [1, 1, 0]
    found = multilabel.predictions(table(150), without.astype(np.uint8), logits, CARD)
    assert found.metrics()["auc"][0] == pytest.approx(
        reference.roc_auc_score(without[:, :2], found.probabilities[:, :2])
    )
    entry = scores.by_label(found, multilabel, params.Evaluate(resamples=200), seed=0)["hernia"]["metrics"]["auc"]
    assert entry["value"] is None
    assert "undefined" in entry["reason"]
    with pytest.raises(Refused, match="AUC needs samples with a label and without it"):
        multilabel.score(np.zeros((4, 2), np.uint8), np.full((4, 2), 0.5))
    assert "0 test samples of class hernia" in multilabel.too_few(without, NAMES, params.Promote())


def test_temperatures_and_thresholds_are_chosen_label_by_label(said):
    labels, logits, _ = said
    without = (labels * [1, 1, 0]).astype(np.uint8)
    chosen = multilabel.chosen(without, 3 * logits, CARD, params.Evaluate(target_sensitivity=0.9))
    assert chosen["temperature"][0] > 1.5
    assert chosen["uncalibrated"] == ["hernia"], "of a label that nobody has there is nothing to calibrate"
    assert (chosen["temperature"][2], chosen["bias"][2]) == (1.0, 0.0)
    assert chosen["threshold"][2] == 0.5
    assert chosen["without_threshold"] == ["hernia"]
    probability = answers.said(3 * logits, chosen)
    for i in (0, 1):
        reached = (probability[:, i] >= chosen["threshold"][i])[labels[:, i] > 0].mean()
        assert 0.9 <= reached < 0.95
    with pytest.raises(Refused, match="positive_class must be null"):
        multilabel.chosen(labels, logits, CARD, params.Evaluate(positive_class="mass"))


@pytest.mark.parametrize("section", [None, params.Train(mixup=0.2, label_smoothing=0.2, loss="focal", focal_gamma=2)])
def test_the_loss_follows_its_formula(said, section):
    backend.start("tensorflow", seed=0)
    labels, logits, _ = (part[:20] if isinstance(part, np.ndarray) else part for part in said)
    weights = np.random.default_rng(2).uniform(0, 2, 20)
    shares = labels if section is None else np.random.default_rng(3).random((20, 3))
    yes = shares if section is None else 0.8 * shares + 0.1
    p = 1 / (1 + np.exp(-logits))
    gamma = 0 if section is None else 2
    lost = -(yes * (1 - p) ** gamma * np.log(p) + (1 - yes) * p**gamma * np.log(1 - p)).mean(axis=1)
    given = labels if section is None else shares.astype(np.float32)
    found = float(multilabel.loss(section)(given, logits.astype(np.float32), weights.astype(np.float32)))
    assert found == pytest.approx(np.mean(lost * weights), rel=1e-4)


def test_each_label_is_weighed_by_itself(said):
    labels, logits, _ = said
    weights = data.sample_weights(labels, 3, "balanced")
    assert weights.shape == labels.shape
    for label, weight in zip(labels.T, weights.T, strict=True):
        assert weight[label > 0].sum() == pytest.approx(75)
        assert weight[label == 0].sum() == pytest.approx(75)
    backend.start("tensorflow", seed=0)
    p = 1 / (1 + np.exp(-logits))
    wanted = np.mean(weights * -np.log(np.where(labels, p, 1 - p)))
    assert float(multilabel.loss()(labels, logits.astype(np.float32), weights)) == pytest.approx(wanted, rel=1e-4)


@pytest.mark.parametrize("weighed", [False, True])
def test_the_loss_of_a_mixed_pair_is_a_share_of_each_sample_s_own(said, weighed):
    labels, logits, _ = said
    backend.start("tensorflow", seed=0)
    weights = data.sample_weights(labels, 3, "balanced") if weighed else np.ones(150, np.float32)
    first, second, share = np.arange(4), np.arange(4, 8), np.array([1, 0.5, 0.25, 0])
    mixed, scale = mixup.labels(labels, weights, first, second, share)
    loss, given = multilabel.loss(params.Train(mixup=0.2)), logits[:4].astype(np.float32)
    found = [float(loss(mixed[i : i + 1], given[i : i + 1], scale[i : i + 1])) for i in range(4)]
    own = [
        [float(loss(labels[[row]].astype(np.float32), given[i : i + 1], weights[[row]])) for i, row in enumerate(rows)]
        for rows in (first, second)
    ]
    assert found == pytest.approx(share * own[0] + (1 - share) * own[1], rel=1e-4)


def test_calibration_is_the_logistic_regression_of_scikit_learn(said):
    labels, logits, _ = said
    for label, z in zip(labels.T, logits.T, strict=True):
        heat, bias, done = calibration.platt(3 * z, label)
        yes = np.where(label > 0, (label.sum() + 1) / (label.sum() + 2), 1 / ((label == 0).sum() + 2))
        line = LogisticRegression(C=np.inf, tol=1e-10, max_iter=1000).fit(
            np.tile(3 * z, 2)[:, None], np.repeat([1, 0], 150), np.concatenate([yes, 1 - yes])
        )
        assert done
        assert (1 / heat, bias) == pytest.approx((line.coef_[0, 0], line.intercept_[0]), rel=1e-4)
    apart, upside_down = np.linspace(-1, 1, 20), np.linspace(1, -1, 20)
    heat, bias, done = calibration.platt(apart, (apart > 0).astype(np.uint8))
    assert done, "Platt's labels have an answer where there is no error"
    assert calibration.platt(upside_down, (apart > 0).astype(np.uint8)) == (1.0, 0.0, False)


def test_what_is_served_names_the_decided_labels(said):
    _, logits, found = said
    answer = answers.answer(logits, CARD)
    assert list(answer) == list(answers.columns(CARD)) == ["p_mass", "p_nodule", "p_hernia", "decision"]
    row = int(np.flatnonzero(found.decisions.sum(axis=1) == 2)[0])
    assert answer["decision"][row].split("|") == [
        name for name, yes in zip(NAMES, found.decisions[row], strict=True) if yes
    ]
    assert "" in answer["decision"].tolist()


def test_exclusive_classes_are_refused():
    with pytest.raises(Refused, match="take task classification or ordinal"):
        multilabel.check({"source": "folder", "classes": NAMES})
    with pytest.raises(Refused, match=r"train\.sampling: natural"):
        multilabel.loss(params.Train(sampling="balanced"))
