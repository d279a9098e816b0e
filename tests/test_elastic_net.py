"""The elastic net against scikit-learn's, and what chooses its penalty."""

import numpy as np
import pytest
from sklearn.linear_model import LogisticRegression

from medloop import dealing, elastic_net
from medloop.tasks import ordinal


def data(classes, samples=60, features=120, seed=0):
    random = np.random.default_rng(seed)
    inputs = random.normal(size=(samples, features))
    inputs[:, 1] = 0.8 * inputs[:, 0] + 0.6 * inputs[:, 1]
    truth = inputs[:, :classes] @ np.eye(classes) * 2 + random.normal(size=(samples, classes))
    return inputs, truth.argmax(axis=1)


def reference(inputs, labels, penalty, ratio, weights=None):
    total = len(labels) if weights is None else weights.sum()
    model = LogisticRegression(C=1 / (penalty * total), l1_ratio=ratio, solver="saga", tol=1e-8, max_iter=200_000)
    return model.fit(inputs, labels, sample_weight=weights)


@pytest.mark.parametrize("classes", [2, 3])
@pytest.mark.parametrize("ratio", [0.5, 1.0])
def test_it_is_scikit_learn_s_elastic_net(classes, ratio, monkeypatch):
    monkeypatch.setattr(elastic_net, "EXACT", 1e-6)
    inputs, labels = data(classes)
    penalty = elastic_net.penalties(inputs, labels, classes, ratio)[3]
    found = elastic_net.fit(inputs, labels, classes, penalty, ratio=ratio)
    wanted = reference(inputs, labels, penalty, ratio)
    np.testing.assert_allclose(found.coef.T, wanted.coef_, atol=2e-4)
    assert 0 < (found.size > 0).sum() < 60
    said = found.outputs(inputs)
    shares = np.exp(said) / np.exp(said).sum(axis=1, keepdims=True)
    np.testing.assert_allclose(shares, wanted.predict_proba(inputs), atol=1e-3)


def test_weights_count_a_sample_as_often_as_it_came():
    inputs, labels = data(2)
    came = np.random.default_rng(1).integers(0, 3, len(labels))
    penalty = elastic_net.penalties(inputs, labels, 2)[3]
    one = elastic_net.fit(inputs, labels, 2, penalty, weights=came)
    other = elastic_net.fit(np.repeat(inputs, came, axis=0), np.repeat(labels, came), 2, penalty)
    np.testing.assert_allclose(one.coef, other.coef, atol=1e-3)


def test_the_first_penalty_selects_nothing_and_the_next_does():
    inputs, labels = data(3)
    grid = elastic_net.penalties(inputs, labels, 3)
    sizes = [int((each.size > 0).sum()) for each in elastic_net.path(inputs, labels, 3, grid[:4])]
    assert sizes[0] == 0 < sizes[1] <= sizes[3]


def test_a_patient_s_samples_share_a_fold_and_each_fold_has_every_class():
    labels = np.arange(40) % 2
    patients = [f"p{number // 4}{label}" for number, label in enumerate(labels)]
    fold, fewest = dealing.dealt(patients, labels, 5, seed=0)
    assert fewest == 10
    by_patient = {name: {f for f, p in zip(fold, patients, strict=True) if p == name} for name in patients}
    assert {len(folds) for folds in by_patient.values()} == {1}
    assert all(set(labels[fold == number]) == {0, 1} for number in range(5))


def test_what_is_kept_says_the_same_and_chose_its_penalty_without_its_own_samples():
    inputs, labels = data(2, samples=80)
    entry = elastic_net.beside(inputs, labels, [f"p{i}" for i in range(80)], 2, seed=0)
    assert entry == elastic_net.beside(inputs, labels, [f"p{i}" for i in range(80)], 2, seed=0)
    best = int(np.argmin(entry["loss"]))
    grid = elastic_net.penalties(inputs, labels, 2)
    assert entry["penalty"] == grid[best]
    kept = elastic_net.kept(entry)
    again = elastic_net.fit(inputs, labels, 2, entry["penalty"])
    np.testing.assert_allclose(kept.coef, again.coef, atol=2e-3)
    unseen = np.array(entry["outputs"])
    own = kept.outputs(inputs)
    accuracy = [(each.argmax(axis=1) == labels).mean() for each in (own, unseen)]
    assert accuracy[0] > accuracy[1] > 0.6
    assert 0 in entry["rows"]


def test_questions_are_answered_side_by_side_each_by_those_who_are_asked():
    inputs, labels = data(3, samples=120)
    patients = [f"p{i}" for i in range(120)]
    questions = ordinal.questions(labels, ["none", "mild", "severe"])
    assert questions[labels == 0].tolist() == [[0, -1]] * (labels == 0).sum()
    assert questions[labels == 2].tolist() == [[1, 1]] * (labels == 2).sum()
    entry = elastic_net.beside_each(inputs, labels, questions, patients, seed=0)
    asked = np.flatnonzero(labels >= 1)
    alone = elastic_net.beside(inputs[asked], (labels[asked] == 2).astype(int), [patients[i] for i in asked], 2, seed=0)
    assert entry["each"][1]["penalty"] == alone["penalty"]
    said, kept = np.array(alone["outputs"]), elastic_net.kept(entry)
    np.testing.assert_allclose(np.array(entry["outputs"])[asked, 1], said[:, 1] - said[:, 0], atol=2e-6)
    np.testing.assert_allclose(kept.outputs(inputs)[:, 1], elastic_net.kept(alone).outputs(inputs)[:, 1], atol=1e-6)


def test_a_question_that_all_answer_alike_is_answered_by_how_often():
    inputs, labels = data(2, samples=80)
    patients = [f"p{i}" for i in range(80)]
    questions = np.stack([labels, np.zeros(80, np.int64)], axis=1)
    entry = elastic_net.beside_each(inputs, questions, questions, patients, seed=0)
    said = elastic_net.kept(entry).outputs(inputs)
    assert np.ptp(said[:, 0]) > 1
    np.testing.assert_allclose(said[:, 1], np.log(0.5 / 80.5))
    one = elastic_net.beside_each(inputs, questions, questions[:, :1], patients, seed=0)
    assert elastic_net.kept(one).outputs(inputs).shape == (80, 1)  # a single label has one logit


def test_of_many_samples_whole_patients_are_drawn(monkeypatch):
    monkeypatch.setattr(elastic_net, "MOST", 20)
    patients = [f"p{i // 4}" for i in range(100)]
    rows = elastic_net.drawn(patients, seed=0)
    assert len(rows) == 20
    assert len({patients[row] for row in rows}) == 5
