"""The model as MLflow serves it: encoded samples in, what its task says of them out; or classes in, images out.

Logged as code and stands alone: MLflow runs this file where there is no medloop. `inference.py`, `decoder.py` (of the
kind of sample: imaging.py, signals.py or volumes.py) and `answer.py` (of the task) lie in the model's folder, as they
were when it was registered.
"""

import hashlib
import importlib.util
import json
import os
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType
from typing import Any, TypeVar

import numpy as np
import pandas as pd
from mlflow.models import set_model
from mlflow.pyfunc import PythonModel

DIGESTS = "digests.json"  # file name: sha256, of everything else in the folder
THREADS = max(1, min(8, len(os.sched_getaffinity(0))))
BATCH = 256  # arrays at once, of a network that gives a few numbers of each
T = TypeVar("T")


class Model:
    """A registered model's folder: model.onnx, card.json, decoder.py, inference.py, answer.py, digests.json.

    Raises:
        ValueError: a file is not the one that was registered.
    """

    def __init__(self, folder: Path) -> None:
        _verify(folder)
        self.card: dict[str, Any] = json.loads((folder / "card.json").read_text())
        self._decoder = _module(folder / "decoder.py")
        self._answer = _module(folder / "answer.py")
        self._draw: Any = getattr(self._answer, "mask", None) or getattr(self._answer, "boxes", None)
        self._network = _module(folder / "inference.py").Network(folder / "model.onnx")
        self._pool = ThreadPoolExecutor(THREADS)

    def read(self, content: bytes) -> np.ndarray:
        """Return an encoded sample as the network takes it.

        An image is DICOM, PNG, JPEG or TIFF, a signal CSV or .npy, a volume NIfTI.

        Raises:
            ValueError: it cannot be read, or has another form; the message holds nothing that the file says.
        """
        with self._without_patients():
            array: np.ndarray = self._decoder.as_input(content, self.card["preprocessing"])
        return array

    def answer(self, contents: list[bytes]) -> dict[str, np.ndarray]:
        """Return what the model says of encoded samples; raise ValueError that names the first bad one by its place.

        A mask has the size of its own image, and boxes are in its pixels, whatever the network's input is.
        """
        return self.drawn(contents) if self._draw else self.predict(self.read_all(contents))

    def read_all(self, contents: list[bytes]) -> np.ndarray:
        """Return encoded samples as (N, ...); raise ValueError that names the first bad one by its place."""
        return np.stack(list(self._each(self.read, contents)))

    def drawn(self, contents: list[bytes]) -> dict[str, np.ndarray]:
        """Return the columns of a mask, or of boxes, of each encoded image, a few of which are in memory at a time."""
        found = list(self._each(self._drawn, contents))
        return {name: np.concatenate([each[name] for each in found]) for name in found[0]}

    def predict(self, arrays: np.ndarray) -> dict[str, np.ndarray]:
        """Return what the model says of arrays (N, ...), as its task puts it: probabilities and a decision."""
        if arrays.dtype != self._network.dtype or list(arrays.shape[1:]) != self.card["input_shape"]:
            wanted = ", ".join(map(str, self.card["input_shape"]))
            raise ValueError(
                f"{self.card['kind']}s must be (N, {wanted}) {self._network.dtype}, got {arrays.shape} {arrays.dtype}"
            )
        at_once = getattr(self._answer, "WINDOWS", BATCH)
        answer: dict[str, np.ndarray] = self._answer.answer(self._network.outputs(arrays, at_once), self.card)
        return answer

    def generate(self, table: pd.DataFrame) -> dict[str, list[bytes]]:
        """Return the images that a table of classes and seeds asks for; raise ValueError that names a bad row."""
        made: dict[str, list[bytes]] = self._answer.generate(table, self._network.outputs, self.card)
        return made

    @property
    def makes_images(self) -> bool:
        """Whether the model is asked for images."""
        return hasattr(self._answer, "generate")

    def _drawn(self, content: bytes) -> dict[str, np.ndarray]:
        with self._without_patients():
            pixels, bit_depth = self._decoder.decode(content)
        try:
            drawn = self._draw(pixels, bit_depth, self._decoder, self._network.outputs, self.card)
        except self._decoder.Unreadable as error:
            raise ValueError(str(error)) from None
        columns: dict[str, np.ndarray] = self._answer.columns_of([drawn], self.card)
        return columns

    def _each(self, read: Callable[[bytes], T], contents: list[bytes]) -> Iterator[T]:
        """Yield what `read` makes of each; raise ValueError that names the first bad one by its place."""

        def tried(content: bytes) -> T | ValueError:
            try:
                return read(content)
            except ValueError as error:
                return error

        found = map(tried, contents) if len(contents) < 2 * THREADS else self._pool.map(tried, contents)
        for place, each in enumerate(found):
            if isinstance(each, ValueError):
                raise ValueError(f"{self.card['kind']} {place}: {each}")
            yield each

    @contextmanager
    def _without_patients(self) -> Iterator[None]:
        """Let an error say nothing that the file said."""
        try:
            yield
        except self._decoder.Unreadable as error:
            raise ValueError(str(error)) from None
        except Exception as error:  # pydicom's messages may quote the header, and so the patient
            raise ValueError(f"cannot be decoded ({type(error).__name__})") from None


class Served(PythonModel):
    """MLflow's side: one column of bytes in, called like the kind of sample; the columns of the task out."""

    def load_context(self, context: Any) -> None:
        self.model = Model(Path(context.artifacts["model"]))

    def predict(self, model_input: pd.DataFrame) -> pd.DataFrame:  # type: ignore[override]  # context is not needed
        """Return a row for each encoded sample, or for each image that is asked for."""
        if self.model.makes_images:
            return pd.DataFrame(self.model.generate(model_input))
        return pd.DataFrame(self.model.answer(list(model_input[self.model.card["kind"]])))


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


set_model(Served())
