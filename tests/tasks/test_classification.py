import numpy as np
import pytest
from sklearn import metrics as reference
from sklearn.calibration import calibration_curve

from medloop import measures
from medloop.errors import Refused
from medloop.tasks import classification

EXACT = {"rtol": 0, "atol": 1e-12}


def predictions(classes: int, n: int, seed: int, *, steps: int = 50) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return labels, probabilities in so many steps that there are ties, and decisions that are no plain argmax."""
    random = np.random.default_rng(seed)
    labels = np.concatenate([np.arange(classes), random.integers(0, classes, n - classes)])
    probabilities = random.dirichlet(np.ones(classes), n) + 0.3 * np.eye(classes)[labels]
    probabilities = random.multinomial(steps, probabilities / probabilities.sum(axis=1, keepdims=True)) / steps
    decisions = np.where(random.random(n) < 0.2, random.integers(0, classes, n), probabilities.argmax(axis=1))
    return labels, probabilities, decisions


@pytest.mark.parametrize("positive", [0, 1])
@pytest.mark.parametrize("steps", [10, 100, 10**9])
def test_two_classes_agree_with_scikit_learn(positive, steps):
    labels, probabilities, decisions = predictions(2, 400, seed=positive, steps=steps)
    score = probabilities[:, positive]
    assert steps > 100 or len(np.unique(score)) < len(score), "the case is meant to have ties"
    found = measures.of_classes(labels, probabilities, decisions, positive=positive)
    truth, decided = labels == positive, decisions == positive
    wanted = {
        "auc": reference.roc_auc_score(truth, score),
        "accuracy": reference.accuracy_score(labels, decisions),
        "balanced_accuracy": reference.balanced_accuracy_score(labels, decisions),
        "sensitivity": reference.recall_score(truth, decided),
        "specificity": reference.recall_score(~truth, ~decided),
        "ppv": reference.precision_score(truth, decided),
        "npv": reference.precision_score(~truth, ~decided),
        "f1": reference.f1_score(truth, decided),
        "brier": reference.brier_score_loss(truth, score),
        "ece": expected_calibration_error(truth, score),
    }
    assert list(found) == list(classification.METRICS) == list(wanted)
    np.testing.assert_allclose([found[name][0] for name in wanted], list(wanted.values()), **EXACT)


@pytest.mark.parametrize("classes", [3, 7])
def test_many_classes_agree_with_scikit_learn(classes):
    labels, probabilities, decisions = predictions(classes, 500, seed=classes)
    found = measures.of_classes(labels, probabilities, decisions, positive=0)
    each = [(labels == index, decisions == index) for index in range(classes)]
    top = probabilities.argmax(axis=1)
    wanted = {
        "auc": np.mean([reference.roc_auc_score(t, probabilities[:, k]) for k, (t, _) in enumerate(each)]),
        "accuracy": reference.accuracy_score(labels, decisions),
        "balanced_accuracy": reference.balanced_accuracy_score(labels, decisions),
        "sensitivity": reference.recall_score(labels, decisions, average="macro"),
        "specificity": np.mean([reference.recall_score(~t, ~d) for t, d in each]),
        "ppv": reference.precision_score(labels, decisions, average="macro"),
        "npv": np.mean([reference.precision_score(~t, ~d) for t, d in each]),
        "f1": reference.f1_score(labels, decisions, average="macro"),
        "brier": reference.brier_score_loss(labels, probabilities, labels=range(classes)),
        "ece": expected_calibration_error(labels == top, probabilities.max(axis=1)),
    }
    np.testing.assert_allclose([found[name][0] for name in wanted], list(wanted.values()), **EXACT)


@pytest.mark.parametrize("classes", [2, 4])
def test_weights_count_samples_as_often_as_they_are_drawn(classes):
    labels, probabilities, decisions = predictions(classes, 120, seed=3, steps=10)
    weights = np.random.default_rng(0).integers(0, 4, (5, len(labels))).astype(float)
    found = measures.of_classes(labels, probabilities, decisions, positive=1, weights=weights)
    for row, repeats in enumerate(weights.astype(int)):
        drawn = [np.repeat(each, repeats, axis=0) for each in (labels, probabilities, decisions)]
        wanted = measures.of_classes(*drawn, positive=1)
        np.testing.assert_allclose(
            [values[row] for values in found.values()], [values[0] for values in wanted.values()], **EXACT
        )


def test_what_cannot_be_counted_is_undefined():
    labels, probabilities = np.array([0, 0, 1, 1]), np.array([[0.9, 0.1], [0.8, 0.2], [0.3, 0.7], [0.6, 0.4]])
    weights = np.array([[1.0, 1, 1, 1], [2, 2, 0, 0]])  # the second draw holds no positive sample
    found = measures.of_classes(labels, probabilities, np.zeros(4, int), positive=1, weights=weights)
    undefined = {name: np.isnan(values).tolist() for name, values in found.items() if np.isnan(values).any()}
    assert undefined == {
        "auc": [False, True],
        "balanced_accuracy": [False, True],
        "sensitivity": [False, True],
        "ppv": [True, True],  # nothing was decided positive
        "f1": [False, True],
    }


def test_score_takes_the_last_column_of_two_as_medmnist_does():
    labels, probabilities, _ = predictions(2, 200, seed=1)
    assert classification.score(labels, probabilities) == pytest.approx(
        reference.roc_auc_score(labels, probabilities[:, -1]), abs=1e-12
    )


def test_two_classes_are_ranked_by_the_positive_class_own_column():
    labels, probabilities = np.array([0, 1, 1]), np.array([[0.9, 0.8], [0.4, 0.6], [0.3, 0.7]])
    found = [classification.gate(labels, probabilities, np.ones((1, 3)), positive=index)[0] for index in (0, 1)]
    assert found == [1.0, 0.0]


def test_score_refuses_what_it_cannot_rank():
    labels, probabilities, _ = predictions(3, 50, seed=1)
    with pytest.raises(Refused, match="none of class 2"):
        classification.score(np.minimum(labels, 1), probabilities)
    probabilities[7] = np.nan
    with pytest.raises(Refused, match="1 of 50 are not"):
        classification.score(labels, probabilities)


def test_several_labels_an_image_are_refused():
    with pytest.raises(Refused, match="one label per image, source 'medmnist' gives several"):
        classification.check({"multi_label": True, "source": "medmnist"})
    classification.check({"multi_label": False, "source": "medmnist", "classes": ["a", "b"]})


def test_one_class_is_refused():
    assert classification.outputs(["a", "b", "c"]) == 3
    with pytest.raises(Refused, match="at least two classes, got 1: a"):
        classification.outputs(["a"])


def expected_calibration_error(truth: np.ndarray, probability: np.ndarray) -> float:
    """Return the error from scikit-learn's calibration curve and the number of samples in each of its bins."""
    said_true, said = calibration_curve(truth, probability, n_bins=10, strategy="uniform")
    held = np.histogram(np.searchsorted(np.linspace(0, 1, 11)[1:-1], probability), np.arange(11))[0]
    return float(np.abs(said_true - said) @ held[held > 0] / len(truth))
