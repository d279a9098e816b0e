"""Trains several networks one after the other, alone or as one of two nodes: see test_team.py.

`python together.py ARRAYS OUT.npz NODES`. A batch normalisation is among them, whose statistics are those of the whole
batch.
"""

import os
import sys
from pathlib import Path

import numpy as np

from medloop import models, params
from medloop.tasks import classification
from medloop.training import backend, data, seat, team

NORMED = """
import keras
from keras import layers

KIND = "convolution"


def build(input_shape, outputs):
    x = image = layers.Input(input_shape)
    x = layers.Conv2D(4, 3, use_bias=False)(x)  # the gradient of a bias would be rounding alone, which Adam blows up
    x = layers.BatchNormalization(momentum=0.8)(x)
    x = layers.Flatten()(layers.ReLU()(x))
    return keras.Model(image, layers.Dense(outputs)(x))
"""
HYPER = {
    "normed": {},
    "lstm": {"units": 8, "dropout": 0.3},
    "resnet": {"filters": [4], "blocks": 1, "dropout": 0.3},
    "vit": {"width": 8, "depth": 1, "heads": 2, "dropout": 0.3},
}
RECIPES = {
    "resnet": {"sampling": "balanced", "mixup": 0.3, "ema": 0.8},
    "vit": {"loss": "focal", "label_smoothing": 0.1, "mixup": 0.3, "ema": 0.8},
}


class Kept:
    """A checkpoint in memory that starts afresh."""

    def restore(self, now):
        from medloop.training.checkpoint import State

        return State(), []

    def save(self, *_):
        pass

    def log(self, *_, **__):
        pass


def main(arrays, out, nodes):
    (out.parent / "plug-ins").mkdir(exist_ok=True)
    (out.parent / "plug-ins/normed.py").write_text(NORMED)
    models.__path__.append(str(out.parent / "plug-ins"))
    section = params.Train(
        backend="jax",
        nodes=nodes,
        epochs=3,
        batch_size=16,  # of 90 samples: the last batch holds 10
        class_weights="balanced",
        weight_decay=0.01,
        augment=params.Augment(flip_horizontal=True, rotate_deg=5, shift=0.05, contrast=0.1, noise=0.05),
    )
    found, result = data.read(arrays), {}
    with team.joined(seat.find(section, os.environ), {"arrays": str(len(found.train.labels))}) as us:
        backend.start("jax", 0)
        from medloop.training import fitting, network

        for name, hyper in HYPER.items():
            backend.start("jax", 0)  # every network from the same seed
            own = section.model_copy(update=RECIPES.get(name, {}))
            spec = network.Spec(name, found.shape, 2, hyper, {"kind": "image"})
            if us.leads:
                trained, state = fitting.fit(
                    spec, found, classification, own, seed=0, checkpoint=Kept(), log=Kept(), team=us
                )
                result |= {f"{name} {key}": [entry[key] for entry in state.history] for key in ("loss", "val_loss")}
                result |= {f"{name} weight {i}": value for i, value in enumerate(trained.get_weights())}
            else:
                fitting.follow(spec, found, classification, own, seed=0, team=us)
        team.part(us)
    if us.leads:
        np.savez(out, **result)


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]), int(sys.argv[3]))
