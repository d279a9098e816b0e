"""Networks that give a map of each image."""

import numpy as np
import pytest

from medloop import models, pairing, plugins
from medloop.training import backend

NAMES = ["unet", "attention_unet"]


@pytest.fixture(scope="module", autouse=True)
def keras():
    return backend.start("tensorflow", seed=0)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize(
    ("shape", "outputs", "filters"),
    [((32, 32, 1), 2, (4, 8, 8)), ((32, 48, 3), 5, (4, 8)), ((21, 30, 1), 2, (4, 4, 8, 8)), ((3, 5, 1), 3, (2, 4, 4))],
)
def test_a_map_has_the_height_and_width_of_its_image(name, shape, outputs, filters):
    model = plugins.load(models, name).build(shape, outputs, filters=filters)
    assert model.output_shape == (None, *shape[:2], outputs)
    assert model(np.zeros((2, *shape), "float32")).shape == (2, *shape[:2], outputs)
    assert pairing.given(models, name) == "map"


def test_unet_has_two_convolutions_a_level_and_a_skip_a_level():
    from medloop.models import unet

    model = unet.build((64, 64, 1), 2)
    kinds = [type(layer).__name__ for layer in model.layers]
    assert kinds.count("Conv2D") == 2 * 7 + 1
    assert (kinds.count("MaxPooling2D"), kinds.count("Conv2DTranspose"), kinds.count("Concatenate")) == (3, 3, 3)
    assert kinds.count("BatchNormalization") == 14
    convolutions = [layer for layer in model.layers if type(layer).__name__ == "Conv2D"]
    assert [each.filters for each in convolutions] == [16, 16, 32, 32, 64, 64, 128, 128, 64, 64, 32, 32, 16, 16, 2]
    without = unet.build((64, 64, 1), 2, batch_norm=False, dropout=0.5)
    kinds = [type(layer).__name__ for layer in without.layers]
    assert (kinds.count("BatchNormalization"), kinds.count("Dropout")) == (0, 1)
    weights = [9 * a * b + b for a, b in [(1, 16), (16, 16), (16, 32), (32, 32), (32, 64), (64, 64), (64, 128)]]
    weights += [9 * 128 * 128 + 128, *(4 * b * a + b for a, b in [(128, 64), (64, 32), (32, 16)])]
    weights += [9 * 2 * b * b + b + 9 * b * b + b for b in (64, 32, 16)] + [16 * 2 + 2]
    assert without.count_params() == sum(weights)


def test_what_a_map_says_of_a_pixel_depends_on_the_pixel_and_on_its_surroundings():
    from medloop.models import unet

    model = unet.build((32, 32, 1), 2, filters=(4, 8), batch_norm=False)
    images = np.random.default_rng(0).normal(size=(1, 32, 32, 1)).astype("float32")
    changed = images.copy()
    changed[0, 10, 20] += 5
    difference = np.abs(np.asarray(model(changed)) - np.asarray(model(images))).max(axis=-1)[0]
    assert difference[10, 20] > 0
    assert difference[11, 21] > 0
    assert (difference[24:] == 0).all()


def test_attention_lies_between_none_and_all_and_dims_the_skip(keras):
    from medloop.models import attention_unet

    model = attention_unet.build((16, 16, 1), 2, filters=(4, 8, 8))
    gates = [layer for layer in model.layers if type(layer).__name__ == "Multiply"]
    assert len(gates) == 2
    inner = keras.Model(model.input, [gate.input for gate in gates])
    images = np.random.default_rng(0).normal(size=(2, 16, 16, 1)).astype("float32")
    for skip, attention in inner(images):
        assert attention.shape == (*skip.shape[:3], 1)
        values = np.asarray(attention)
        assert 0 < values.min() <= values.max() < 1
        np.testing.assert_array_equal(values[:, ::2, ::2], values[:, 1::2, 1::2])
