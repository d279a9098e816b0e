"""The ranking of variables against scikit-learn, and the stability of a selection by its definition."""

import numpy as np
import pytest
from sklearn.feature_selection import f_classif

from medloop import elastic_net, ranking


def data(samples=60, features=30, seed=0):
    random = np.random.default_rng(seed)
    labels = np.arange(samples) % 3
    inputs = random.normal(size=(samples, features))
    inputs[:, 4] += 2 * (labels == 1)
    inputs[:, 7] -= 2 * (labels == 2)
    inputs[:, 9] = 1
    return inputs, labels


def test_f_is_scikit_learn_s():
    inputs, labels = data()
    kept = [place for place in range(30) if place != 9]
    found = ranking.f_values(inputs, labels)
    np.testing.assert_allclose(found[kept], f_classif(inputs[:, kept], labels)[0])
    assert found[9] == 0


def test_half_of_the_patients_of_each_class_are_drawn_whole():
    patient = np.arange(60) // 2
    labels = (patient % 3).astype(np.int64)
    rows = ranking.half(labels, patient, np.random.default_rng(0))
    assert len(rows) == 30
    assert np.bincount(labels[rows]).tolist() == [10, 10, 10]
    assert set(np.bincount(patient[rows])) == {0, 2}


def test_stability_is_one_of_the_same_selection_and_none_of_chance():
    same = np.tile(np.arange(40) < 5, (20, 1))
    assert ranking.stability(same) == {"value": 1.0, "low": 1.0, "high": 1.0}
    random = np.random.default_rng(0)
    drawn = np.stack([random.permutation(40) < 5 for _ in range(200)])
    found = ranking.stability(drawn)
    assert abs(found["value"]) < 0.02
    assert found["low"] < 0 < found["high"]
    assert ranking.stability(np.zeros((20, 40), bool))["value"] is None


def test_of_selections_of_one_size_stability_is_their_mean_overlap_less_chance():
    """Theorem 3 of Nogueira et al.: it is then Kuncheva's index, the mean over pairs."""
    random = np.random.default_rng(1)
    drawn = np.stack([random.permutation(20)[:6] for _ in range(12)])
    chosen = np.zeros((12, 20), bool)
    np.put_along_axis(chosen, drawn, True, axis=1)
    pairs = [(len(set(a) & set(b)) - 36 / 20) / (6 - 36 / 20) for i, a in enumerate(drawn) for b in drawn[:i]]
    assert ranking.stability(chosen)["value"] == pytest.approx(np.mean(pairs))


def test_what_tells_classes_apart_is_ranked_first():
    inputs, labels = data()
    patients = [f"p{number}" for number in range(60)]
    entry = elastic_net.beside(inputs, labels, patients, 3, seed=0)
    names = [f"g{place}" for place in range(30)]
    found = ranking.ranked(inputs, labels, patients, names, entry, resamples=20, seed=0)
    assert {each["name"] for each in found["top"][:2]} == {"g4", "g7"}
    assert all(each["selected"] == 1 for each in found["top"][:2])
    assert found["selected"] == len(entry["rows"])
    assert found == ranking.ranked(inputs, labels, patients, names, entry, resamples=20, seed=0)
