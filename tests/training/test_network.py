import numpy as np
import pytest

from medloop import models
from medloop.errors import Refused
from medloop.training import backend

IMAGE = {"kind": "image"}


@pytest.fixture(scope="module", autouse=True)
def keras():
    return backend.start("tensorflow", seed=0)


@pytest.fixture
def images():
    return np.random.default_rng(0).integers(0, 200, (5, 12, 12, 3), dtype=np.uint8)


def build(architecture="cnn", shape=(12, 12, 3), hyper=None, normalisation=IMAGE):
    from medloop.training import network

    return network.build(network.Spec(architecture, shape, 2, hyper or {}, normalisation))


@pytest.fixture
def normalised(tmp_path, monkeypatch, keras):
    """What an architecture is given, by way of one that hands it through."""
    (tmp_path / "through.py").write_text(
        "import keras\n"
        "def build(input_shape, outputs):\n"
        "    image = keras.Input(input_shape)\n"
        "    return keras.Model(image, keras.layers.Flatten()(image))\n"
    )
    monkeypatch.setattr(models, "__path__", [*models.__path__, str(tmp_path)])

    def run(images, normalisation):
        given = build("through", normalisation=normalisation)(images)
        return keras.ops.convert_to_numpy(given).reshape(images.shape)

    return run


def test_per_image_normalisation_gives_zero_mean_and_unit_variance(normalised, images):
    given = normalised(images, IMAGE)
    flat = images.reshape(5, -1).astype(float)
    wanted = (flat - flat.mean(axis=1, keepdims=True)) / flat.std(axis=1, keepdims=True)
    np.testing.assert_allclose(given.reshape(5, -1), wanted, atol=1e-3)
    black = normalised(np.zeros_like(images), IMAGE)
    assert (black == 0).all()


def test_per_train_normalisation_uses_its_constants_by_channel(normalised, images):
    constants = {"kind": "train", "mean": [100.0, 90.0, 80.0], "std": [50.0, 40.0, 30.0]}
    given = normalised(images, constants)
    np.testing.assert_allclose(given, (images - np.array([100, 90, 80])) / np.array([50, 40, 30]), atol=1e-5)


def test_what_lies_beyond_train_is_held_at_its_utmost_by_channel(normalised, images):
    low, high = np.array([20, 0, 50]), np.array([150, 120, 255])
    constants = {"kind": "clipped", "mean": [100.0, 90.0, 80.0], "std": [50.0, 40.0, 30.0]}
    given = normalised(images, constants | {"low": low.tolist(), "high": high.tolist()})
    assert (images[..., 0] < 20).any()
    assert (images[..., 1] > 120).any()
    held = np.clip(images, low, high)
    np.testing.assert_allclose(given, (held - np.array([100, 90, 80])) / np.array([50, 40, 30]), atol=1e-5)


def test_without_normalisation_gray_levels_run_from_zero_to_one(normalised, images):
    np.testing.assert_allclose(normalised(images, {"kind": "none"}), images / 255, atol=1e-6)


def test_a_saved_network_loads_without_medloop_and_predicts_the_same(keras, images, tmp_path):
    constants = {"kind": "train", "mean": [100.0, 90.0, 80.0], "std": [50.0, 40.0, 30.0]}
    for name, normalisation in (("cnn", IMAGE), ("lstm", constants), ("attention", {"kind": "none"})):
        model = build(name, normalisation=normalisation)
        model.save(tmp_path / "model.keras")
        loaded = keras.saving.load_model(tmp_path / "model.keras", custom_objects={})
        np.testing.assert_array_equal(loaded(images), model(images))


@pytest.mark.parametrize(
    ("hyper", "message"),
    [
        ({"depth": 3}, "train.hyper.cnn: unknown hyper-parameter 'depth'; cnn accepts filters: "),
        ({"units": "many"}, "train.hyper.cnn.units: Input should be a valid integer, got 'many'; cnn accepts filters"),
        ({"units": True}, "train.hyper.cnn.units: Input should be a valid integer, got True"),
        ({"filters": 32}, "train.hyper.cnn.filters: Input should be a valid array, got 32"),
        ({"dropout": 1.5}, "cnn cannot be built for images of 12x12x3 with hyper-parameters {'dropout': 1.5}"),
        ({"units": 0}, "cnn cannot be built for images of 12x12x3"),
    ],
)
def test_a_hyper_parameter_that_does_not_fit_is_refused(hyper, message):
    with pytest.raises(Refused) as refusal:
        build(hyper=hyper)
    assert str(refusal.value).startswith(message)


def test_numbers_and_lists_of_yaml_become_what_the_signature_says(keras):
    core = next(
        layer for layer in build(hyper={"filters": [4, 8], "dropout": 0}).layers if isinstance(layer, keras.Model)
    )
    assert [layer.filters for layer in core.layers if hasattr(layer, "filters")] == [4, 8]


def test_images_that_are_too_small_are_refused():
    with pytest.raises(Refused, match=r"cnn cannot be built for images of 4x4x1 .*change preprocess\.size_px"):
        build(shape=(4, 4, 1))
