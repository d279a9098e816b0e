"""Predict through the registered model, against `keras predict` on the same network.

The rival is `model.predict(images, batch_size=n, verbose=0)` on decoded arrays, also where the product has to decode
PNG files first. Prints ratios of times, medians of interleaved runs. The network is `cnn` for (28, 28, 1), 10 classes;
then `unet` for (256, 256, 1), one class, with what the product makes of its maps: a mask, PNG, of each image; `fcos`
and `retinanet` for (192, 256, 3), three classes, with what it makes of these: boxes, without those that stronger ones
hold.
"""

import os
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

os.environ |= {"KERAS_BACKEND": "tensorflow", "TF_CPP_MIN_LOG_LEVEL": "3"}

import keras
import numpy as np
import pandas as pd

from medloop import plugins, serving, tasks
from medloop.kinds.image import file_of as encoded
from medloop.tracking import packaging, registry
from medloop.training import export, network

SHAPE, CLASSES = (28, 28, 1), [f"class {number}" for number in range(10)]
WANTED = {("arrays", 256): 5, ("arrays", 1): 50, ("encoded", 256): 2, ("encoded", 1): 20}
WANTED_OF_OTHERS = dict.fromkeys([("arrays", 8), ("arrays", 1), ("encoded", 8), ("encoded", 1)], 1.5)
OF_CLASSES = {"task": "classification", "classes": CLASSES, "positive_class": CLASSES[-1]}
OF_MAPS = {"task": "segmentation", "classes": ["cell"]}
OF_BOXES = {"task": "detection", "classes": ["RBC", "WBC", "Platelets"]}
OTHERS = {"unet": ((256, 256, 1), OF_MAPS), **dict.fromkeys(("fcos", "retinanet"), ((192, 256, 3), OF_BOXES))}
REPEATS = {1: 60, 8: 20, 256: 20}


def main() -> None:
    """Print each ratio, and what is wanted of it."""
    with tempfile.TemporaryDirectory() as temporary:
        _measure("cnn", SHAPE, WANTED, OF_CLASSES, Path(temporary))
    for name, (shape, about) in OTHERS.items():
        with tempfile.TemporaryDirectory() as temporary:
            _measure(name, shape, WANTED_OF_OTHERS, about, Path(temporary))


def _measure(
    architecture: str, shape: tuple[int, int, int], wanted: dict[tuple[str, int], float], about: dict, folder: Path
) -> None:
    rival, card = _model(architecture, shape, about, folder)
    with packaging.packaged(folder, card, model_id="m-0", run_id="0") as packed:
        inner = serving.Model(packed / "artifacts/model")
        registered = registry.load(str(packed))
        for size in sorted({size for _, size in wanted}, reverse=True):
            images = np.random.default_rng(0).integers(0, 256, (size, *shape), np.uint8)
            files = pd.DataFrame({"image": [encoded(image[..., 0] if shape[2] == 1 else image, 8) for image in images]})
            times = _interleaved(
                {
                    "keras": lambda images=images: rival.predict(images, batch_size=len(images), verbose=0),
                    "arrays": lambda images=images: inner.predict(images),
                    "encoded": lambda files=files: registered.predict(files),
                },
                REPEATS[size],
            )
            for kind in ("arrays", "encoded"):
                print(
                    f"{architecture:9} {kind:8} batch {size:3}: {times['keras'] / times[kind]:5.1f}x keras predict "
                    f"(wanted {wanted[kind, size]}x), {times[kind] * 1e3:.2f} ms against {times['keras'] * 1e3:.2f} ms",
                    flush=True,
                )


def _model(architecture: str, shape: tuple[int, int, int], about: dict, folder: Path) -> tuple[keras.Model, dict]:
    """Write model.keras and model.onnx to `folder`; return the network and a card."""
    outputs = plugins.load(tasks, about["task"]).outputs(about["classes"])
    made = network.build(network.Spec(architecture, shape, outputs, {}, {"kind": "image"}))
    export.save_keras(made, folder / "model.keras")
    export.save_onnx(folder / "model.keras", folder / "model.onnx")
    card = {
        "kind": "image",
        "input_shape": list(shape),
        "preprocessing": {"size_px": list(shape[:2]), "channels": shape[2], "clip_percentiles": [0.0, 100.0]},
        "temperature": 1.0,
        "threshold": None,
    } | about
    return made, card


def _interleaved(calls: dict[str, Callable[[], object]], repeats: int) -> dict[str, float]:
    """Return the median seconds of each call."""
    times: dict[str, list[float]] = {name: [] for name in calls}
    for call in calls.values():
        call()
        call()
    for _ in range(repeats):
        for name, call in calls.items():
            begin = time.perf_counter()
            call()
            times[name].append(time.perf_counter() - begin)
    return {name: statistics.median(values) for name, values in times.items()}


if __name__ == "__main__":
    main()
