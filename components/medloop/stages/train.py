"""Fit one architecture, keep its best epoch, save it as .keras and as ONNX."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from medloop import inference, params, plugins, provenance, tasks, training
from medloop.training import backend, data, live

CARD_VERSION = 1
WEIGHTS_TAG = "medloop.weights_sha256"  # by which `register` finds the run


def train(base: params.Base, section: params.Train, *, arrays: Path, model: Path) -> dict[str, float]:
    """Train the one architecture of `section` on `arrays`, write its folder `model`, return its validation metrics.

    A run that was killed goes on after its last whole epoch and ends with the weights of an undisturbed one.

    Raises:
        Refused: the backend, a hyper-parameter, the images' size or the arrays cannot be used, the loss is no number,
            or the saved and the exported network disagree.
    """
    [architecture] = section.architectures
    name = backend.select(section)
    task = plugins.load(tasks, base.task)
    found = data.read(arrays)
    with _logged(base, section, arrays) as log, backend.onnx_exporter(name) as export_onnx:
        backend.start(name, base.seed, require_gpu=section.require_gpu, mixed_precision=section.mixed_precision)
        from medloop.training import checkpoint, export, fitting, network  # keras has its backend now

        kept = checkpoint.Checkpoint(f"{architecture}-{_course(base, section, arrays, name)}")
        spec = network.Spec(
            architecture,
            found.shape,
            task.outputs(found.classes),
            section.hyper.get(architecture, {}),
            data.normalisation(section.normalisation, found.train),
        )
        with provenance.writing("train", base, section, model, inputs={"arrays": arrays}) as [folder]:
            trained, state = fitting.fit(spec, found, task, section, seed=base.seed, checkpoint=kept, log=log)
            export.save_keras(trained, folder / "model.keras")
            export_onnx(folder / "model.keras", folder / "model.onnx")
            logits = export.checked_logits(folder, found.val.images)
            scores = _scores(task, found.val.labels, logits)
            pq.write_table(_predictions(found.val, logits), folder / "validation.parquet")
            pq.write_table(pa.Table.from_pylist(state.history), folder / "history.parquet")
            pq.write_table(_development(found), folder / "development.parquet")
            about = {
                "architecture": architecture,
                "backend": name,
                "hyper": spec.hyper,
                "normalisation": spec.normalisation,
                "parameters": trained.count_params(),
                "weights_sha256": export.weights_sha256(trained),
                "epochs_trained": state.epoch,
                "best_epoch": state.best_epoch,
                "validation": scores,
            }
            provenance.write_json(folder / "card.json", _card(base, found) | about)
        kept.remove()
        log.tag({WEIGHTS_TAG: about["weights_sha256"]})
    return scores


@contextmanager
def _logged(base: params.Base, section: params.Train, arrays: Path) -> Iterator[live.Live]:
    """Yield the run in the tracking store, and end it as the training ends."""
    [architecture] = section.architectures
    tags = {"medloop.stage": "train", "medloop.architecture": architecture, "medloop.arrays": provenance.digest(arrays)}
    content = {"base": base.model_dump(mode="json"), "train": section.model_dump(mode="json")}
    log = live.Live(f"train-{architecture}", content, tags)
    status = "FAILED"
    try:
        yield log
        status = "FINISHED"
    finally:
        log.close(status)


def _course(base: params.Base, section: params.Train, arrays: Path, name: str) -> str:
    """Return a digest of what decides the course of a run: a checkpoint belongs to one of them."""
    files = [backend.source(section.architectures[0]), *Path(training.__path__[0]).glob("*.py")]
    code = {path.name: provenance.sha256(path) for path in files}
    return provenance.json_digest([params.dump(base, section), provenance.digest(arrays), name, code])[:16]


def _scores(task: ModuleType, labels: np.ndarray, logits: np.ndarray) -> dict[str, float]:
    return {task.GATE: task.score(labels, inference.probabilities(logits))}


def _predictions(split: data.Split, logits: np.ndarray) -> pa.Table:
    """Return sample_id, patient_id, label and logit_0 .. of every validation image."""
    table = split.index.select(["sample_id", "patient_id"]).append_column("label", pa.array(split.labels))
    for i in range(logits.shape[1]):
        table = table.append_column(f"logit_{i}", pa.array(logits[:, i]))
    return table.replace_schema_metadata()


def _development(arrays: data.Arrays) -> pa.Table:
    """Return patient_id and content_sha256 of every image that the model was made with: promotion leaves them out."""
    parts = [split.index.select(["patient_id", "content_sha256"]) for split in (arrays.train, arrays.val)]
    return pa.concat_tables(parts).replace_schema_metadata()


def _card(base: params.Base, arrays: data.Arrays) -> dict[str, Any]:
    """Return what the card says of the data."""
    return {
        "schema_version": CARD_VERSION,
        "task": base.task,
        "dataset": base.dataset,
        "classes": arrays.classes,
        "input_shape": list(arrays.shape),
        "input_units": "uint8 gray levels or RGB, 0 to 255, as medloop's preprocessing makes them",
        "preprocessing": arrays.about["preprocessing"],
        "simulated": bool(arrays.about["facts"]["simulated"]),
    }
