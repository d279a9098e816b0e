"""Trains small networks with every part of the recipe: `python recipe.py BACKEND FOLDER`. See test_recipe.py.

Prints as JSON, by architecture: how far the average of the weights is from one made by hand, and how many variables
differ between an undisturbed run and one that was cut off after an epoch.
"""

import json
import sys
from pathlib import Path

import numpy as np

from medloop import params
from medloop.tasks import classification
from medloop.training import backend, data
from synthetic import write_arrays

HYPER = {"resnet": {"filters": [4], "blocks": 1, "dropout": 0.3}, "vit": {"width": 8, "depth": 1, "dropout": 0.3}}
SECTION = params.Train(
    epochs=2,
    batch_size=16,
    schedule="cosine",
    weight_decay=0.01,
    sampling="balanced",
    loss="focal",
    label_smoothing=0.1,
    mixup=0.3,
    ema=0.8,
    augment=params.Augment(flip_horizontal=True, noise=0.05),
)


class Log:
    def log(self, metrics, step):
        pass


class CutOff(Log):
    def log(self, metrics, step):
        if step == 1:
            raise KeyboardInterrupt


def average_by_hand(name, spec, arrays):
    """Return how far the kept average is from sum of weights, after ten steps taken one by one."""
    backend.start(name, 0)
    import keras

    from medloop.training import engine, network
    from medloop.training.average import Average, variables

    net = network.build(spec)
    optimizer = keras.optimizers.AdamW(0.01)
    average = Average(net, network.build(spec), SECTION.ema)
    loop = backend.kind(spec.architecture) in backend.LOOPED
    advance = engine.trainer(net, optimizer, classification.loss(SECTION), loop=loop, average=average)
    weights = np.ones(len(arrays.train.labels), np.float32)
    floats = [i for i, each in enumerate(variables(net)) if keras.backend.is_float_dtype(each.dtype)]

    def now():
        return [keras.ops.convert_to_numpy(variables(net)[i]) for i in floats]

    kept, step = [each.astype(np.float64) for each in now()], 0
    for epoch in (1, 2):
        for segment in data.epoch_segments(arrays.train, weights, SECTION, seed=0, epoch=epoch):
            for i in range(len(segment[0])):
                advance(tuple(part[i : i + 1] for part in segment))
                step += 1
                decay = min(SECTION.ema, (1 + step) / (10 + step))
                kept = [decay * was + (1 - decay) * value for was, value in zip(kept, now(), strict=True)]
    assert step == 12
    found = [keras.ops.convert_to_numpy(average.variables[i]) for i in floats]
    moved = max(np.abs(each - value).max() for each, value in zip(found, now(), strict=True))
    assert moved > 1e-3, "the average is meant to differ from the weights"
    return max(float(np.abs(each - wanted).max()) for each, wanted in zip(found, kept, strict=True))


def cut_off(name, spec, arrays, folder):
    """Return how many variables of the saved network differ from those of an undisturbed run."""
    ends = []
    for kind in (Log, CutOff, Log):
        backend.start(name, 0)
        from medloop.training import checkpoint, fitting

        kept = checkpoint.Checkpoint(spec.architecture, folder / ("whole" if len(ends) == 0 else "cut"))
        try:
            net, _ = fitting.fit(spec, arrays, classification, SECTION, seed=0, checkpoint=kept, log=kind())
        except KeyboardInterrupt:
            continue
        ends.append(net.get_weights())
    return sum(not np.array_equal(one, other) for one, other in zip(*ends, strict=True))


def main(name, folder):
    arrays, result = data.read(write_arrays(folder / "arrays")), {}
    for architecture, hyper in HYPER.items():
        backend.start(name, 0)
        from medloop.training import network

        spec = network.Spec(architecture, arrays.shape, 2, hyper, {"kind": "image"})
        result[architecture] = {
            "average": average_by_hand(name, spec, arrays),
            "differ": cut_off(name, spec, arrays, folder),
        }
    print(json.dumps(result))


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]))
