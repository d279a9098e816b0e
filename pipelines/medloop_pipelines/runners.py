"""Where a compiled pipeline runs: one function each."""

import re
import warnings
from http import HTTPStatus
from pathlib import Path
from typing import Any

import kfp
import kfp_server_api
import urllib3
import yaml
from kfp import components, local

from medloop.errors import Refused, Unreachable

ANSWER_SECONDS = 5.0
HEALTH = "/apis/v2beta1/healthz"


def subprocess(package: Path, root: Path) -> None:
    """Run the pipeline in `package` on this machine, one process a step, outputs below `root`.

    Raises:
        Refused: a step failed; the message names it.
    """
    _run(package, root, local.SubprocessRunner(use_venv=False))


def docker(package: Path, root: Path) -> None:
    """Run the pipeline in `package` on this machine, each step in a container of its own, outputs below `root`.

    A container sees the working folder, `root`, `ingest.root` below them, and the pseudonym key, and nothing else.

    Raises:
        Refused: no container engine answers, an image is missing, or a step failed; the message names it.
    """
    from medloop_pipelines import containers

    with containers.reliable(_images(package), root):
        _run(package, root, local.DockerRunner())


LOCAL = {"subprocess": subprocess, "docker": docker}


def _run(package: Path, root: Path, runner: Any) -> None:
    pipeline = components.load_component_from_file(str(package))
    with warnings.catch_warnings():  # that images, limits and display names mean nothing here is known
        warnings.simplefilter("ignore", RuntimeWarning)
        warnings.filterwarnings("ignore", "Task .* have no effect in the current local runner", UserWarning)
        local.init(runner, pipeline_root=str(root.absolute()))
        try:
            pipeline()
        except RuntimeError as error:
            failed = re.search(r"Inner task failed: \W*(?:\[\d+m)?'([^']+)'", str(error))
            if failed is None:
                raise
            step = _display_names(package)[failed[1]]
            raise Refused(f"pipeline step {step} failed: its message stands above, its outputs in {root}") from None


def cluster(package: Path, host: str, *, namespace: str | None = None, experiment: str = "medloop") -> str:
    """Start the pipeline in `package` on the Kubeflow at `host`, and return the run's id.

    Raises:
        Unreachable: nothing answers at `host`.
        Refused: what answers is no Kubeflow, or will not do this.
    """
    _look_for_kubeflow(host)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", FutureWarning)  # on servers of before 2.0
            client = kfp.Client(host=host, namespace=namespace or "kubeflow")
        run = client.create_run_from_pipeline_package(str(package), experiment_name=experiment, namespace=namespace)
    except kfp_server_api.ApiException as error:
        raise Refused(f"Kubeflow at {host} refused the run: {error.status} {error.reason}") from None
    except urllib3.exceptions.HTTPError as error:
        raise _silence(host, error) from None
    return str(run.run_id)


def _look_for_kubeflow(host: str) -> None:
    """Ask before the client does, which would try for half a minute and print tracebacks."""
    if not host.startswith(("http://", "https://")):
        raise Refused(f"the host must begin with http:// or https://, got {host!r}")
    try:
        http = urllib3.PoolManager(retries=False, timeout=ANSWER_SECONDS)
        answer = http.request("GET", f"{host.rstrip('/')}{HEALTH}")
    except urllib3.exceptions.HTTPError as error:
        raise _silence(host, error) from None
    if answer.status != HTTPStatus.OK:
        raise Refused(f"no Kubeflow Pipelines API at {host}: {HEALTH} answers {answer.status} {answer.reason}")


def _silence(host: str, error: Exception) -> Unreachable:
    return Unreachable(f"Kubeflow at {host} does not answer ({type(error).__name__}); nothing was submitted")


def _images(package: Path) -> list[str]:
    """Return the image references in a compiled pipeline."""
    executors = next(yaml.safe_load_all(package.read_text()))["deploymentSpec"]["executors"]
    return sorted({executor["container"]["image"] for executor in executors.values()})


def _display_names(package: Path) -> dict[str, str]:
    tasks = next(yaml.safe_load_all(package.read_text()))["root"]["dag"]["tasks"]
    return {name: task["taskInfo"]["name"] for name, task in tasks.items()}
