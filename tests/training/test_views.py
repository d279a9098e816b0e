"""What a network says of several views of an image, against views made with numpy."""

import numpy as np
import pytest

from medloop import params
from medloop.inference import Network
from medloop.training import backend


@pytest.fixture(scope="module")
def plain():
    backend.start("tensorflow", seed=0)
    from medloop.training import network

    return network.build(network.Spec("cnn", (12, 10, 1), 3, {"filters": [4]}, {"kind": "image"}))


@pytest.fixture
def images():
    return np.random.default_rng(0).integers(0, 256, (5, 12, 10, 1), dtype=np.uint8)


def shifted(images, rows, columns):
    """Move the content down and right, edges repeated."""
    padded = np.pad(images, ((0, 0), (3, 3), (3, 3), (0, 0)), "edge")
    return padded[:, 3 - rows : 15 - rows, 3 - columns : 13 - columns]


def by_hand(plain, images, section):
    moves = [(0, 0), (3, 0), (-3, 0), (0, 3), (0, -3)] if section.shift_px else [(0, 0)]
    seen = [shifted(images, *each) for each in moves]
    seen += [each[:, :, ::-1] for each in seen] if section.flip_horizontal else []
    seen += [each[:, ::-1] for each in seen] if section.flip_vertical else []
    return len(seen), np.mean([plain(np.ascontiguousarray(each)) for each in seen], axis=0)


@pytest.mark.parametrize(
    ("section", "count"),
    [
        (params.Views(flip_horizontal=True), 2),
        (params.Views(shift_px=3), 5),
        (params.Views(flip_horizontal=True, flip_vertical=True, shift_px=3), 20),
    ],
)
def test_logits_are_the_mean_over_the_views_in_keras_and_in_onnx(plain, images, section, count, tmp_path):
    from medloop.training import export, views

    network = views.averaged(plain, section)
    made, wanted = by_hand(plain, images, section)
    assert made == count
    np.testing.assert_allclose(network(images), wanted, atol=1e-5)
    assert np.abs(wanted - plain(images)).max() > 1e-3
    export.save_keras(network, tmp_path / "model.keras")
    export.save_onnx(tmp_path / "model.keras", tmp_path / "model.onnx")
    np.testing.assert_allclose(Network(tmp_path / "model.onnx").outputs(images), wanted, atol=1e-5)
    np.testing.assert_allclose(Network(tmp_path / "model.onnx").outputs(images[:1]), wanted[:1], atol=1e-5)
    assert export.weights_sha256(network) == export.weights_sha256(plain)


def test_without_views_a_network_stays_itself(plain):
    from medloop.training import views

    assert views.averaged(plain, params.Views()) is plain
