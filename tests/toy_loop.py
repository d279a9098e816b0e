"""Folders as the stages before `evaluate` leave them, with networks of one matrix, made without Keras."""

import json
from dataclasses import asdict
from pathlib import Path

import numpy as np
import onnx
import pandas as pd
from onnx import TensorProto, helper, numpy_helper

from medloop import manifest, params, provenance

BASE = params.Base(dataset="toy")
SHAPE = (8, 8, 1)
PREPROCESSING = {"size_px": [8, 8], "channels": 1, "clip_percentiles": [0.0, 100.0]}


def make(
    folder: Path,
    *,
    classes=("clear", "nodule"),
    architectures=("cnn", "lstm"),
    patients=120,
    permute_test=False,
    noise=0.3,
    seed=0,
    ids=True,
    checks=(),
    **facts,
) -> dict:
    """Write samples, validation, holdout and models below `folder`; return what `evaluate` takes."""
    about = manifest.Facts(tuple(classes), "folder", has_patients=ids, **facts)
    _sealed("ingest", params.Ingest(), folder / "samples", lambda path: (path / "rows").write_text(f"{seed}"))
    result = {"success": True, "checks": list(checks)}
    _sealed(
        "validate",
        params.Validate(),
        folder / "validation",
        lambda path: provenance.write_json(path / "result.json", result),
        samples=folder / "samples",
    )
    upstream = {"samples": folder / "samples", "validation": folder / "validation"}
    test = _split(len(classes), patients, seed + 1, ids)
    if permute_test:
        test = test[0], np.random.default_rng(9).permutation(test[1]), test[2]
    _sealed(
        "preprocess",
        params.Preprocess(),
        folder / "holdout",
        lambda path: _write_split(path, "test", test, about),
        **upstream,
    )
    val = _split(len(classes), patients, seed + 2, ids)
    arrays = folder / "arrays"
    _sealed("preprocess", params.Preprocess(), arrays, lambda path: _write_split(path, "val", val, about), **upstream)
    for number, name in enumerate(architectures):
        _sealed(
            "train",
            params.Train(),
            folder / "models" / name,
            lambda path, name=name, number=number: _write_model(path, name, val, about, noise=noise * number),
            arrays=arrays,
        )
    return {
        "models": {name: folder / "models" / name for name in architectures},
        "holdout": folder / "holdout",
        "validation": folder / "validation",
        "evaluation": folder / "evaluation",
    }


def _split(classes: int, patients: int, seed: int, ids: bool) -> tuple[np.ndarray, np.ndarray, pd.DataFrame]:
    """Return images in which class k brightens row k, labels, and an index with two images a patient."""
    random = np.random.default_rng(seed)
    n = patients * 2
    labels = random.integers(0, classes, n).astype(np.int32)
    images = random.normal(100, 40, (n, *SHAPE))
    images[np.arange(n), labels] += 16
    names = [f"p{seed}-{index // 2:04}" for index in range(n)]
    index = pd.DataFrame(
        {
            "sample_id": [f"s{seed}-{index:05}" for index in range(n)],
            "patient_id": pd.Series(names if ids else [None] * n, dtype="str"),
            "site": np.repeat(random.choice(["north", "south"], patients), 2),
            "sex": np.repeat(random.choice(["F", "M"], patients), 2),
            "age_years": np.repeat(random.integers(20, 90, patients), 2).astype(float),
            "label": [str(label) for label in labels],
            "content_sha256": [f"{seed:02}{index:062}" for index in range(n)],
        }
    )
    return images.clip(0, 255).astype(np.uint8), labels, index


def _write_split(path: Path, name: str, split: tuple, about: manifest.Facts) -> None:
    images, labels, index = split
    (path / name).mkdir()
    np.save(path / name / "inputs.npy", images)
    np.save(path / name / "labels.npy", labels)
    index.to_parquet(path / name / "index.parquet")
    counts = {label: int(count) for label, count in zip(about.classes, np.bincount(labels), strict=True)}
    provenance.write_json(
        path / "about.json",
        {
            "schema_version": 2,
            "input_shape": list(SHAPE),
            "classes": list(about.classes),
            "facts": asdict(about),
            "counts": {name: counts},
            "patients": {name: int(index["patient_id"].nunique())},
            "preprocessing": PREPROCESSING,
            "notes": ["Made for tests."],
        },
    )


def _write_model(path: Path, name: str, val: tuple, about: manifest.Facts, noise: float) -> None:
    images, labels, index = val
    random = np.random.default_rng(5)
    matrix = np.zeros((*SHAPE, len(about.classes)), np.float32)
    for k in range(len(about.classes)):
        matrix[k, :, :, k] = 0.05
    matrix = (matrix + noise * 0.05 * random.normal(size=matrix.shape)).astype(np.float32).reshape(-1, matrix.shape[-1])
    _write_onnx(path / "model.onnx", matrix)
    logits = (images.reshape(len(images), -1) / np.float32(1) @ matrix).astype(np.float32)
    columns = {f"output_{k}": logits[:, k] for k in range(logits.shape[1])}
    index[["sample_id", "patient_id"]].assign(label=labels, **columns).to_parquet(path / "validation.parquet")
    epochs = np.arange(1, 6)
    pd.DataFrame(
        {"epoch": epochs, "loss": 1 / epochs, "val_loss": 1.1 / epochs, "val_auc": 1 - 0.4 / epochs}
    ).to_parquet(path / "history.parquet")
    card = {
        "schema_version": 2,
        "architecture": name,
        "task": "classification",
        "kind": "image",
        "dataset": "toy",
        "classes": list(about.classes),
        "input_shape": list(SHAPE),
        "preprocessing": PREPROCESSING,
        "normalisation": "none",
        "weights_sha256": provenance.sha256(path / "model.onnx"),
        "parameters": int(matrix.size),
        "backend": "none",
        "hyper": {},
        "epochs_trained": 5,
        "best_epoch": 4,
        "validation": {},
        "simulated": about.simulated,
    }
    provenance.write_json(path / "card.json", card)


def _write_onnx(path: Path, matrix: np.ndarray) -> None:
    graph = helper.make_graph(
        [
            helper.make_node("Cast", ["images"], ["floats"], to=TensorProto.FLOAT),
            helper.make_node("Flatten", ["floats"], ["flat"]),
            helper.make_node("MatMul", ["flat", "matrix"], ["logits"]),
        ],
        "toy",
        [helper.make_tensor_value_info("images", TensorProto.UINT8, ["n", *SHAPE])],
        [helper.make_tensor_value_info("logits", TensorProto.FLOAT, ["n", matrix.shape[1]])],
        [numpy_helper.from_array(matrix, "matrix")],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)
    onnx.save(model, path)


def _sealed(stage: str, section: params.Section, folder: Path, write, **inputs: Path) -> None:
    with provenance.writing(stage, BASE, section, folder, inputs=inputs) as [partial]:
        write(partial)


def read(path: Path) -> dict:
    return json.loads(path.read_text())
