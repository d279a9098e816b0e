"""Training runs, logged while they go on."""

import logging
import math
import time
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from mlflow import MlflowClient
from mlflow.entities import Metric, Param, RunTag

from medloop.errors import Refused
from medloop.tracking.connection import experiment, server

EXPERIMENT = "medloop"
WEIGHTS = "medloop.weights_sha256"
PARAMS_AT_ONCE = 100  # MLflow's limit
VALUE_LENGTH = 6000

log = logging.getLogger(__name__)


class Live:
    """A run that takes metrics while training goes on; without a server it takes them and does nothing."""

    def __init__(self, run_id: str | None) -> None:
        self.run_id = run_id

    def log(self, metrics: Mapping[str, float], step: int) -> None:
        """Record `metrics` of epoch `step`."""
        self._send(lambda client, run_id: client.log_batch(run_id, metrics=as_metrics(metrics, step)))

    def tag(self, tags: Mapping[str, str]) -> None:
        """Record what became known late, e.g. `{WEIGHTS: digest}`, by which `register` finds the run."""
        self._send(lambda client, run_id: client.log_batch(run_id, tags=as_tags(tags)))

    def close(self, status: str = "FINISHED") -> None:
        """End the run: FINISHED, FAILED or KILLED."""
        self._send(lambda client, run_id: client.set_terminated(run_id, status))

    def _send(self, act: Callable[[MlflowClient, str], object]) -> None:
        if self.run_id is None:
            return
        try:
            with server() as client:
                act(client, self.run_id)
        except Refused as error:
            self.run_id = None
            log.warning("%s. Training goes on without live metrics.", error)


def live(run_name: str, params: Mapping[str, Any], tags: Mapping[str, str]) -> Live:
    """Begin a run that shows its metrics while training goes on.

    A server that does not answer costs one warning and no more.
    """
    try:
        with server() as client:
            return Live(start(client, run_name, params, tags))
    except Refused as error:
        log.warning("%s. Training goes on without live metrics.", error)
        return Live(None)


def start(client: MlflowClient, run_name: str, params: Mapping[str, Any], tags: Mapping[str, str]) -> str:
    """Begin a run and return its id."""
    run = client.create_run(experiment(client, EXPERIMENT), run_name=run_name, tags=dict(tags))
    log_params(client, run.info.run_id, params)
    return str(run.info.run_id)


def log_params(client: MlflowClient, run_id: str, params: Mapping[str, Any]) -> None:
    """Record parameters, nested ones under dotted names."""
    flat = [Param(name, str(value)[:VALUE_LENGTH]) for name, value in flattened(params)]
    for i in range(0, len(flat), PARAMS_AT_ONCE):
        client.log_batch(run_id, params=flat[i : i + PARAMS_AT_ONCE])


def flattened(nested: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Yield dotted names and values: `{"a": {"b": 1}}` gives `("a.b", 1)`."""
    for name, value in nested.items():
        if isinstance(value, Mapping) and value:
            yield from flattened(value, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}", value


def as_metrics(metrics: Mapping[str, float], step: int = 0) -> list[Metric]:
    """Return finite metrics as MLflow's entities; a server cannot keep the others."""
    now = int(time.time() * 1000)
    return [Metric(name, float(value), now, step) for name, value in metrics.items() if math.isfinite(value)]


def as_tags(tags: Mapping[str, str]) -> list[RunTag]:
    """Return tags as MLflow's entities."""
    return [RunTag(name, value) for name, value in tags.items()]
