"""Fit one architecture, keep its best epoch, save it as .keras and as ONNX."""

import math
import os
import platform
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from medloop import __version__, models, pairing, params, plugins, predictions, provenance, tasks, training
from medloop.errors import Refused
from medloop.training import backend, data, live, members, seat, team

CARD_VERSION = 2
WEIGHTS_TAG = "medloop.weights_sha256"  # by which `register` finds the run


def train(base: params.Base, section: params.Train, *, arrays: Path, model: Path) -> dict[str, float]:
    """Train the one architecture of `section` on `arrays`, write its folder `model`, return its validation metrics.

    A run that was killed goes on after its last whole epoch and ends with the weights of an undisturbed one. With
    several nodes this runs on each of them; the first one writes, the others return nothing.

    Raises:
        Refused: the backend, a hyper-parameter, the inputs' size or the arrays cannot be used, the loss is no number,
            the saved and the exported network disagree, or the nodes do.
        Unreachable: a node does not come, or goes away.
    """
    name = backend.select(section)
    here = seat.find(section, os.environ)
    found = data.read(arrays)
    pairing.check(base.task, found.about["facts"]["kind"], section.architectures)
    plan = members.plan(found, section, base.seed)
    for member in plan:
        data.batch_size(member.arrays.train, section)  # refuses one that cannot be shared
    _check_views(section.tta, found, plugins.load(tasks, base.task))
    with team.joined(here, _facts(base, section, arrays)) as us:
        if us.leads:
            return _lead(base, section, name, found, plan, us, arrays=arrays, model=model)
        task = plugins.load(tasks, base.task)
        for member in plan:
            fitting = _started(member.seed, section, name)
            spec = _spec(base, section, member.arrays, found)
            fitting.follow(spec, member.arrays, task, section, seed=member.seed, team=us)
        team.part(us)
    return {}


def _check_views(section: params.Views, found: data.Arrays, task: ModuleType) -> None:
    kind = found.about["facts"]["kind"]
    if kind not in ("image", "volume") and section != params.Views():
        raise Refused(f"train.tta is about images and volumes, these samples are of kind {kind}: leave it out")
    if section != params.Views() and getattr(task, "GIVES", None) == "boxes":
        raise Refused("train.tta must be off where boxes are predicted: those of a mirrored view are not turned back")
    if section.shift_px and hasattr(task, "reduced"):
        raise Refused(
            f"train.tta.shift_px must be 0 where maps are predicted, got {section.shift_px}: what is moved out of the "
            "image would be missing; flips are fine"
        )
    if section.shift_px and section.shift_px >= min(found.shape[-3:-1]):
        size = "x".join(map(str, found.shape[:-1]))
        raise Refused(f"train.tta.shift_px must be less than the sides of the {kind}s, {size}, got {section.shift_px}")


def _lead(
    base: params.Base,
    section: params.Train,
    name: str,
    found: data.Arrays,
    plan: list[members.Member],
    us: team.Team,
    *,
    arrays: Path,
    model: Path,
) -> dict[str, float]:
    """Train, log, and write everything that is written."""
    [architecture] = section.architectures
    task = plugins.load(tasks, base.task)
    with _logged(base, section, arrays) as log, backend.onnx_exporter(name) as export_onnx:
        with provenance.writing("train", base, section, model, inputs={"arrays": arrays}) as [folder]:
            course = _course(base, section, arrays, name)
            fitted = [
                _fit(base, section, name, member, found, us, course, log if len(plan) == 1 else _OfMember(log, number))
                for number, member in enumerate(plan)
            ]
            team.part(us)
            from medloop.training import ensemble, export, judging, views  # keras has its backend now

            trained = ensemble.mean([each.network for each in fitted])
            export.save_keras(views.averaged(trained, section.tta), folder / "model.keras")
            export_onnx(folder / "model.keras", folder / "model.onnx")
            judged, outputs, making = _judged(base, section, name, found, plan, fitted, folder, course)
            target = fitted[0].spec.target
            labels = judging.labels(judged, task, found.classes)
            said = task.said(outputs, {"target": target, "classes": found.classes})
            scores = {task.GATE: task.score(labels, said)}
            pq.write_table(_predictions(judged.index, labels, outputs), folder / "validation.parquet")
            pq.write_table(pa.Table.from_pylist(_history(fitted)), folder / "history.parquet")
            pq.write_table(_development(found), folder / "development.parquet")
            weights = export.weights_sha256(trained)
            about = {
                "architecture": architecture,
                "backend": name,
                "hyper": section.hyper.get(architecture, {}),
                "normalisation": fitted[0].spec.normalisation,
                "tta": section.tta.model_dump(),
                **({"target": target} if target else {}),
                **making,
                "parameters": trained.count_params(),
                "weights_sha256": weights,
                "epochs_trained": max(each.state.epoch for each in fitted),
                "best_epoch": max(each.state.best_epoch for each in fitted),
                "folds": section.folds,
                "members": [each.said() for each in fitted],
                "validation": scores,
            }
            provenance.write_json(folder / "card.json", _card(base, found) | about)
        for each in fitted:
            each.checkpoint.remove()
        log.tag({WEIGHTS_TAG: weights})
    return scores


@dataclass(frozen=True)
class _Fitted:
    """One trained member."""

    seed: int
    spec: Any
    network: Any
    state: Any
    checkpoint: Any

    def said(self) -> dict[str, Any]:
        """Return what the card says of it."""
        return {
            "seed": self.seed,
            "normalisation": self.spec.normalisation,
            "epochs_trained": self.state.epoch,
            "best_epoch": self.state.best_epoch,
            "best_score": self.state.best_score,
        }


class _OfMember:
    """Logs the metrics of one of several members under names of its own."""

    def __init__(self, log: live.Live, number: int) -> None:
        self._log, self._number = log, number

    def log(self, metrics: dict[str, float], step: int) -> None:
        self._log.log({f"{name}_{self._number}": value for name, value in metrics.items()}, step=step)


def _fit(
    base: params.Base,
    section: params.Train,
    name: str,
    member: members.Member,
    found: data.Arrays,
    us: team.Team,
    course: str,
    log: Any,
) -> _Fitted:
    """Train one member, or take it from its checkpoint where it was through before the run was killed."""
    fitting = _started(member.seed, section, name)
    spec = _spec(base, section, member.arrays, found)
    kept = fitting.Checkpoint(f"{spec.architecture}-{course}-{member.seed}")
    task = plugins.load(tasks, base.task)
    network, state = fitting.fit(
        spec, member.arrays, task, section, seed=member.seed, checkpoint=kept, log=log, team=us
    )
    return _Fitted(member.seed, spec, network, state, kept)


def _judged(
    base: params.Base,
    section: params.Train,
    name: str,
    found: data.Arrays,
    plan: list[members.Member],
    fitted: list[_Fitted],
    folder: Path,
    course: str,
) -> tuple[data.Split, np.ndarray, dict[str, Any]]:
    """Return the samples that the model in `folder` is judged by, its outputs for them, and how it makes images.

    The samples are those of validation, or under folds all, each by the network that has not seen it.
    """
    from medloop.training import ensemble, export, judging

    task = plugins.load(tasks, base.task)
    outputs = export.checked_outputs(folder, found.val, task)
    if section.folds:
        unseen = ensemble.out_of_fold([each.network for each in fitted], plan, section.tta, task)
        return members.whole(found), unseen, {}
    if not judging.of_images(task):
        return found.val, outputs, {}
    from medloop.training import studying

    plugin = plugins.load(models, section.architectures[0])
    outputs, making = studying.make(folder, plugin, found, section, seed=base.seed, name=name, course=course)
    return found.val, outputs, making


def _history(fitted: list[_Fitted]) -> list[dict[str, float]]:
    """Return the metrics of each epoch, means over the members that came to it."""
    histories = [each.state.history for each in fitted]
    epochs = [[history[i] for history in histories if len(history) > i] for i in range(max(map(len, histories)))]
    means = [{name: math.fsum(each[name] for each in epoch) / len(epoch) for name in epoch[0]} for epoch in epochs]
    return [{**mean, "epoch": number} for number, mean in enumerate(means, 1)]


def _started(seed: int, section: params.Train, name: str) -> ModuleType:
    """Return `fitting`, which imports keras: it has its backend then."""
    gpus = section.gpus_per_node or int(section.require_gpu)
    backend.start(name, seed, gpus=gpus, mixed_precision=section.mixed_precision)
    from medloop.training import fitting

    return fitting


def _spec(base: params.Base, section: params.Train, own: data.Arrays, found: data.Arrays) -> Any:
    """Return the form of a member that is trained on its `own` arrays; the scale of a number to predict is that of all.

    Members whose outputs are averaged must speak of the same scale.
    """
    from medloop.training import network

    [architecture] = section.architectures
    task, mask = plugins.load(tasks, base.task), bool(found.about["preprocessing"].get("mask"))
    making = hasattr(task, "fed")
    return network.Spec(
        architecture,
        task.fed_shape(found.shape) if making else found.shape,
        task.outputs(found.classes),
        section.hyper.get(architecture, {}),
        {"kind": "none"} if making else data.normalisation(section.normalisation, own.train, mask=mask),
        found.about["facts"]["kind"],
        "float32" if making else found.train.inputs.dtype.name,
        task.fitted(found.train.labels),
    )


def _facts(base: params.Base, section: params.Train, arrays: Path) -> dict[str, str]:
    """Return what must be the same on all nodes, by the name under which a message speaks of it."""
    return {
        "medloop": __version__,
        "python": platform.python_version(),
        **{package: metadata.version(package) for package in ("jax", "keras", "numpy") if section.nodes > 1},
        "code": provenance.json_digest(_code(base, section))[:12],
        "parameters": provenance.json_digest(params.dump(base, section))[:12],
        "arrays": provenance.digest(arrays)[:12],
    }


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
    code = _code(base, section)
    return provenance.json_digest([params.dump(base, section), provenance.digest(arrays), name, code])[:16]


def _code(base: params.Base, section: params.Train) -> dict[str, str]:
    """Return the digests of the files that decide how a network trains."""
    judge = pairing.assigned(tasks, base.task, "JUDGE")  # of a task that makes images
    own = [backend.source(name) for name in (*section.architectures, judge) if name]
    own.append(pairing.source(tasks, base.task))
    return provenance.code_behind(*own, *Path(training.__path__[0]).glob("*.py"))


def _predictions(index: pa.Table, labels: np.ndarray, outputs: np.ndarray) -> pa.Table:
    """Return sample_id, patient_id, labels and output_0 .. of all validation data; of windows start and block too."""
    known = [
        name for name in ("sample_id", "patient_id", "start", "block", "top", "left") if name in index.column_names
    ]
    table = index.select(known)
    for name, column in predictions.label_columns(labels).items():
        table = table.append_column(name, pa.array(column))
    for i in range(outputs.shape[1]):
        table = table.append_column(f"output_{i}", pa.array(outputs[:, i]))
    return table.replace_schema_metadata()


def _development(arrays: data.Arrays) -> pa.Table:
    """Return patient_id and content_sha256 of every sample that the model was made with: promotion leaves them out.

    Where time is split, a patient stands on every side, and is left out of this.
    """
    parts = [split.index.select(["patient_id", "content_sha256"]) for split in (arrays.train, arrays.val)]
    table = pa.concat_tables(parts).replace_schema_metadata()
    if arrays.about["facts"]["split_in_time"]:
        table = table.set_column(0, "patient_id", pa.nulls(len(table), pa.string()))
    if {"start", "top"} & set(arrays.train.index.column_names):  # windows: many of one sample
        table = table.group_by(["patient_id", "content_sha256"], use_threads=False).aggregate([])
    return table


def _card(base: params.Base, arrays: data.Arrays) -> dict[str, Any]:
    """Return what the card says of the data."""
    return {
        "schema_version": CARD_VERSION,
        "task": base.task,
        "dataset": base.dataset,
        "kind": arrays.about["facts"]["kind"],
        "classes": arrays.classes,
        "input_shape": list(arrays.shape),
        "input_units": arrays.train.kind.INPUT_UNITS,
        "preprocessing": arrays.about["preprocessing"],
        "simulated": bool(arrays.about["facts"]["simulated"]),
        **({"question": question} if (question := arrays.about["facts"].get("question")) else {}),
    }
