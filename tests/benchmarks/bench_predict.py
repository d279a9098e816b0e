"""Predict through the registered model, against `keras predict` on the same network.

The rival is `model.predict(images, batch_size=n, verbose=0)` on decoded arrays, also where the product has to decode
PNG files first. Prints ratios of times, medians of interleaved runs. The network is `cnn` for (28, 28, 1), 10 classes.
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

from medloop import serving
from medloop.kinds.image import file_of as encoded
from medloop.tracking import packaging, registry
from medloop.training import export, network

SHAPE, CLASSES = (28, 28, 1), [f"class {number}" for number in range(10)]
WANTED = {("arrays", 256): 5, ("arrays", 1): 50, ("encoded", 256): 2, ("encoded", 1): 20}
REPEATS = {1: 60, 256: 20}


def main() -> None:
    """Print each ratio, and what is wanted of it."""
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        rival, card = _model(folder)
        with packaging.packaged(folder, card, model_id="m-0", run_id="0") as packed:
            inner = serving.Model(packed / "artifacts/model")
            registered = registry.load(str(packed))
            for size in (256, 1):
                images = np.random.default_rng(0).integers(0, 256, (size, *SHAPE), np.uint8)
                files = pd.DataFrame({"image": [encoded(image[..., 0], 8) for image in images]})
                times = _interleaved(
                    {
                        "keras": lambda images=images: rival.predict(images, batch_size=len(images), verbose=0),
                        "arrays": lambda images=images: inner.predict(images),
                        "encoded": lambda files=files: registered.predict(files),
                    },
                    REPEATS[size],
                )
                for kind in ("arrays", "encoded"):
                    ratio = times["keras"] / times[kind]
                    print(
                        f"{kind:8} batch {size:3}: {ratio:5.1f}x keras predict (wanted {WANTED[kind, size]}x), "
                        f"{times[kind] * 1e3:.2f} ms against {times['keras'] * 1e3:.2f} ms"
                    )


def _model(folder: Path) -> tuple[keras.Model, dict]:
    """Write model.keras and model.onnx to `folder`; return the network and a card."""
    made = network.build(network.Spec("cnn", SHAPE, len(CLASSES), {}, {"kind": "image"}))
    export.save_keras(made, folder / "model.keras")
    export.save_onnx(folder / "model.keras", folder / "model.onnx")
    card = {
        "classes": CLASSES,
        "input_shape": list(SHAPE),
        "preprocessing": {"size_px": list(SHAPE[:2]), "channels": 1, "clip_percentiles": [0.0, 100.0]},
        "temperature": 1.0,
        "threshold": None,
        "positive_class": CLASSES[-1],
    }
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
