"""What is asked of Kubeflow Trainer through its SDK, and what its errors mean."""

import signal
import sys
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from kubeflow.trainer import KubernetesBackendConfig, TrainerClient
from kubernetes.client import ApiException
from kubernetes.config import ConfigException
from urllib3.exceptions import HTTPError

from medloop.errors import Refused, Unreachable

OUTAGE_S = 120.0  # without an answer of the API, while a job runs
REMEDY = "see `Training on several hosts` in infra/README.md"


def cluster(runtime: str) -> TrainerClient:
    """Return a client of the Kubernetes that this process runs in, or that kubectl talks to.

    Raises:
        Unreachable: there is no Kubernetes, or it does not answer.
        Refused: it has no Kubeflow Trainer or no such runtime, or does not let us ask.
    """
    with asking(runtime):
        client = TrainerClient(KubernetesBackendConfig())
        client.get_runtime(runtime)
    return client


@contextmanager
def asking(runtime: str) -> Iterator[None]:
    """Say what an error of the SDK or of Kubernetes means, and what to do."""
    try:
        yield
    except ConfigException as error:
        raise Unreachable(f"train.nodes above 1 takes a Kubernetes cluster, and there is none here: {error}") from None
    except (RuntimeError, TimeoutError, HTTPError, ApiException) as error:
        if (meant := _meaning(error, runtime)) is None:
            raise
        raise meant from None


def _status(error: BaseException) -> int | None:
    """Return the HTTP status behind an error of the SDK; None where there is none."""
    cause: BaseException | None = error
    while cause is not None and not isinstance(cause, ApiException):
        cause = cause.__cause__
    return cause.status if cause else None


def _meaning(error: BaseException, runtime: str) -> Refused | None:
    cause: BaseException | None = error
    while cause is not None and not isinstance(cause, ApiException | HTTPError | TimeoutError):
        cause = cause.__cause__
    if cause is None:
        return None
    if not isinstance(cause, ApiException):
        return Unreachable(f"the Kubernetes API does not answer ({type(cause).__name__}: {error}); try again")
    if cause.status == 404:
        return Refused(
            f"this cluster has no TrainingRuntime {runtime!r} or no Kubeflow Trainer ({error}): install Kubeflow "
            f"Trainer 2.2 or newer and apply infra/k8s/trainer; {REMEDY}"
        )
    if cause.status in (401, 403):
        return Refused(
            f"the service account of this step may not use TrainJobs here, or the namespace has no TrainingRuntime "
            f"{runtime!r} ({error}, status {cause.status}): apply infra/k8s/trainer, with its roles, there; {REMEDY}"
        )
    return Refused(f"Kubernetes refused: {error} (status {cause.status}: {cause.reason}); {REMEDY}")


def state(client: TrainerClient, name: str) -> Any:
    """Return how a job stands; an API that is away for a while is waited for."""
    deadline = time.monotonic() + OUTAGE_S
    while True:
        try:
            return client.get_job(name)
        except (RuntimeError, TimeoutError, HTTPError) as error:
            if _status(error) == 404:
                raise Refused(f"TrainJob {name} was deleted while it ran: run the step again") from None
            if time.monotonic() > deadline:
                raise
            time.sleep(5)


def remove(client: TrainerClient, name: str) -> None:
    """Delete a job and wait until it is gone; one that is not there is none."""
    if not _there(client, name):
        return
    client.delete_job(name)
    deadline = time.monotonic() + OUTAGE_S
    while _there(client, name):
        if time.monotonic() > deadline:
            raise Refused(
                f"TrainJob {name} was deleted and is still there: `kubectl describe trainjob {name}` says why"
            )
        time.sleep(1)


def _there(client: TrainerClient, name: str) -> bool:
    """Tell whether there is such a job; of those of others nothing is asked, whose runtimes we may not see."""
    try:
        client.get_job(name)
    except ValueError:  # what the SDK's container backend says
        return False
    except RuntimeError as error:
        if _status(error) != 404:
            raise
        return False
    return True


def relay(client: TrainerClient, name: str, say: Callable[[str], None]) -> None:
    """Say what the first node logs, until it ends; a log that cannot be read stops nobody."""
    try:
        for chunk in client.get_job_logs(name, step="node-0", follow=True):
            for text in chunk.splitlines():
                say(f"node-0 | {text}")
    except Exception as error:  # the job itself is asked elsewhere
        say(f"the log of node-0 ends here ({type(error).__name__})")


def tail(client: TrainerClient, name: str, step: str, lines: int) -> list[str]:
    """Return the last lines of a node's log, none where it cannot be read."""
    last: deque[str] = deque(maxlen=lines)
    try:
        for chunk in client.get_job_logs(name, step=step):
            last.extend(text for text in chunk.splitlines() if text.strip())
    except RuntimeError:  # the pod is gone with its machine
        return []
    return list(last)


@contextmanager
def ended_by_sigterm() -> Iterator[None]:
    """Let a step that is cancelled clean up: what Kubernetes sends it is SIGTERM."""
    if threading.current_thread() is not threading.main_thread():  # only that one may
        yield
        return
    before = signal.signal(signal.SIGTERM, lambda number, _: sys.exit(128 + number))
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)
