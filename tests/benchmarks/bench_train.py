"""Training throughput through the product, against plain `model.fit(x, y, batch_size=32)` on TensorFlow.

Both train the same architecture on the same images of 28x28 (12,800, or 1,600 for the larger networks), 10 classes,
without augmentation. `lstm-10x1` and `attention-10x1` are the tutorial's own, for ten values; networks for sequences
see 140 values, those for volumes 64 of 28x28x28; networks that give maps or boxes train on images of 128x128, 64 with a
mask or 256 with five boxes, by the product's loss. Both score a tenth as many validation samples after every epoch, the
rival by `validation_data`. The product also normalises, weights classes, and writes a checkpoint each time. Each runs
in a process of its own, epoch by epoch in turn. Prints seconds an epoch and the ratio of medians, without the first
epoch, in which both compile, and of all epochs together. With --backends the product trains on TensorFlow and on JAX
too, in the same turns: `auto` should be the faster of the two.

    python tests/benchmarks/bench_train.py [--backends] [ARCHITECTURE ...]
"""

import functools
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator

import numpy as np

from medloop import params
from medloop.kinds import image, sequence, volume
from medloop.training import backend, data

BATCH, CLASSES, EPOCHS = 32, 10, 7
DRAWN = {  # others classify
    **dict.fromkeys(("unet", "attention_unet"), "segmentation"),
    **dict.fromkeys(("fcos", "retinanet"), "detection"),
}
TUTORIAL, SEQUENCES, VOLUMES = ("lstm-10x1", "attention-10x1"), ("resnet1d", "transformer1d"), ("resnet3d", "cnn3d")
SHAPES: dict[str, tuple[int, ...]] = {  # others: 28x28
    **dict.fromkeys(TUTORIAL, (10, 1)),
    **dict.fromkeys(SEQUENCES, (140, 1)),
    **dict.fromkeys(VOLUMES, (28, 28, 28, 1)),
    **dict.fromkeys(DRAWN, (128, 128, 1)),
}
KINDS = {2: sequence, 3: image, 4: volume}  # by the axes of a sample
IMAGES = {
    **dict.fromkeys(("cnn", "lstm", "attention", *TUTORIAL), 12_800),
    **dict.fromkeys(("resnet", "densenet", "convnext", "vit", *SEQUENCES), 1600),
    **dict.fromkeys(VOLUMES, 64),
    **{name: 64 if task == "segmentation" else 256 for name, task in DRAWN.items()},
}
VALIDATION = {name: max(count // 10, CLASSES) for name, count in IMAGES.items()}  # of each class one at least
HYPER: dict[str, dict[str, str]] = {name: {"activation": "relu"} for name in TUTORIAL}


def main() -> None:
    """Measure each architecture asked for, or all."""
    names = [name for name in sys.argv[1:] if name != "--backends"]
    ways = ["plain", "auto"] + (["tensorflow", "jax"] if "--backends" in sys.argv else [])
    for name in names or IMAGES:
        seconds: dict[str, list[float]] = {way: [] for way in ways}
        with tempfile.TemporaryDirectory() as folder:
            os.environ["MEDLOOP_STATE"] = folder
            workers = {way: _worker(way, name) for way in seconds}
            for _ in range(EPOCHS):
                for way, worker in workers.items():
                    seconds[way].append(_epoch(worker))
            for worker in workers.values():
                worker.communicate()
        plain, *products = (statistics.median(values[1:]) for values in seconds.values())
        for way, product in zip(ways[1:], products, strict=True):
            whole = sum(seconds["plain"]) / sum(seconds[way])
            print(
                f"{name:10} {way:10} {IMAGES[name] / product:8.0f} images/s, {plain / product:.2f}x plain fit "
                f"({plain:.2f} s an epoch against {product:.2f} s); first epochs counted in {whole:.2f}x",
                flush=True,
            )


def _worker(way: str, name: str) -> subprocess.Popen[str]:
    command, pipe = [sys.executable, __file__, "--worker", way, name], subprocess.PIPE
    worker = subprocess.Popen(command, stdin=pipe, stdout=pipe, stderr=subprocess.DEVNULL, text=True)
    assert worker.stdout is not None
    assert worker.stdout.readline() == "ready\n", f"{way} {name} did not start"
    return worker


def _epoch(worker: subprocess.Popen[str]) -> float:
    assert worker.stdin is not None
    assert worker.stdout is not None
    worker.stdin.write("go\n")
    worker.stdin.flush()
    return float(worker.stdout.readline())


def _work(way: str, name: str) -> None:
    """Train one epoch for each line on stdin, and answer with its seconds."""
    random = np.random.default_rng(0)
    shape, count = SHAPES.get(name, (28, 28, 1)), IMAGES[name] + VALIDATION[name]
    images: np.ndarray = random.integers(0, 256, (count, *shape), dtype=np.uint8)
    images = images.astype(np.float32) / 255 if len(shape) == 2 else images
    task = DRAWN.get(name, "classification")
    labels: np.ndarray
    if task == "segmentation":
        labels, outputs = (images[..., 0] > 128).astype(np.uint8), 2
    elif task == "detection":
        corner, size = random.uniform(0, 96, (count, 5, 2)), random.uniform(8, 32, (count, 5, 2))
        labels = np.concatenate([corner, corner + size, np.ones((count, 5, 1))], axis=-1).astype(np.float32)
        outputs = 1
    else:
        labels, outputs = np.arange(count, dtype=np.int32) % CLASSES, CLASSES
    split = [(images[part], labels[part]) for part in (slice(IMAGES[name]), slice(IMAGES[name], None))]
    train = _plain if way == "plain" else functools.partial(_product, way)
    train(name.partition("-")[0], HYPER.get(name, {}), task, outputs, *split)


def _plain(
    architecture: str,
    hyper: dict[str, str],
    task: str,
    outputs: int,
    train: tuple[np.ndarray, np.ndarray],
    val: tuple[np.ndarray, np.ndarray],
) -> None:
    os.environ["KERAS_BACKEND"] = "tensorflow"
    import keras

    from medloop import models, plugins, tasks

    images, labels = train
    model = plugins.load(models, architecture).build(images.shape[1:], outputs, **hyper)
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    if task != "classification":
        loss = plugins.load(tasks, task).loss(params.Train(architectures=(architecture,)))
    model.compile(optimizer="adam", loss=loss, metrics=["accuracy"] if task == "classification" else [])

    def given(each: np.ndarray) -> np.ndarray | list[np.ndarray]:
        x = each.astype("float32") / (1 if each.dtype == np.float32 else 255)
        return [x] * len(model.inputs) if len(model.inputs) > 1 else x

    inputs, beside = given(images), (given(val[0]), val[1])
    for start in _turns():
        model.fit(inputs, labels, batch_size=BATCH, validation_data=beside, verbose=0)
        print(time.perf_counter() - start, flush=True)


def _product(
    name: str,
    architecture: str,
    hyper: dict[str, str],
    task: str,
    outputs: int,
    train: tuple[np.ndarray, np.ndarray],
    val: tuple[np.ndarray, np.ndarray],
) -> None:
    section = params.Train.model_validate(
        {
            "architectures": (architecture,),
            "backend": name,
            "epochs": EPOCHS,
            "patience": EPOCHS,
            "batch_size": BATCH,
            "class_weights": "balanced" if task == "classification" else "none",
        }
    )
    backend.start(backend.select(section), 0)
    from medloop import plugins, tasks
    from medloop.training import checkpoint, fitting, network

    kind = KINDS[train[0].ndim - 1]
    classes = [str(i) for i in range(CLASSES if task == "classification" else 1)]
    arrays = data.Arrays(
        {"input_shape": train[0].shape[1:], "classes": classes},
        data.Split(*train, None, kind),
        data.Split(*val, None, kind),
    )
    spec = network.Spec(architecture, arrays.shape, outputs, hyper, {"kind": "image"}, dtype=train[0].dtype.name)
    turns = _turns()

    class Answer:
        start = next(turns)

        def log(self, metrics: dict[str, float], step: int) -> None:
            print(time.perf_counter() - self.start, flush=True)
            self.start = next(turns, 0.0)

    kept = checkpoint.Checkpoint("bench")
    fitting.fit(spec, arrays, plugins.load(tasks, task), section, seed=0, checkpoint=kept, log=Answer())


def _turns() -> Iterator[float]:
    print("ready", flush=True)
    for _ in sys.stdin:
        yield time.perf_counter()


if __name__ == "__main__":
    _work(*sys.argv[2:]) if sys.argv[1:2] == ["--worker"] else main()
