import numpy as np
import pytest
from scipy.optimize import minimize_scalar
from scipy.special import log_softmax

from medloop import calibration
from medloop.answers.classification import decide, probabilities
from medloop.errors import Refused
from medloop.tasks import classification


def logits_and_labels(classes: int, heat: float, n: int = 4000) -> tuple[np.ndarray, np.ndarray]:
    """Return logits that are `heat` times too large for the labels drawn from them."""
    random = np.random.default_rng(classes)
    honest = random.normal(scale=1.5, size=(n, classes))
    shares = probabilities(honest)
    labels = (random.random(n)[:, None] > shares.cumsum(axis=1)).sum(axis=1).clip(0, classes - 1)
    return honest * heat, labels


@pytest.mark.parametrize(("classes", "heat"), [(2, 3.0), (2, 0.4), (5, 2.0)])
def test_temperature_is_what_makes_the_labels_likeliest(classes, heat):
    logits, labels = logits_and_labels(classes, heat)
    found, calibrated = calibration.temperature(logits, labels)
    wanted = minimize_scalar(
        lambda t: -log_softmax(logits / t, axis=1)[np.arange(len(labels)), labels].mean(),
        bounds=(0.05, 20),
        method="bounded",
        options={"xatol": 1e-9},
    ).x
    assert calibrated
    assert found == pytest.approx(wanted, rel=1e-5)
    assert found == pytest.approx(heat, rel=0.1)


def test_validation_data_without_an_error_give_no_temperature():
    labels = np.array([0, 1] * 20)
    assert calibration.temperature(np.eye(2)[labels] * 4.0, labels) == (1.0, False)


def test_logits_that_know_nothing_give_no_temperature():
    logits, labels = logits_and_labels(2, 1.0)
    assert calibration.temperature(-logits, labels) == (1.0, False)


@pytest.mark.parametrize("target", [0.5, 0.7, 0.9, 0.95, 0.999])
@pytest.mark.parametrize("positive", [0, 1])
def test_threshold_is_the_highest_that_reaches_the_target(target, positive):
    logits, labels = logits_and_labels(2, 1.0, n=211)
    probability = probabilities(logits.round(1))
    threshold = calibration.operating_threshold(labels, probability, positive, target)

    def sensitivity(at: float) -> float:
        return float((decide(probability, at, positive)[labels == positive] == positive).mean())

    higher = probability[:, positive][probability[:, positive] > threshold]
    assert sensitivity(threshold) >= target
    assert all(sensitivity(at) < target for at in higher)


def test_a_target_that_is_met_exactly_is_met():
    score = np.arange(1, 11) / 20  # ten positives: the ninth from above gives a sensitivity of nine tenths
    found = calibration.operating_threshold(np.ones(10, int), np.stack([1 - score, score], axis=1), 1, 0.9)
    assert found == score[1]


def test_more_than_two_classes_have_no_threshold():
    logits, labels = logits_and_labels(3, 1.0, n=50)
    assert calibration.operating_threshold(labels, probabilities(logits), 2, 0.9) is None


def test_a_threshold_needs_positives():
    with pytest.raises(Refused, match="there are none"):
        calibration.operating_threshold(np.zeros(4, int), np.full((4, 2), 0.5), 1, 0.9)


def test_positive_class_by_name():
    assert classification.positive_index(["malignant", "benign"], "malignant") == 0
    assert classification.positive_index(["malignant", "benign"], None) == 1
    with pytest.raises(Refused, match="unknown class 'malign'; known: malignant, benign"):
        classification.positive_index(["malignant", "benign"], "malign")
