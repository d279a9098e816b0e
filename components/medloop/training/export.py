"""Saves a trained network as .keras and as ONNX, and holds the two together."""

import hashlib
import importlib
import json
import re
import warnings
import zipfile
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import keras
import numpy as np

from medloop.errors import Refused
from medloop.inference import Network
from medloop.training import canonical, engine, judging
from medloop.training.data import Split

TOLERANCE = 1e-4  # between the outputs of the two files; relative to the largest one where that is above one
MAP_TOLERANCE = 1e-2  # of maps: of two million logits the worst was rounded by 2e-3, where no pixel changed its class
EPOCH = (1980, 1, 1, 0, 0, 0)  # the earliest date that a zip can hold


def save_keras(network: keras.Model, path: Path) -> None:
    """Write a .keras file whose bytes depend on the network alone: without dates and memory addresses."""
    network.save(path)
    with zipfile.ZipFile(path) as archive:
        content = {name: archive.read(name) for name in archive.namelist()}
    metadata = json.loads(content["metadata.json"])
    metadata.pop("date_saved", None)
    content["metadata.json"] = json.dumps(metadata, sort_keys=True).encode()
    content["config.json"] = _numbered(content["config.json"].decode()).encode()
    with zipfile.ZipFile(path, "w", zipfile.ZIP_STORED) as archive:
        for name in sorted(content):
            archive.writestr(zipfile.ZipInfo(name, EPOCH), content[name])


def _numbered(config: str) -> str:
    """Return a network's configuration with its objects numbered in order, not by their address in memory."""
    numbers: dict[str, int] = {}
    pattern = r'("shared_object_id": )(\d+)'
    return re.sub(pattern, lambda found: f"{found[1]}{numbers.setdefault(found[2], len(numbers))}", config)


def save_onnx(source: Path, target: Path) -> None:
    """Write a .keras file as ONNX, batch size left open; keras must run on TensorFlow."""
    importlib.import_module("tf2onnx.convert")  # all of it, before its sets are ordered; it brings TensorFlow
    network = keras.models.load_model(source)
    network(np.zeros((1, *network.input_shape[1:]), network.inputs[0].dtype))  # keras exports what has been called
    with warnings.catch_warnings(), canonical.ordered_sets("tf2onnx"):
        warnings.filterwarnings("ignore", "In the future `np.object`", FutureWarning)  # keras's patch of tf2onnx
        network.export(target, format="onnx", verbose=False)
    canonical.rewrite(target, "outputs")


def checked_outputs(folder: Path, split: Split, task: ModuleType) -> np.ndarray:
    """Return the outputs (N, K) of `folder/model.onnx`, after comparing them with those of `folder/model.keras`.

    Of maps they are what the task keeps of them; all of their pixels are compared. Of what is said at many places each
    column is: one of pixels is far larger than one of logits.

    Raises:
        Refused: they differ by more than TOLERANCE, maps by more than MAP_TOLERANCE.
    """
    saved, exported = keras.models.load_model(folder / "model.keras"), Network(folder / "model.onnx")
    given, furthest, largest = judging.inputs(split, task), np.zeros(1), np.ones(1)

    def compared() -> Iterator[tuple[slice, np.ndarray]]:
        nonlocal furthest, largest
        size = engine.batch_of(saved.output_shape)
        both = zip(engine.Predictor(saved).parts(given), exported.parts(given, size), strict=True)
        for (rows, wanted), came in both:
            over = (0, 1) if wanted.ndim == 3 else None
            furthest = np.maximum(furthest, np.nan_to_num(np.abs(came - wanted).max(axis=over), nan=np.inf))
            largest = np.maximum(largest, np.abs(wanted).max(axis=over))
            yield rows, came

    outputs = judging.outputs(compared(), split.labels, task)
    difference = float((furthest / largest).max())
    allowed = MAP_TOLERANCE if judging.of_maps(task) or judging.of_images(task) else TOLERANCE
    if not difference <= allowed:
        raise Refused(
            f"model.keras and model.onnx must agree to {allowed:g} on the validation data, they differ by "
            f"{difference:.2g}: the architecture uses an operation that is exported wrongly; replace it by another"
        )
    return outputs


def weights_sha256(network: keras.Model) -> str:
    """Return the digest of the weights, their shapes and their order."""
    digest = hashlib.sha256()
    for weight in network.get_weights():
        digest.update(f"{weight.dtype}{weight.shape}".encode())
        digest.update(np.ascontiguousarray(weight).tobytes())
    return digest.hexdigest()
