"""One parent run per loop, over the training runs that led to it."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd
from mlflow import MlflowClient
from mlflow.entities import Dataset, DatasetInput, InputTag, Run

from medloop.evidence import LATEST, ORIGIN
from medloop.tracking.connection import experiment
from medloop.tracking.runs import EXPERIMENT, WEIGHTS, as_metrics, as_tags, start

LOOP = "medloop.loop"
PARENT = "mlflow.parentRunId"  # the tag by which MLflow nests runs
DIGEST_LENGTH = 36  # MLflow's limit for a dataset's digest


@dataclass(frozen=True)
class Training:
    """What one architecture's training left on disk."""

    architecture: str
    weights_sha256: str
    parameters: Mapping[str, Any]
    history: pd.DataFrame  # a row for each epoch


@dataclass(frozen=True)
class Loop:
    """All that a parent run records."""

    key: str  # digest of what makes this loop the same one as another
    name: str
    parameters: Mapping[str, Any]
    metrics: Mapping[str, float]
    tags: Mapping[str, str]
    origin: Mapping[str, str]  # more tags: where it came from, which may differ from one time to the next
    dataset: str
    dataset_digest: str
    dataset_profile: Mapping[str, Any]
    files: Sequence[tuple[str, Path]]  # folder of the run's artifacts, and the file or folder whose content lands there
    trainings: tuple[Training, ...]


def record(client: MlflowClient, loop: Loop) -> tuple[str, dict[str, str]]:
    """Return the id and the origin of the finished run of `loop`, found by its key or made.

    A half-made one is made anew. One that is found keeps its origin, but for what is of the latest Kubeflow run.
    """
    for run in _search(client, LOOP, loop.key):
        if run.info.status == "FINISHED":
            _gather(client, loop, run.info.run_id)
            latest = {name: value for name, value in loop.origin.items() if name in LATEST}
            client.log_batch(run.info.run_id, tags=as_tags(latest))
            return str(run.info.run_id), {
                name: run.data.tags[name] for name in ORIGIN if name in run.data.tags
            } | latest
        client.delete_run(run.info.run_id)
    run_id = start(client, loop.name, loop.parameters, {LOOP: loop.key, **loop.tags, **loop.origin})
    client.log_batch(run_id, metrics=as_metrics(loop.metrics))
    source = json.dumps({"uri": "artifacts/samples"})
    dataset = Dataset(
        loop.dataset, loop.dataset_digest[:DIGEST_LENGTH], "local", source, profile=json.dumps(loop.dataset_profile)
    )
    client.log_inputs(run_id, [DatasetInput(dataset, [InputTag("mlflow.data.context", "training")])])
    for place, path in loop.files:
        send = client.log_artifacts if path.is_dir() else client.log_artifact
        send(run_id, str(path), place or None)
    _gather(client, loop, run_id)
    client.set_terminated(run_id)
    return run_id, dict(loop.origin)


def _gather(client: MlflowClient, loop: Loop, run_id: str) -> None:
    """Put each training run under the parent run; one that the server does not have is made from its history."""
    for training in loop.trainings:
        found = [run for run in _search(client, WEIGHTS, training.weights_sha256) if run.info.status == "FINISHED"]
        if any(run.data.tags.get(PARENT) == run_id for run in found):
            continue
        free = [run for run in found if PARENT not in run.data.tags]
        child = free[0].info.run_id if free else _recreate(client, training)
        client.log_batch(child, tags=as_tags({PARENT: run_id}))


def _recreate(client: MlflowClient, training: Training) -> str:
    tags = {"medloop.architecture": training.architecture, "medloop.recreated": "true"}
    run_id = start(client, training.architecture, training.parameters, tags)
    numbers = training.history.select_dtypes("number")
    steps = numbers["epoch"] if "epoch" in numbers else range(1, len(numbers) + 1)
    rows = numbers.drop(columns="epoch", errors="ignore").to_dict("records")
    for step, row in zip(steps, rows, strict=True):
        client.log_batch(run_id, metrics=as_metrics({str(name): value for name, value in row.items()}, int(step)))
    client.log_batch(run_id, tags=as_tags({WEIGHTS: training.weights_sha256}))
    client.set_terminated(run_id)
    return run_id


def _search(client: MlflowClient, tag: str, value: str) -> list[Run]:
    """Return the runs that carry a tag, the latest first."""
    return list(client.search_runs([experiment(client, EXPERIMENT)], f"tags.`{tag}` = '{value}'"))
