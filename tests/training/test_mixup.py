import numpy as np

from medloop.training import mixup


def test_images_are_mixed_in_their_proportion():
    random = np.random.default_rng(0)
    first, second = random.integers(0, 256, (2, 4, 3, 3, 1), dtype=np.uint8)
    share = np.array([0.0, 0.25, 0.5, 1.0])
    found = mixup.inputs(first, second, share)
    assert found.dtype == np.uint8
    for i in range(4):
        np.testing.assert_allclose(found[i], share[i] * first[i] + (1 - share[i]) * second[i], atol=0.501)
    np.testing.assert_array_equal(found[0], second[0])
    np.testing.assert_array_equal(found[3], first[3])


def test_the_loss_of_a_pair_is_that_of_its_samples_in_their_proportion():
    random = np.random.default_rng(0)
    classes, weights = np.array([0, 1, 2, 1]), np.array([0.5, 1.0, 3.0, 1.0], np.float32)
    first, second, share = np.array([0, 1, 2]), np.array([2, 3, 2]), np.array([0.3, 0.6, 0.9])
    log_p = np.log(random.dirichlet(np.ones(3), 3))
    shares, weight = mixup.labels(classes, weights, first, second, share)
    np.testing.assert_allclose(shares.sum(axis=1), 1, rtol=1e-6)
    np.testing.assert_allclose(shares[1], [0, 1, 0], atol=1e-6)
    for i in range(3):
        one = weights[first[i]] * -log_p[i, classes[first[i]]]
        other = weights[second[i]] * -log_p[i, classes[second[i]]]
        np.testing.assert_allclose(
            weight[i] * -(shares[i] @ log_p[i]), share[i] * one + (1 - share[i]) * other, rtol=1e-5
        )


def test_signals_are_mixed_without_rounding():
    first, second = np.full((2, 4, 1), 0.25, np.float32), np.full((2, 4, 1), 1.0, np.float32)
    found = mixup.inputs(first, second, np.array([0.5, 1.0]))
    assert found.dtype == np.float32
    np.testing.assert_allclose(found[:, 0, 0], [0.625, 0.25])
