"""What `register` takes, made in under a second: real samples, a network of one matrix, an evaluation of it."""

import json
import os
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path

import numpy as np
import onnx
import pandas as pd
from onnx import TensorProto, helper, numpy_helper

from medloop import imaging, manifest, params, provenance
from medloop.answers.classification import decide, probabilities
from medloop.evaluation import ledger, scores
from medloop.inference import Network
from medloop.tasks import classification

SIZE = 8
CLASSES = ("clear", "nodule")


@dataclass(frozen=True)
class Toy:
    """What differs between two loops."""

    name: str = "toy"  # of the data set
    noise: float = 0.0  # of the network's matrix: the more, the worse the model
    seed: int = 0  # of the samples
    patients: int = 150  # in the test set, two images each
    classes: tuple[str, ...] = CLASSES
    simulated: bool = False
    leaks: str = "refuse"
    success: bool = True  # of validation
    fingerprint: str | None = None
    bit_depth: int = 8
    resamples: int = 2000
    studied: int = 0  # patients of the test set that the model was trained on
    size: int = SIZE  # rows and columns that the network takes
    scored: bool = False  # the metrics are those of the predictions, as `evaluate` computes them

    @property
    def base(self) -> params.Base:
        return params.Base(dataset=self.name)


def make(folder: Path, toy: Toy | None = None, **changes) -> dict:
    """Write samples, validation, model and evaluation below `folder`; return what `register` takes."""
    toy = replace(toy or Toy(), **changes)
    facts = manifest.Facts(
        toy.classes, "folder", simulated=toy.simulated, leaks=toy.leaks, key_fingerprint=toy.fingerprint
    )
    samples, validation, model, evaluation = (
        folder / name for name in ("samples", "validation", "models/cnn", "evaluation")
    )
    seal = {"base": toy.base, "folder": samples, "key_fingerprint": toy.fingerprint}
    _sealed("ingest", params.Ingest(leaks=toy.leaks), lambda path: _write_samples(path, toy, facts), **seal)
    _sealed(
        "validate",
        params.Validate(),
        lambda path: _write_validation(path, toy),
        base=toy.base,
        folder=validation,
        samples=samples,
    )
    _sealed(
        "train",
        params.Train().only("cnn"),
        lambda path: _write_model(path, toy),
        base=toy.base,
        folder=model,
        arrays=samples,
    )
    _sealed(
        "evaluate",
        params.Evaluate(resamples=toy.resamples),
        lambda path: _write_evaluation(path, toy, samples, model),
        base=toy.base,
        folder=evaluation,
        validation=validation,
        **{"models/cnn": model},
    )
    return {"models": {"cnn": model}, "validation": validation, "evaluation": evaluation}


def images(toy: Toy, samples: Path) -> tuple[pd.DataFrame, np.ndarray]:
    """Return the test rows of the manifest, and their images as the network takes them."""
    table, _ = manifest.read(samples)
    test = table[table["split"] == "test"]
    pixels = manifest.Values(samples).each(test)
    fitted = [imaging.fit(each, toy.bit_depth, size_px=(toy.size, toy.size), channels=1) for each in pixels]
    return test, np.stack(fitted)


@lru_cache(maxsize=1)
def _empty_store() -> bytes:
    """Return the bytes of an empty tracking store: to make its tables takes seconds."""
    from medloop.tracking.connection import server

    with server():
        pass
    return Path(os.environ["MLFLOW_TRACKING_URI"].removeprefix("sqlite:///")).read_bytes()


def empty_store(folder: Path) -> str:
    """Write an empty tracking store to `folder` and return its address."""
    content = _empty_store()
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "mlflow.db").write_bytes(content)
    return f"sqlite:///{folder}/mlflow.db"


def _sealed(stage, section, write, *, base, folder, key_fingerprint=None, **inputs) -> None:
    facts = {"key_fingerprint": key_fingerprint} if stage == "ingest" else {}
    with provenance.writing(stage, base, section, folder, inputs=inputs, **facts) as [partial]:
        write(partial)


def _write_samples(path: Path, toy: Toy, facts: manifest.Facts) -> None:
    random = np.random.default_rng(toy.seed)
    writer = manifest.ShardWriter(path)
    top, rows = 2**toy.bit_depth - 1, []
    for number in range(2 * toy.patients):
        label = int(random.integers(len(toy.classes)))
        pixels = random.normal(100, 40, (SIZE, SIZE))
        pixels[label] += 16
        pixels = (pixels.clip(0, 255) / 255 * top).round().astype(np.uint8 if toy.bit_depth == 8 else np.uint16)
        rows.append(
            {
                "sample_id": f"s{toy.seed}-{number:05}",
                "patient_id": f"p{toy.seed}-{number // 2:04}",
                "study_id": None,
                "source": "folder",
                "site": "north" if number % 4 < 2 else "south",
                "sex": "F",
                "age_years": 50.0,
                "modality": None,
                "label": toy.classes[label],
                "split": "test",
                "content_sha256": provenance.json_digest(pixels.tolist()),
                "perceptual_hash": imaging.perceptual_hash(pixels),
                "shape": [SIZE, SIZE],
                "dtype": pixels.dtype.name,
                "bit_depth": toy.bit_depth,
                "boxes": None,
                **writer.add(pixels),
            }
        )
    writer.close()
    manifest.write(rows, facts, path)


def _write_validation(path: Path, toy: Toy) -> None:
    provenance.write_json(path / "result.json", {"success": toy.success, "checks": []})
    (path / "data_docs").mkdir()
    (path / "data_docs/index.html").write_text("<p>docs</p>")


def _write_model(path: Path, toy: Toy) -> None:
    random = np.random.default_rng(5)
    matrix = np.zeros((toy.size, toy.size, len(toy.classes)))
    for index in range(len(toy.classes)):
        matrix[index, :, index] = 0.05
    matrix += toy.noise * 0.05 * random.normal(size=matrix.shape)
    write_onnx(path / "model.onnx", matrix.reshape(-1, matrix.shape[-1]).astype(np.float32), (toy.size, toy.size, 1))
    pd.DataFrame({"epoch": [1, 2, 3], "loss": [0.9, 0.6, 0.5], "val_auc": [0.6, 0.7, 0.8]}).to_parquet(
        path / "history.parquet"
    )
    known = [f"p{toy.seed}-{number:04}" for number in range(toy.studied)] + ["p-other"]
    hashes = [f"{number:064}" for number in range(len(known))]
    pd.DataFrame({"patient_id": known, "content_sha256": hashes}).to_parquet(path / "development.parquet", index=False)
    card = {
        "schema_version": 2,
        "architecture": "cnn",
        "task": "classification",
        "kind": "image",
        "dataset": toy.name,
        "classes": list(toy.classes),
        "input_shape": [toy.size, toy.size, 1],
        "preprocessing": {"size_px": [toy.size, toy.size], "channels": 1, "clip_percentiles": [0.0, 100.0]},
        "weights_sha256": provenance.sha256(path / "model.onnx"),
        "simulated": toy.simulated,
    }
    provenance.write_json(path / "card.json", card)


def write_onnx(path: Path, matrix: np.ndarray, shape: tuple[int, ...]) -> None:
    """Write a network that multiplies an image of `shape` by `matrix` (pixels, outputs)."""
    graph = helper.make_graph(
        [
            helper.make_node("Cast", ["images"], ["floats"], to=TensorProto.FLOAT),
            helper.make_node("Flatten", ["floats"], ["flat"]),
            helper.make_node("MatMul", ["flat", "matrix"], ["logits"]),
        ],
        "toy",
        [helper.make_tensor_value_info("images", TensorProto.UINT8, ["n", *shape])],
        [helper.make_tensor_value_info("logits", TensorProto.FLOAT, ["n", matrix.shape[1]])],
        [numpy_helper.from_array(matrix, "matrix")],
    )
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9), path)


def _write_evaluation(path: Path, toy: Toy, samples: Path, model: Path) -> None:
    test, pixels = images(toy, samples)
    labels = test["label"].map(list(toy.classes).index).to_numpy()
    card = json.loads((model / "card.json").read_text()) | {
        "temperature": 1.5,
        "threshold": 0.4 if len(toy.classes) == 2 else None,
        "positive_class": toy.classes[-1],
    }
    found = probabilities(Network(model / "model.onnx").outputs(pixels), card["temperature"])
    score = classification.score(labels, found)
    interval = {"value": score, "low": score - 0.05, "high": score + 0.04, "undefined": 0}
    metrics = {"auc": interval, "accuracy": {"value": 0.7, "low": None, "high": None, "undefined": 0}}
    decisions = decide(found, card["threshold"], len(toy.classes) - 1)
    if toy.scored:
        rows = classification.Predictions(test, labels, found, decisions, list(toy.classes), len(toy.classes) - 1)
        metrics = scores.scores(rows, classification, params.Evaluate(resamples=toy.resamples), toy.base.seed)
    provenance.write_json(path / "card.json", card)
    provenance.write_json(path / "choice.json", {"architecture": "cnn", "temperature": 1.5})
    provenance.write_json(
        path / "metrics.json",
        {
            "gate": "auc",
            "test": metrics,
            "groups": {},
            "architectures": {"cnn": {"auc": interval, "parameters": 128, "epoch": 3}},
            "n": {"samples": len(test), "patients": toy.patients, "classes": {}},
            "leaks": {"regime": toy.leaks, "pairs": 0},
            "test_sha256": ledger.name(test["content_sha256"]),
            "model_sha256": provenance.model_digest(card),
            "openings": 1,
        },
    )
    table = test[["sample_id", "patient_id", "site", "sex", "age_years"]].assign(label=labels)
    table = table.assign(**{f"p_{index}": found[:, index] for index in range(len(toy.classes))})
    table.assign(decision=decisions).to_parquet(path / "predictions.parquet", index=False)
    (path / "report.html").write_text("<h1>report</h1>")


def registered(folder: Path, toy: Toy | None = None, **changes) -> dict:
    """Make a loop below `folder` and register it."""
    from medloop.stages.register import register

    toy = replace(toy or Toy(), **changes)
    return register(toy.base, params.Register(), **make(folder, toy))
