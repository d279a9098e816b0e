"""The registered pyfunc: alone, behind a server, and with bad input."""

import ast
import base64
import json
import os
import shutil
import socket
import subprocess
import sys
import time
import urllib.request
from pathlib import Path

import cv2
import numpy as np
import pandas as pd
import pytest

import toy_registry
from medloop import answers, imaging, inference, plugins, serving, signals
from medloop.errors import Refused
from medloop.kinds import image
from medloop.kinds.image import file_of as encoded
from medloop.tracking import packaging, registry
from toy_registry import Toy

ALONE = """
import importlib.abc, sys
class Wall(importlib.abc.MetaPathFinder):
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in ("medloop", "tensorflow", "keras", "jax", "torch"):
            raise ModuleNotFoundError(f"{name} stands behind the wall")
sys.meta_path.insert(0, Wall())
import mlflow.pyfunc, pandas as pd
images = pd.read_parquet(sys.argv[2])
mlflow.pyfunc.load_model(sys.argv[1]).predict(images).to_parquet(sys.argv[3])
"""


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A pyfunc folder, with the loop that it was made of beside it."""
    folder = tmp_path_factory.mktemp("serving")
    toy_registry.make(folder)
    card = json.loads((folder / "evaluation/card.json").read_text())
    with packaging.packaged(folder / "models/cnn", card, model_id="m-0", run_id="0") as made:
        made.rename(folder / "pyfunc")
    return folder / "pyfunc"


@pytest.fixture(scope="module")
def arrays(model: Path) -> np.ndarray:
    return toy_registry.images(Toy(), model.parent / "samples")[1]


def own(model: Path) -> serving.Model:
    return serving.Model(model / "artifacts/model")


def said(model: Path, arrays: np.ndarray) -> pd.DataFrame:
    return pd.DataFrame(own(model).predict(arrays))[["p_clear", "p_nodule"]]


def png(images: np.ndarray) -> pd.DataFrame:
    return pd.DataFrame({"image": [encoded(image[..., 0], 8) for image in images]})


def test_arrays_and_files_give_what_evaluate_found(model, arrays):
    table = pd.read_parquet(model.parent / "evaluation/predictions.parquet")
    answer = own(model).predict(arrays)
    probability, decision = np.stack([answer["p_clear"], answer["p_nodule"]], axis=1), answer["decision"]
    served = registry.load(str(model)).predict(png(arrays))
    assert np.array_equal(probability, table[["p_0", "p_1"]])
    assert np.array_equal(decision, np.array(toy_registry.CLASSES)[table["decision"]])
    assert np.array_equal(served[["p_clear", "p_nodule"]], probability)
    assert served["decision"].tolist() == decision.tolist()


def test_the_decision_is_taken_at_the_operating_threshold(model, arrays):
    served = registry.load(str(model)).predict(png(arrays))
    assert ((served["p_nodule"] >= 0.4) == (served["decision"] == "nodule")).all()
    between = served["p_nodule"].between(0.4, 0.5)
    assert between.any()


def test_it_predicts_alone_without_medloop_and_without_a_framework(model, arrays, tmp_path):
    png(arrays).to_parquet(tmp_path / "images.parquet")
    env = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    command = [sys.executable, "-I", "-c", ALONE, model, tmp_path / "images.parquet", tmp_path / "out.parquet"]
    subprocess.run(command, env=env, cwd=tmp_path, check=True, timeout=120)
    alone = pd.read_parquet(tmp_path / "out.parquet")
    assert np.array_equal(alone[["p_clear", "p_nodule"]], said(model, arrays))


def test_mlflow_serves_it(model, arrays, tmp_path):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [Path(sys.executable).with_name("mlflow"), "models", "serve", "-m", model, "--env-manager", "local"]
    env = os.environ | {"PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}", "HOME": str(tmp_path)}
    with (tmp_path / "log").open("w") as log:
        server = subprocess.Popen(
            [*command, "--host", "127.0.0.1", "--port", str(port)],
            env=env,
            stdout=log,
            stderr=log,
            start_new_session=True,
        )
    try:
        _wait(f"http://127.0.0.1:{port}/ping", server, tmp_path / "log")
        rows = [[base64.b64encode(content).decode()] for content in png(arrays[:3])["image"]]
        answer = _post(
            f"http://127.0.0.1:{port}/invocations", {"dataframe_split": {"columns": ["image"], "data": rows}}
        )
    finally:
        os.killpg(server.pid, 15)
        server.wait(30)
    found = pd.DataFrame(answer["predictions"])
    assert np.allclose(found[["p_clear", "p_nodule"]], said(model, arrays[:3]), atol=1e-12)
    assert set(found["decision"]) <= set(toy_registry.CLASSES)


def test_the_input_example_is_noise_that_the_model_answers(model):
    loaded = registry.load(str(model))
    example = loaded.input_example
    assert cv2.imdecode(np.frombuffer(example["image"][0], np.uint8), -1).std() > 50
    assert loaded.predict(example).columns.tolist() == loaded.metadata.signature.outputs.input_names()


def test_nothing_in_it_is_pickled(model):
    names = {str(path.relative_to(model)) for path in model.rglob("*") if path.is_file()}
    assert not [name for name in names if name.endswith((".pkl", ".pickle"))]
    assert {
        f"artifacts/model/{name}" for name in ("model.onnx", "card.json", "decoder.py", "inference.py", "answer.py")
    } <= names
    assert "serving.py" in names


def test_its_requirements_name_what_its_code_imports(model):
    pinned = {line.partition("==")[0] for line in (model / "requirements.txt").read_text().split()}
    names = {"cv2": "opencv-python-headless", "mlflow": "mlflow-skinny"}
    imported = set()
    of_tasks = [plugins.load(answers, name) for name in plugins.names(answers)]
    for module in (serving, imaging, signals, inference, *of_tasks):
        for node in ast.walk(ast.parse(Path(module.__file__).read_text())):
            if isinstance(node, ast.Import):
                imported |= {alias.name.partition(".")[0] for alias in node.names}
            elif isinstance(node, ast.ImportFrom):
                imported.add(node.module.partition(".")[0])
    assert {names.get(name, name) for name in imported - sys.stdlib_module_names} <= pinned
    assert pinned == {*packaging.REQUIREMENTS, *image.REQUIREMENTS}


@pytest.mark.parametrize("name", ["model.onnx", "card.json", "decoder.py"])
def test_a_file_that_was_changed_is_refused(model, tmp_path, name):
    copy = Path(shutil.copytree(model, tmp_path / "copy"))
    path = copy / "artifacts/model" / name
    path.write_bytes(path.read_bytes() + b" ")
    with pytest.raises(Refused, match=f"{name} does not match its digest"):
        registry.load(str(copy))


def test_an_image_of_another_channel_count_is_named_by_its_place(model, arrays):
    colour = np.random.default_rng(0).integers(0, 255, (8, 8, 3), np.uint8)
    images = pd.DataFrame({"image": [*png(arrays[:1])["image"], encoded(colour, 8)]})
    with pytest.raises(ValueError, match=r"image 1: the model takes images of 1 channel\(s\), got one of 3"):
        registry.load(str(model)).predict(images)


def test_an_error_repeats_nothing_that_the_file_says(model):
    damaged = bytearray(encoded(np.zeros((8, 8), np.uint16), 12))
    content = bytes(damaged).replace(b"MONOCHROME2 ", b"CANARYBIRD  ")
    with pytest.raises(ValueError, match="image 0: ") as found:
        registry.load(str(model)).predict(pd.DataFrame({"image": [content]}))
    assert "CANARY" not in str(found.value)
    truncated = bytes(damaged)[:-40]
    with pytest.raises(ValueError, match="image 0: cannot be decoded"):
        registry.load(str(model)).predict(pd.DataFrame({"image": [truncated]}))


@pytest.mark.parametrize(
    ("shape", "kind"), [((2, 9, 8, 1), np.uint8), ((2, 8, 8, 1), np.float32), ((8, 8, 1), np.uint8)]
)
def test_arrays_of_another_shape_or_type_are_refused(model, shape, kind):
    with pytest.raises(ValueError, match=r"images must be \(N, 8, 8, 1\) uint8, got"):
        own(model).predict(np.zeros(shape, kind))


def _wait(address: str, server: subprocess.Popen, log: Path) -> None:
    end = time.monotonic() + 120
    while time.monotonic() < end:
        assert server.poll() is None, log.read_text()
        try:
            with urllib.request.urlopen(address, timeout=2):
                return
        except OSError:
            time.sleep(0.3)
    raise AssertionError(log.read_text())


def _post(address: str, content: dict) -> dict:
    body = json.dumps(content).encode()
    request = urllib.request.Request(address, body, {"Content-Type": "application/json"})
    with urllib.request.urlopen(request, timeout=30) as answer:
        return json.loads(answer.read())
