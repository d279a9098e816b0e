import pytest

from medloop import models, pairing, params, plugins, tasks
from medloop.errors import Refused


def test_an_architecture_that_does_not_take_the_kind_is_refused_with_those_that_do():
    with pytest.raises(Refused, match=r"cnn does not take samples of kind sequence .*attention, lstm.*set train\.arch"):
        pairing.check("regression", "sequence", ["lstm", "cnn"])
    with pytest.raises(Refused, match="resnet1d does not take samples of kind image"):
        pairing.check("classification", "image", ["resnet1d"])


def test_those_that_do_take_the_samples_and_give_what_the_task_needs():
    images = "attention, cnn, convnext, densenet, lstm, resnet, vit"
    with pytest.raises(Refused, match=f"architectures that do: {images}; set"):
        pairing.check("classification", "image", ["mlp"])
    with pytest.raises(Refused, match=f"architectures that do: {images}; set"):
        pairing.check("classification", "image", ["unet"])


def test_a_task_that_does_not_take_the_kind_is_refused_with_those_that_do():
    with pytest.raises(Refused, match=r"task classification does not take samples of kind sound; tasks that do: none"):
        pairing.check("classification", "sound")


def test_it_is_refused_as_soon_as_the_parameters_are_read():
    content = {"schema_version": 1, "base": {"kind": "sequence"}, "train": {"architectures": ["cnn"]}}
    with pytest.raises(Refused, match="cnn does not take samples of kind sequence"):
        params.check(content, where="params.yaml")


def test_every_task_and_architecture_declares_what_it_takes():
    for package, constant in ((tasks, pairing.KINDS), (models, pairing.TAKES)):
        for name in plugins.names(package):
            assert pairing.declared(package, name, constant, pairing.IMAGES)
