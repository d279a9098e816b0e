"""Where a compiled pipeline runs: one function each."""

import os
import re
import uuid
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import yaml
from kfp import components, local

from medloop import failures
from medloop.errors import Refused
from medloop_pipelines import runs
from medloop_pipelines.connection import Connection


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
            with _known_as(f"local-{uuid.uuid4()}"):
                pipeline()
        except RuntimeError as error:
            failed = re.search(r"Inner task failed: \W*(?:\[\d+m)?'([^']+)'", str(error))
            if failed is None:
                raise
            step = _display_names(package)[failed[1]]
            raise Refused(f"pipeline step {step} failed: its message stands above, its outputs in {root}") from None


@contextmanager
def _known_as(run: str) -> Iterator[None]:
    """Let the steps of a run know that they belong together, and leave no notes of theirs behind."""
    os.environ["MEDLOOP_RUN"] = run
    try:
        yield
    finally:
        failures.clear()
        del os.environ["MEDLOOP_RUN"]


def cluster(package: Path, to: Connection, *, experiment: str, name: str) -> str:
    """Start the pipeline in `package` on the Kubeflow at `to`, and return the run's id.

    Raises:
        Unreachable: nothing answers there.
        Refused: what answers is no Kubeflow, or will not do this; nothing is left behind.
    """
    return runs.start(package, to, experiment=experiment, name=name)


def _images(package: Path) -> list[str]:
    """Return the image references in a compiled pipeline."""
    executors = next(yaml.safe_load_all(package.read_text()))["deploymentSpec"]["executors"]
    return sorted({executor["container"]["image"] for executor in executors.values()})


def _display_names(package: Path) -> dict[str, str]:
    spec = next(yaml.safe_load_all(package.read_text()))
    dags = [part["dag"] for part in (spec["root"], *spec["components"].values()) if "dag" in part]
    return {name: task["taskInfo"]["name"] for dag in dags for name, task in dag["tasks"].items()}
