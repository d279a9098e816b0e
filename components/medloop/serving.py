"""The model as MLflow serves it: encoded images in, calibrated probabilities and the decision out.

Logged as code and stands alone: MLflow runs this file where there is no medloop. `imaging.py` and `inference.py` lie in
the model's folder, as they were when it was registered.
"""

import hashlib
import importlib.util
import json
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import ModuleType
from typing import Any

import cv2
import numpy as np
import pandas as pd
from mlflow.models import set_model
from mlflow.pyfunc import PythonModel

DIGESTS = "digests.json"  # file name: sha256, of everything else in the folder
THREADS = max(1, min(8, cv2.getNumberOfCPUs()))


class Model:
    """A registered model's folder: model.onnx, card.json, imaging.py, inference.py, digests.json.

    Raises:
        ValueError: a file is not the one that was registered.
    """

    def __init__(self, folder: Path) -> None:
        _verify(folder)
        self.card: dict[str, Any] = json.loads((folder / "card.json").read_text())
        self.classes: list[str] = self.card["classes"]
        self._imaging = _module(folder / "imaging.py")
        self._inference = _module(folder / "inference.py")
        self._network = self._inference.Network(folder / "model.onnx")
        self._positive = self.classes.index(self.card["positive_class"])
        wanted = self.card["preprocessing"]
        self._fit = {name: wanted[name] for name in ("size_px", "channels", "clip_percentiles")}
        self._pool = ThreadPoolExecutor(THREADS)

    def read(self, content: bytes) -> np.ndarray:
        """Return an encoded image (DICOM, PNG, JPEG, TIFF) as the network takes it, (H, W, C) uint8.

        Raises:
            ValueError: it cannot be read, or has other channels; the message holds nothing that the file says.
        """
        try:
            pixels, bit_depth = self._imaging.decode(content)
        except self._imaging.Unreadable as error:
            raise ValueError(str(error)) from None
        except Exception as error:  # pydicom's messages may quote the header, and so the patient
            raise ValueError(f"cannot be decoded ({type(error).__name__})") from None
        return self._imaging.fit(pixels, bit_depth, **self._fit)

    def read_all(self, contents: list[bytes]) -> np.ndarray:
        """Return encoded images as (N, H, W, C) uint8; raise ValueError that names the first bad one by its place."""
        read = map(self._tried, contents) if len(contents) < 2 * THREADS else self._pool.map(self._tried, contents)
        images = []
        for place, image in enumerate(read):
            if isinstance(image, ValueError):
                raise ValueError(f"image {place}: {image}")
            images.append(image)
        return np.stack(images)

    def predict(self, images: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Return calibrated probabilities (N, classes) and the decided class indices (N,) of (N, H, W, C) uint8."""
        if images.dtype != np.uint8 or list(images.shape[1:]) != self.card["input_shape"]:
            wanted = ", ".join(map(str, self.card["input_shape"]))
            raise ValueError(f"images must be (N, {wanted}) uint8, got {images.shape} {images.dtype}")
        probability = self._inference.probabilities(self._network.logits(images), self.card["temperature"])
        return probability, self._inference.decide(probability, self.card["threshold"], self._positive)

    def _tried(self, content: bytes) -> np.ndarray | ValueError:
        try:
            return self.read(content)
        except ValueError as error:
            return error


class Classifier(PythonModel):
    """MLflow's side: a column `image` of bytes in, columns `p_<class>` and `decision` out."""

    def load_context(self, context: Any) -> None:
        self.model = Model(Path(context.artifacts["model"]))

    def predict(self, model_input: pd.DataFrame) -> pd.DataFrame:  # type: ignore[override]  # context is not needed
        """Return a row of probabilities and a decision for each encoded image."""
        probability, decision = self.model.predict(self.model.read_all(list(model_input["image"])))
        table = pd.DataFrame(probability, columns=[f"p_{name}" for name in self.model.classes])
        table["decision"] = np.asarray(self.model.classes, object)[decision]
        return table


def _verify(folder: Path) -> None:
    for name, wanted in json.loads((folder / DIGESTS).read_text()).items():
        came = hashlib.sha256((folder / name).read_bytes()).hexdigest()
        if came != wanted:
            raise ValueError(f"{name} does not match its digest: wanted {wanted[:12]}, got {came[:12]}")


def _module(path: Path) -> ModuleType:
    spec = importlib.util.spec_from_file_location(f"registered_{path.stem}", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


set_model(Classifier())
