import pytest

from medloop import models, plugins
from medloop.errors import Refused


def test_a_module_is_found_by_its_file_name():
    assert plugins.load(models, "cnn").__name__ == "medloop.models.cnn"


def test_a_miss_lists_what_exists():
    with pytest.raises(
        Refused, match=r"unknown model 'resnet9000'; known: attention, attention_unet, cnn, cnn3d, convnext, densenet"
    ):
        plugins.load(models, "resnet9000")
