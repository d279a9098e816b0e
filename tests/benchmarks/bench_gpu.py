"""Training on a GPU through the product, against plain `model.fit` on the same backend, batch size and GPU.

Both train the same architecture on the same 16,384 images of 64x64, two classes, without augmentation; the product also
normalises, scores 1,024 validation images and writes a checkpoint after every epoch. Each runs in a process of its own,
epoch by epoch in turn. Prints the medians without the first epoch, in which both compile, and the peak of the device's
memory; then whether two runs of the product end with the same weights, byte for byte.

    python tests/benchmarks/bench_gpu.py [--backend jax] [--batch 32] [ARCHITECTURE ...]
"""

import argparse
import hashlib
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from typing import Any

import numpy as np

from medloop import params
from medloop.kinds import image
from medloop.training import backend, data

IMAGES, VALIDATION, SHAPE, CLASSES, EPOCHS = 16_384, 1024, (64, 64, 1), 2, 5
WAYS = ("plain", "float32", "mixed")


def main() -> None:
    """Measure each architecture asked for."""
    options = argparse.ArgumentParser()
    options.add_argument("architectures", nargs="*", default=["cnn", "lstm", "attention"])
    options.add_argument("--backend", default="jax", choices=["jax", "torch", "tensorflow"])
    options.add_argument("--batch", default="32")
    asked = options.parse_args()
    for architecture in asked.architectures:
        _measure(architecture, asked.backend, asked.batch)


def _measure(architecture: str, name: str, batch: str) -> None:
    said: dict[str, list[list[str]]] = {way: [] for way in (*WAYS, "again")}
    workers = {way: _worker("float32" if way == "again" else way, architecture, name, batch) for way in said}
    for _ in range(EPOCHS):
        for way, worker in workers.items():
            said[way].append(_epoch(worker))
    for way, worker in workers.items():
        worker.communicate()
        assert worker.returncode == 0, f"{way} of {architecture} on {name} ended with {worker.returncode}"
    seconds = {way: statistics.median(float(epoch[0]) for epoch in said[way][1:]) for way in WAYS}
    speeds = ", ".join(
        f"{way} {IMAGES / seconds[way]:.0f} images/s ({seconds['plain'] / seconds[way]:.2f}x, {said[way][-1][1]} MiB)"
        for way in WAYS
    )
    same = "equal" if said["float32"][-1][2] == said["again"][-1][2] else "different"
    print(f"{architecture} on {name}, batches of {batch}: {speeds}; weights of two runs: {same}", flush=True)


def _worker(way: str, *given: str) -> subprocess.Popen[str]:
    command, pipe = [sys.executable, __file__, "--worker", way, *given], subprocess.PIPE
    worker = subprocess.Popen(command, stdin=pipe, stdout=pipe, text=True)
    assert worker.stdout is not None
    assert worker.stdout.readline() == "ready\n", f"{way} of {given} did not start"
    return worker


def _epoch(worker: subprocess.Popen[str]) -> list[str]:
    """Return seconds, peak memory and digest of the weights of one epoch."""
    assert worker.stdin is not None
    assert worker.stdout is not None
    worker.stdin.write("go\n")
    worker.stdin.flush()
    return worker.stdout.readline().split() or sys.exit(f"{worker.args} broke off")


def _work(way: str, architecture: str, name: str, batch: str) -> None:
    """Train one epoch for each line on stdin, and answer."""
    random = np.random.default_rng(0)
    images = random.integers(0, 256, (IMAGES + VALIDATION, *SHAPE), dtype=np.uint8)
    labels = random.integers(0, CLASSES, len(images)).astype(np.int32)
    backend.start(name, 0, gpus=1, mixed_precision=way == "mixed")
    (_plain if way == "plain" else _product)(way, architecture, name, int(batch), images, labels)


def _plain(way: str, architecture: str, name: str, batch: int, images: np.ndarray, labels: np.ndarray) -> None:
    import keras

    from medloop import models, plugins

    model = plugins.load(models, architecture).build(SHAPE, CLASSES)
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile(optimizer="adam", loss=loss, metrics=["accuracy"])
    x, y = images[:IMAGES].astype("float32") / 255, labels[:IMAGES]
    for start in _turns():
        model.fit(x, y, batch_size=batch, verbose=0)
        print(time.perf_counter() - start, _peak_mib(name), "-", flush=True)


def _product(way: str, architecture: str, name: str, batch: int, images: np.ndarray, labels: np.ndarray) -> None:
    from medloop.tasks import classification
    from medloop.training import checkpoint, fitting, network

    section = params.Train(
        architectures=(architecture,), batch_size=batch, epochs=EPOCHS, patience=EPOCHS, mixed_precision=way == "mixed"
    )
    arrays = data.Arrays(
        {"input_shape": SHAPE, "classes": [str(i) for i in range(CLASSES)]},
        data.Split(images[:IMAGES], labels[:IMAGES], None, image),
        data.Split(images[IMAGES:], labels[IMAGES:], None, image),
    )
    spec = network.Spec(architecture, SHAPE, CLASSES, {}, {"kind": "image"})
    turns = _turns()

    class Kept(checkpoint.Checkpoint):
        digest = ""

        def save(self, state: Any, variables: Any, best: Any) -> None:
            super().save(state, variables, best)
            content = b"".join(np.ascontiguousarray(_host(variable)).tobytes() for variable in variables)
            self.digest = hashlib.sha256(content).hexdigest()

    class Answer:
        start = next(turns)

        def log(self, metrics: dict[str, float], step: int) -> None:
            print(time.perf_counter() - self.start, _peak_mib(name), kept.digest, flush=True)
            self.start = next(turns, 0.0)

    with tempfile.TemporaryDirectory() as folder:
        os.environ["MEDLOOP_STATE"] = folder
        kept = Kept("bench")
        fitting.fit(spec, arrays, classification, section, seed=0, checkpoint=kept, log=Answer())


def _host(variable: Any) -> np.ndarray:
    import keras

    return keras.ops.convert_to_numpy(variable)


def _peak_mib(name: str) -> int:
    if name == "jax":
        import jax

        return int(jax.local_devices()[0].memory_stats()["peak_bytes_in_use"] / 2**20)
    if name == "torch":
        import torch

        return int(torch.cuda.max_memory_allocated() / 2**20)
    import tensorflow as tf

    return int(tf.config.experimental.get_memory_info("GPU:0")["peak"] / 2**20)


def _turns() -> Iterator[float]:
    print("ready", flush=True)
    for _ in sys.stdin:
        yield time.perf_counter()


if __name__ == "__main__":
    _work(*sys.argv[2:]) if sys.argv[1:2] == ["--worker"] else main()
