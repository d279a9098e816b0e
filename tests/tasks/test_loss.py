"""The loss of classification, against its formula written out sample by sample."""

import math

import numpy as np
import pytest

from medloop.params import Train
from medloop.tasks import classification
from medloop.training import backend


@pytest.fixture(scope="module")
def keras():
    return backend.start("tensorflow", seed=0)


@pytest.fixture
def batch():
    """Labels, logits and weights of ten samples of three classes."""
    random = np.random.default_rng(0)
    labels = np.arange(10, dtype=np.int32) % 3
    return labels, random.normal(0, 2, (10, 3)).astype(np.float32), random.uniform(0, 2, 10).astype(np.float32)


def by_hand(shares, logits, weights, gamma=0.0):
    total = 0.0
    for share, logit, weight in zip(shares, logits, weights, strict=True):
        exponentials = [math.exp(each) for each in logit]
        p = [each / sum(exponentials) for each in exponentials]
        total -= weight * sum(s * (1 - q) ** gamma * math.log(q) for s, q in zip(share, p, strict=True))
    return total / len(shares)


def one_hot(labels):
    return np.eye(3)[labels]


def test_cross_entropy_is_a_mean_over_the_batch(keras, batch):
    labels, logits, weights = batch
    found = float(classification.loss(Train())(labels, logits, weights))
    assert found == pytest.approx(by_hand(one_hot(labels), logits, weights), rel=1e-5)
    assert float(classification.loss()(labels, logits)) == pytest.approx(
        by_hand(one_hot(labels), logits, np.ones(10)), rel=1e-5
    )


@pytest.mark.parametrize("gamma", [0.5, 2.0, 5.0])
def test_focal_loss_follows_its_formula(keras, batch, gamma):
    labels, logits, weights = batch
    found = float(classification.loss(Train(loss="focal", focal_gamma=gamma))(labels, logits, weights))
    assert found == pytest.approx(by_hand(one_hot(labels), logits, weights, gamma), rel=1e-4)


def test_smoothing_takes_a_share_of_each_label_for_all_classes(keras, batch):
    labels, logits, weights = batch
    found = float(classification.loss(Train(label_smoothing=0.3))(labels, logits, weights))
    assert found == pytest.approx(by_hand(0.7 * one_hot(labels) + 0.1, logits, weights), rel=1e-5)


def test_mixed_labels_smoothing_and_focal_loss_go_together(keras, batch):
    _, logits, weights = batch
    shares = np.random.default_rng(1).dirichlet(np.ones(3), 10).astype(np.float32)
    section = Train(mixup=0.2, label_smoothing=0.3, loss="focal", focal_gamma=1.5)
    found = float(classification.loss(section)(shares, logits, weights))
    assert found == pytest.approx(by_hand(0.7 * shares + 0.1, logits, weights, 1.5), rel=1e-4)


def test_a_sample_that_is_certain_has_a_finite_slope(keras):
    import tensorflow as tf

    logits = tf.Variable([[200.0, -200.0]])
    with tf.GradientTape() as tape:
        loss = classification.loss(Train(loss="focal", focal_gamma=0.5))(np.array([0]), logits)
    assert np.isfinite(tape.gradient(loss, logits).numpy()).all()
