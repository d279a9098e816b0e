"""Trains on several hosts: starts a TrainJob of Kubeflow Trainer, waits for it, and brings its model home.

The step and the nodes share a folder: on a cluster a volume that both mount. In it lie what to train, a copy of the
arrays, checkpoints, why a node failed, and in the end the model.
"""

import contextlib
import json
import os
import re
import shutil
import sys
import threading
import time
import uuid
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from kubeflow.trainer import CustomTrainer, TrainerClient
from kubeflow.trainer.options import Name

from medloop import failures, params, provenance
from medloop.errors import Conflict, Refused
from medloop.trainer import SHARED, api
from medloop.training import node, seat

POLL_S = 2.0
DIGEST = "MEDLOOP_IMAGE_DIGEST"
SETTLE_S = 60.0
TAIL = 10  # lines of the log of a node that failed


@dataclass(frozen=True)
class Place:
    """The shared folder, as the step and as the nodes see it."""

    here: Path
    there: str


def train(
    base: params.Base,
    section: params.Train,
    *,
    arrays: Path,
    model: Path,
    job: params.TrainJob,
    client: TrainerClient | None = None,
    place: Callable[[str], Place] | None = None,
) -> dict[str, float]:
    """Do what the stage `train` does, on the nodes of a TrainJob; without `client`, on the cluster that this runs in.

    A job that failed or was cancelled is deleted; its folder stays, so that the next one goes on after its last whole
    epoch.

    Raises:
        Unreachable: no Kubernetes or no Kubeflow Trainer answers.
        Refused: a node failed, by its name and with its reason.
        Conflict: another run trains the same.
    """
    client = client or api.cluster(job.runtime)
    name = job_name(base, section, arrays)
    shared = (place or on_claim)(name)
    _make(shared.here, job)
    lease = shared.here / node.LEASE
    _refuse_if_held(lease, name)
    _prepare(shared.here, base, section, arrays)
    with api.ended_by_sigterm(), api.asking(job.runtime):
        api.remove(client, name)  # what an earlier try left
        try:
            _renew(lease)
            _submit(client, name, section, job, shared.there)
            _wait(client, name, shared.here)
            _bring_home(shared.here / node.MODEL, model)
        finally:
            api.remove(client, name)
            lease.unlink(missing_ok=True)
    shutil.rmtree(shared.here, ignore_errors=True)
    return dict(json.loads((model / "card.json").read_text())["validation"])


def on_claim(name: str) -> Place:
    """Return the folder of a job on the volume that the step and the nodes of a cluster mount at the same path."""
    folder = Path(SHARED) / name
    return Place(folder, str(folder))


def job_name(base: params.Base, section: params.Train, arrays: Path) -> str:
    """Return a name for Kubernetes that the same training has every time: by it a second try finds the first."""
    [architecture] = section.architectures
    digest = provenance.json_digest([params.dump(base, section), provenance.digest(arrays)])
    return f"medloop-{re.sub('[^a-z0-9]+', '-', architecture)[:20].strip('-')}-{digest[:10]}"


def on_node(folder: str) -> None:  # its source is all that travels to the nodes
    """Train as one of the nodes."""
    from medloop.training import node

    node.main(folder)


def _make(folder: Path, job: params.TrainJob) -> None:
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise Refused(
            f"the volume that the step and its nodes share cannot be written to at {folder.parent} ({error.strerror}): "
            f"user {os.getuid()} must be able to, see `Volumes` in infra/README.md (runtime {job.runtime})"
        ) from None


def _refuse_if_held(lease: Path, name: str) -> None:
    before = lease.read_text() if lease.exists() else None
    if before is None:
        return
    time.sleep(3 * POLL_S)
    if lease.exists() and lease.read_text() != before:
        raise Conflict(f"another run trains the same right now as TrainJob {name}: wait for it, or cancel it")


def _renew(lease: Path) -> None:
    partial = lease.with_suffix(".partial")
    with contextlib.suppress(OSError):  # a volume that is away for a while; the nodes have patience
        partial.write_text(uuid.uuid4().hex)
        partial.replace(lease)


def _prepare(folder: Path, base: params.Base, section: params.Train, arrays: Path) -> None:
    node.ask(folder, base, section)
    shutil.rmtree(folder / node.FAILURES, ignore_errors=True)
    copied = folder / node.ARRAYS
    if not copied.exists():
        partial = folder / f".{node.ARRAYS}.partial"
        shutil.rmtree(partial, ignore_errors=True)
        shutil.copytree(arrays, partial)
        provenance.verify(partial)
        partial.rename(copied)


def _submit(client: TrainerClient, name: str, section: params.Train, job: params.TrainJob, folder: str) -> None:
    gpus = {job.accelerator: max(1, section.gpus_per_node)} if job.accelerator else {}
    digest = {DIGEST: os.environ[DIGEST]} if DIGEST in os.environ else {}
    hosts = " ".join(f"{name}-node-{i}" for i in range(section.nodes))
    client.train(
        runtime=job.runtime,
        trainer=CustomTrainer(
            func=on_node,
            func_args={"folder": folder},
            image=job.image,
            num_nodes=section.nodes,
            resources_per_node={"cpu": job.cpu, "memory": job.memory, **gpus},
            env={**job.environment, **digest, seat.HOSTS: hosts},
        ),
        options=[Name(name)],
    )
    _say(f"TrainJob {name}: {section.nodes} nodes")


def _wait(client: TrainerClient, name: str, folder: Path) -> None:
    """Return when the job is complete, telling meanwhile what its nodes do; raise Refused when it failed."""
    told: dict[str, Any] = {}
    log = None
    while True:
        _renew(folder / node.LEASE)
        state = api.state(client, name)
        for each, status in {**{step.name: step.status for step in state.steps}, name: state.status}.items():
            if told.get(each) != status:
                _say(f"{each}: {status}")
                told[each] = status
        if state.status == "Complete":
            return
        if state.status == "Failed":
            raise Refused(_why(client, name, _settled(client, name), folder))
        if log is None and told.get("node-0") == "Running":
            log = threading.Thread(target=api.relay, args=(client, name, _say), daemon=True)
            log.start()
        time.sleep(POLL_S)


def _settled(client: TrainerClient, name: str) -> Any:
    """Return how a failed job stands once its nodes have ended, which they do when one of them is gone."""
    deadline = time.monotonic() + SETTLE_S
    while any(step.status == "Running" for step in api.state(client, name).steps) and time.monotonic() < deadline:
        time.sleep(POLL_S)
    return api.state(client, name)


def _why(client: TrainerClient, name: str, state: Any, folder: Path) -> str:
    """Return which nodes failed and why: what they left behind, or for one without a word the end of its log."""
    reasons = dict(failures.read(folder / node.FAILURES))
    silent = [step.name for step in state.steps if step.status == "Failed" and step.name not in reasons]
    for each in silent:
        tail = "; ".join(api.tail(client, name, each, TAIL)) or "nothing"
        _say(f"{each} ended with this in its log: {tail}")
    first = [f"{each} ended without a reason (killed, out of memory, or its machine gone)" for each in silent]
    told = [f"{each}: {reason}" for each, reason in sorted(reasons.items())]
    return f"TrainJob {name} failed: {'; '.join([*first, *told]) or 'Kubernetes does not say which node'}"


def _bring_home(trained: Path, model: Path) -> None:
    provenance.verify(trained)
    model.parent.mkdir(parents=True, exist_ok=True)
    shutil.rmtree(model, ignore_errors=True)
    shutil.copytree(trained, model)


def _say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)  # noqa: T201
