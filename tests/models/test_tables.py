"""Networks of tables: what they compute, and that they take thousands of features."""

import numpy as np
import pytest

from medloop.training import backend


@pytest.fixture(scope="module", autouse=True)
def keras():
    return backend.start("tensorflow", seed=0)


def test_feature_attention_weighs_tokens_by_the_softmax_of_their_scores(keras):
    from medloop.models import feature_attention

    model = feature_attention.build((6,), 2, width=3, heads=2)
    records = np.random.default_rng(0).normal(size=(4, 6)).astype("float32")
    one, score, norm, last = (layer for layer in model.layers if layer.weights)
    vectors, shift = (np.asarray(weight) for weight in one.weights)
    tokens = records[:, :, None] * vectors + shift  # (B, F, width)
    weights = np.exp(tokens @ np.asarray(score.weights[0]))
    weights /= weights.sum(axis=1, keepdims=True)
    means = np.einsum("bfh,bfw->bhw", weights, tokens)
    normed = (means - means.mean(-1, keepdims=True)) / np.sqrt(means.var(-1, keepdims=True) + norm.epsilon)
    kernel, bias = (np.asarray(weight) for weight in last.weights)
    wanted = normed.reshape(4, -1) @ kernel + bias
    np.testing.assert_allclose(keras.ops.convert_to_numpy(model(records)), wanted, atol=1e-4)


@pytest.mark.parametrize("name", ["mlp", "feature_attention"])
def test_networks_of_tables_take_thousands_of_features(name):
    from medloop import models, plugins

    model = plugins.load(models, name).build((7129,), 3, dropout=0.1, input_dropout=0.1)
    assert model(np.zeros((2, 7129), "float32")).shape == (2, 3)


def test_an_mlp_without_hidden_layers_is_linear():
    from medloop.models import mlp

    assert mlp.build((5,), 2, units=()).count_params() == 12
