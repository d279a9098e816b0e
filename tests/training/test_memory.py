"""A batch that does not fit into memory is refused, with one that does; TensorFlow really finds no memory."""

import re
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
from keras import layers, ops

KIND = "convolution"


class Cube(layers.Layer):  # takes 4 B^12 bytes: 64 MiB of a batch of 4, of one of 8 more than a machine has
    def call(self, x):
        each = ops.mean(x, axis=-1)
        for _ in range(2):
            each = ops.reshape(each[:, None] * each[None], (-1,))
        count = ops.shape(each)[0]
        return x + 1e-6 * ops.mean(ops.broadcast_to(ops.reshape(each, (-1, 1, 1)), (count, count, count)))

    def compute_output_shape(self, shape):
        return shape


def build(input_shape, outputs):
    image = layers.Input(input_shape)
    x = Cube()(layers.GlobalAveragePooling2D()(layers.Conv2D(4, 3)(image)))
    return keras.Model(image, layers.Dense(outputs)(x))
"""


def test_a_batch_that_does_not_fit_is_refused_with_one_that_does(tmp_path, monkeypatch):
    if Path("/proc/sys/vm/overcommit_memory").read_text().strip() == "1":
        pytest.skip("this machine promises memory that it does not have (vm.overcommit_memory is 1)")
    (tmp_path / "hungry.py").write_text(HUNGRY)
    monkeypatch.setattr(models, "__path__", [*models.__path__, str(tmp_path)])
    backend.start("tensorflow", seed=0)
    from medloop.training import fitting, network

    arrays = data.read(write_arrays(tmp_path / "arrays", signal=5))
    spec = network.Spec("hungry", arrays.shape, 2, {}, {"kind": "image"})
    section = params.Train(architectures=("hungry",), epochs=1, batch_size=32, backend="tensorflow")
    log, kept = SimpleNamespace(log=lambda *_, **__: None), fitting.Checkpoint("hungry")
    with pytest.raises(Refused) as refused:
        fitting.fit(spec, arrays, classification, section, seed=0, checkpoint=kept, log=log)
    found = re.fullmatch(
        r"train.batch_size must be one that fits into memory, 32 does not: (\d+) does", str(refused.value)
    )
    assert found, refused.value
    assert int(found[1]) == 4
