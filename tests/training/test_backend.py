import importlib.util
import os

import pytest

from medloop import models
from medloop.errors import Refused
from medloop.params import Train
from medloop.training import backend


@pytest.fixture
def without(monkeypatch):
    """Make packages look as if they were not installed."""
    find = importlib.util.find_spec

    def hide(*names):
        monkeypatch.setattr(importlib.util, "find_spec", lambda name, *rest: None if name in names else find(name))

    return hide


def test_the_kind_of_an_architecture_is_read_without_importing_it():
    names = ("cnn", "lstm", "attention", "resnet", "vit")
    kinds = ["convolution", "recurrent", "recurrent", "residual", "transformer"]
    assert [backend.kind(name) for name in names] == kinds


def test_a_file_without_a_kind_counts_as_a_convolution_and_a_wrong_kind_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(models, "__path__", [str(tmp_path)])
    (tmp_path / "plain.py").write_text("")
    (tmp_path / "odd.py").write_text("KIND = 'magic'\n")
    assert backend.kind("plain") == "convolution"
    with pytest.raises(
        Refused, match=r"odd\.py: KIND must be one of convolution, residual, recurrent, transformer, got 'magic'"
    ):
        backend.kind("odd")


def test_an_unknown_architecture_is_refused_with_those_that_exist():
    with pytest.raises(
        Refused,
        match=r"unknown model 'nix'; known: attention, attention_unet, cnn, cnn3d, convnext, densenet, .*vit",
    ):
        backend.kind("nix")


def test_a_backend_that_is_not_installed_is_refused_with_the_remedy(without):
    without("torch")
    with pytest.raises(Refused, match=r"backend torch needs torch, which is not installed here: pip install torch"):
        backend.select(Train(architectures=("cnn",), backend="torch"))


def test_the_export_needs_tensorflow_whatever_trains(without):
    without("tensorflow")
    with pytest.raises(Refused, match="export to ONNX needs tensorflow"):
        backend.select(Train(architectures=("lstm",), backend="jax"))


def test_keras_keeps_its_backend_for_the_life_of_a_process():
    backend.start(backend.select(Train(architectures=("cnn",), backend="auto")), seed=0)
    assert os.environ["KERAS_BACKEND"] == "tensorflow"
    with pytest.raises(Refused, match="must be tensorflow in this process, got jax"):
        backend.select(Train(architectures=("lstm",), backend="auto"))


def test_a_gpu_can_be_required():
    name = backend.select(Train(architectures=("cnn",)))
    import tensorflow

    if tensorflow.config.list_physical_devices("GPU"):
        pytest.skip("this machine has a GPU")
    with pytest.raises(Refused, match="asks for 1 GPU and tensorflow finds no GPU"):
        backend.start(name, seed=0, gpus=1)


def test_hidden_modules_come_back():
    import json.tool
    import sys

    del sys.modules["json.tool"]
    with backend._hidden("json.tool", "sys"), pytest.raises(ImportError):
        import json.tool
    import json.tool

    assert json.tool
    assert sys.modules["sys"] is sys
