"""What is trained on sequences says the same as ONNX, which knows neither every operation nor every constant."""

import numpy as np
import pytest

from medloop.training import backend


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
    ],
    ids=["whole", "padded"],
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
    outputs = export.checked_outputs(tmp_path, windows)  # refuses a difference
    assert outputs.shape == (5, 3)
    assert Network(tmp_path / "model.onnx").dtype == np.float32
    if padded:  # what stands where nothing is real does not matter
        windows[:, 9:, 0] += 100
        np.testing.assert_allclose(Network(tmp_path / "model.onnx").outputs(windows), outputs, atol=1e-5)
