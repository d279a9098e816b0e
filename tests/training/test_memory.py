"""A batch that does not fit into memory is refused, with one that does; memory is limited for real."""

import re
import resource
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace

import pytest

from medloop import models, params
from medloop.errors import Refused
from medloop.tasks import classification
from medloop.training import backend, data
from synthetic import write_arrays

HUNGRY = """
import keras
from keras import layers

KIND = "convolution"


def build(input_shape, outputs):
    image = layers.Input(input_shape)
    x = layers.Conv2D(1, 1)(image)
    x = layers.Conv2D(32, 1)(layers.UpSampling2D(32)(x))
    return keras.Model(image, layers.Dense(outputs)(layers.GlobalAveragePooling2D()(x)))
"""


@contextmanager
def at_most(more):
    """Let this process have so many bytes more than it has."""
    before = resource.getrlimit(resource.RLIMIT_AS)
    now = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (now + more, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_AS, before)


def test_a_batch_that_does_not_fit_is_refused_with_one_that_does(tmp_path, monkeypatch):
    (tmp_path / "hungry.py").write_text(HUNGRY)
    monkeypatch.setattr(models, "__path__", [*models.__path__, str(tmp_path)])
    backend.start("tensorflow", seed=0)
    from medloop.training import fitting, network

    arrays = data.read(write_arrays(tmp_path / "arrays", signal=5))
    spec = network.Spec("hungry", arrays.shape, 2, {}, {"kind": "image"})
    section = params.Train(architectures=("hungry",), epochs=1, batch_size=64, backend="tensorflow")
    log, kept = SimpleNamespace(log=lambda *_, **__: None), fitting.Checkpoint("hungry")
    with at_most(2**30), pytest.raises(Refused) as refused:
        fitting.fit(spec, arrays, classification, section, seed=0, checkpoint=kept, log=log)
    found = re.fullmatch(
        r"train.batch_size must be one that fits into memory, 64 does not: (\d+) does", str(refused.value)
    )
    assert found, refused.value
    assert 1 <= int(found[1]) < 64
