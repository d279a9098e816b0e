"""What is trained on sequences and volumes says the same as ONNX, which does not know every operation and constant."""

import numpy as np
import pytest

from medloop.errors import Refused
from medloop.tasks import classification, segmentation
from medloop.training import backend, data


def unlabelled(inputs):
    """Return inputs as validation data of which the labels do not matter."""
    return data.Split(inputs, np.zeros(len(inputs), np.int32), None, None)


@pytest.mark.parametrize(
    ("name", "hyper"),
    [
        ("lstm", {}),
        ("lstm", {"activation": "tanh"}),
        ("attention", {}),
        ("attention", {"states": "all"}),
        ("resnet1d", {"filters": [4, 8]}),
        ("transformer1d", {"width": 8, "heads": 2, "depth": 1}),
    ],
)
@pytest.mark.parametrize(
    "normalisation",
    [
        {"kind": "train", "mean": [0.3], "std": [2.0]},
        {"kind": "train", "mean": [0.3], "std": [2.0], "mask": True},
        {"kind": "clipped", "mean": [0.3], "std": [2.0], "low": [-1.0], "high": [1.5]},
    ],
    ids=["whole", "padded", "clipped"],
)
def test_every_network_of_sequences_is_exported_as_it_is(name, hyper, normalisation, tmp_path):
    backend.start("tensorflow", seed=0)
    from medloop.inference import Network
    from medloop.training import export, network

    padded = normalisation.get("mask", False)
    windows = np.random.default_rng(0).normal(size=(5, 12, 1 + padded)).astype("float32")
    if padded:
        windows[:, :, -1] = np.arange(12) < 9
    spec = network.Spec(name, windows.shape[1:], 3, hyper, normalisation, "sequence", "float32")
    model = network.build(spec)
    export.save_keras(model, tmp_path / "model.keras")
    export.save_onnx(tmp_path / "model.keras", tmp_path / "model.onnx")
    outputs = export.checked_outputs(tmp_path, unlabelled(windows), classification)  # refuses a difference
    assert outputs.shape == (5, 3)
    assert Network(tmp_path / "model.onnx").dtype == np.float32
    if padded:  # what stands where nothing is real does not matter
        windows[:, 9:, 0] += 100
        np.testing.assert_allclose(Network(tmp_path / "model.onnx").outputs(windows), outputs, atol=1e-5)


@pytest.mark.parametrize(("name", "hyper"), [("cnn3d", {"filters": [4, 8]}), ("resnet3d", {"filters": [4, 8]})])
@pytest.mark.parametrize("normalisation", [{"kind": "sample"}, {"kind": "train", "mean": [40.0], "std": [20.0]}])
@pytest.mark.parametrize("seen", [1, 10])
def test_every_network_of_volumes_is_exported_as_it_is_with_its_views(name, hyper, normalisation, seen, tmp_path):
    backend.start("tensorflow", seed=0)
    from medloop import params
    from medloop.training import export, network, views

    volumes = np.random.default_rng(0).integers(0, 256, (3, 9, 12, 10, 1), dtype=np.uint8)
    spec = network.Spec(name, volumes.shape[1:], 2, hyper, normalisation, "volume", "uint8")
    plain = network.build(spec)
    section = params.Views(flip_horizontal=True, shift_px=2) if seen > 1 else params.Views()
    assert len(views.views(volumes, params.Views(flip_horizontal=seen > 1))) == (2 if seen > 1 else 1)
    export.save_keras(views.averaged(plain, section), tmp_path / "model.keras")
    for file in ("model.onnx", "again.onnx"):
        export.save_onnx(tmp_path / "model.keras", tmp_path / file)
    assert (tmp_path / "model.onnx").read_bytes() == (tmp_path / "again.onnx").read_bytes()
    outputs = export.checked_outputs(tmp_path, unlabelled(volumes), classification)  # refuses a difference
    if seen == 1:
        np.testing.assert_allclose(outputs, plain(volumes), atol=1e-4)
        return
    moves = [(0, 0), (2, 0), (-2, 0), (0, 2), (0, -2)]
    padded = np.pad(volumes, ((0, 0), (0, 0), (2, 2), (2, 2), (0, 0)), "edge")
    shifted = [padded[:, :, 2 - h : 14 - h, 2 - w : 12 - w] for h, w in moves]
    wanted = np.mean([plain(np.ascontiguousarray(each)) for s in shifted for each in (s, s[:, :, :, ::-1])], axis=0)
    np.testing.assert_allclose(outputs, wanted, atol=1e-4)


@pytest.mark.parametrize(("factor", "agrees"), [(1.002, True), (1.05, False)])
def test_a_map_that_is_exported_wrongly_is_refused_and_one_that_is_rounded_is_not(factor, agrees, tmp_path):
    backend.start("tensorflow", seed=0)
    from medloop.training import export, network

    images = np.random.default_rng(0).integers(0, 256, (3, 16, 16, 1), dtype=np.uint8)
    model = network.build(network.Spec("unet", (16, 16, 1), 2, {"filters": [4, 8]}, {"kind": "none"}))
    last = [layer for layer in model.get_layer("unet").layers if layer.weights][-1]
    last.set_weights([100 * weights for weights in last.get_weights()])  # logits as large as trained ones
    export.save_keras(model, tmp_path / "model.keras")
    export.save_onnx(tmp_path / "model.keras", tmp_path / "model.onnx")
    last.set_weights([factor * weights for weights in last.get_weights()])
    export.save_keras(model, tmp_path / "model.keras")
    split = data.Split(images, np.zeros((3, 16, 16), np.uint8), None, None)
    if agrees:
        assert len(export.checked_outputs(tmp_path, split, segmentation)) == 3
    else:
        with pytest.raises(Refused, match=r"must agree to 0.01 on the validation data, they differ by 0.0"):
            export.checked_outputs(tmp_path, split, segmentation)
