"""The registered model: one pyfunc logged as code, with all that it needs lying beside it."""

import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from importlib import metadata
from pathlib import Path
from typing import Any

import mlflow.pyfunc
import pandas as pd
from mlflow.models import Model, ModelSignature
from mlflow.types import ColSpec, DataType, Schema

from medloop import answers, inference, kinds, plugins, provenance

SERVING = Path(inference.__file__).with_name("serving.py")
DIGESTS = "digests.json"
REQUIREMENTS = ("mlflow-skinny", "numpy", "pandas", "onnxruntime")  # of all; a kind's decoder adds its own


@contextmanager
def packaged(model: Path, card: dict[str, Any], *, model_id: str, run_id: str) -> Iterator[Path]:
    """Yield a temporary folder in MLflow's model format, made of `model`/model.onnx and the final `card`."""
    with tempfile.TemporaryDirectory() as temporary:
        own = Path(temporary) / "model"
        own.mkdir()
        shutil.copyfile(model / "model.onnx", own / "model.onnx")
        provenance.write_json(own / "card.json", card)
        kind, answer = plugins.load(kinds, card["kind"]), plugins.load(answers, card["task"])
        for module, name in ((kind.DECODER, "decoder.py"), (inference, "inference.py"), (answer, "answer.py")):
            shutil.copyfile(str(module.__file__), own / name)
        provenance.write_json(own / DIGESTS, {path.name: provenance.sha256(path) for path in own.iterdir()})
        folder = Path(temporary) / "pyfunc"
        mlflow.pyfunc.save_model(
            folder,
            python_model=SERVING,
            artifacts={"model": str(own)},
            signature=signature(card),
            input_example=example(card),
            pip_requirements=[f"{name}=={metadata.version(name)}" for name in (*REQUIREMENTS, *kind.REQUIREMENTS)],
            mlflow_model=Model(model_id=model_id, model_uuid=model_id, run_id=run_id),
        )
        yield folder


def signature(card: dict[str, Any]) -> ModelSignature:
    """Return what goes in and out: encoded samples, or what images are asked for; the columns of the task."""
    answer = plugins.load(answers, card["task"])
    columns = answer.columns(card)
    asked = answer.inputs(card) if hasattr(answer, "inputs") else {plugins.load(kinds, card["kind"]).COLUMN: "binary"}
    return ModelSignature(
        inputs=Schema([ColSpec(DataType[kind], name) for name, kind in asked.items()]),
        outputs=Schema([ColSpec(DataType[kind], name) for name, kind in columns.items()]),
    )


def example(card: dict[str, Any]) -> pd.DataFrame:
    """Return one sample of noise, which is nobody's, as the served model takes it, or what one image is asked by."""
    if hasattr(answer := plugins.load(answers, card["task"]), "example"):
        found: pd.DataFrame = answer.example(card)
        return found
    kind = plugins.load(kinds, card["kind"])
    return pd.DataFrame({kind.COLUMN: [kind.example(card)]})
