"""The registered model: one pyfunc logged as code, with all that it needs lying beside it."""

import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from importlib import metadata
from pathlib import Path
from typing import Any

import cv2
import mlflow.pyfunc
import numpy as np
import pandas as pd
from mlflow.models import Model, ModelSignature
from mlflow.types import ColSpec, DataType, Schema

from medloop import imaging, inference, provenance

SERVING = Path(imaging.__file__).with_name("serving.py")
DIGESTS = "digests.json"
REQUIREMENTS = (  # what serving.py, imaging.py and inference.py import, and pydicom's decoders
    "mlflow-skinny",
    "numpy",
    "pandas",
    "onnxruntime",
    "opencv-python-headless",
    "pydicom",
    "pyjpegls",
    "pylibjpeg",
    "pylibjpeg-openjpeg",
    "python-gdcm",
)


@contextmanager
def packaged(model: Path, card: dict[str, Any], *, model_id: str, run_id: str) -> Iterator[Path]:
    """Yield a temporary folder in MLflow's model format, made of `model`/model.onnx and the final `card`."""
    with tempfile.TemporaryDirectory() as temporary:
        own = Path(temporary) / "model"
        own.mkdir()
        shutil.copyfile(model / "model.onnx", own / "model.onnx")
        provenance.write_json(own / "card.json", card)
        for module in (imaging, inference):
            shutil.copyfile(str(module.__file__), own / Path(str(module.__file__)).name)
        provenance.write_json(own / DIGESTS, {path.name: provenance.sha256(path) for path in own.iterdir()})
        folder = Path(temporary) / "pyfunc"
        mlflow.pyfunc.save_model(
            folder,
            python_model=SERVING,
            artifacts={"model": str(own)},
            signature=signature(card["classes"]),
            input_example=example(card),
            pip_requirements=[f"{name}=={metadata.version(name)}" for name in REQUIREMENTS],
            mlflow_model=Model(model_id=model_id, model_uuid=model_id, run_id=run_id),
        )
        yield folder


def signature(classes: list[str]) -> ModelSignature:
    """Return what goes in and out: encoded images; a probability by class and a decision."""
    outputs = [ColSpec(DataType.double, f"p_{name}") for name in classes]
    return ModelSignature(
        inputs=Schema([ColSpec(DataType.binary, "image")]),
        outputs=Schema([*outputs, ColSpec(DataType.string, "decision")]),
    )


def example(card: dict[str, Any]) -> pd.DataFrame:
    """Return one image of noise, which is nobody's, as the column `image` of PNG bytes."""
    rows, columns, channels = card["input_shape"]
    noise = np.random.default_rng(0).integers(0, 256, (rows, columns, channels), np.uint8)
    return pd.DataFrame({"image": [cv2.imencode(".png", noise)[1].tobytes()]})
