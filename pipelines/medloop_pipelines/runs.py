"""Runs on a Kubeflow: start one, look at it, find out why it failed, end it."""

import contextlib
import io
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path
from typing import Any

import kfp
import kfp_server_api
import urllib3

from medloop.errors import Refused
from medloop_pipelines.connection import Connection, kubeflow

ENDED = ("SUCCEEDED", "FAILED", "SKIPPED", "CANCELED")
LISTED = 20  # runs, newest first
NEWEST_FIRST = "created_at desc"
Undo = list[Callable[[], object]]


def start(package: Path, to: Connection, *, experiment: str, name: str) -> str:
    """Start the pipeline in `package` under `name`, and return the run's id."""
    with kubeflow(to) as client, undoing() as undo:
        found = made_if_missing(client, experiment, to.namespace, undo)
        with contextlib.redirect_stdout(io.StringIO()):  # the client prints addresses of pages
            run = client.run_pipeline(found, name, pipeline_package_path=str(package))
        return str(run.run_id)


def listing(to: Connection, experiment: str) -> str:
    """Return the latest runs of the experiment, one a line."""
    with kubeflow(to) as client:
        found = experiment_id(client, experiment, to.namespace)
        runs = client.list_runs(experiment_id=found, page_size=LISTED, sort_by=NEWEST_FIRST).runs if found else None
    rows = [(run.run_id, str(run.state), _time(run.created_at), run.display_name) for run in runs or []]
    return table(("run", "state", "created", "name"), rows) if rows else f"no runs in experiment {experiment!r}"


def status(to: Connection, run_id: str) -> str:
    """Return the state of a run and of each of its steps."""
    with kubeflow(to) as client:
        run = client.get_run(run_id)
    steps = [(step.display_name, str(step.state), _time(step.start_time), _time(step.end_time)) for step in _steps(run)]
    head = f"{run.display_name}: {run.state}{_reason(run)}"
    return "\n".join([head, *([table(("step", "state", "start", "end"), steps)] if steps else [])])


def logs(to: Connection, run_id: str) -> str:
    """Return what the API knows of failed steps, and where the logs of their pods are: it has no logs itself."""
    with kubeflow(to) as client:
        run = client.get_run(run_id)
    failed = [step for step in _steps(run) if str(step.state) == "FAILED"]
    lines = [f"{run.display_name}: {run.state}{_reason(run)}"]
    for step in failed:
        lines.append(f"step {step.display_name} FAILED{_reason(step) or ': no reason given'}")
        lines += [f"  kubectl logs{_in(to)} {pod} --all-containers" for pod in _pods(step)]
    if not failed:
        lines.append("no step has failed" if _steps(run) else "no step has begun")
    return "\n".join([*lines, "the API keeps no logs: they are in the pods while those stay, and in the UI"])


def cancel(to: Connection, run_id: str) -> str:
    """End a run, and say so; raise Refused where it has ended already."""
    with kubeflow(to) as client:
        run = client.get_run(run_id)
        if str(run.state) in ENDED:
            raise Refused(f"run {run_id} has ended already: {run.state}")
        if str(run.state) == "CANCELING":
            return f"{run.display_name} is being cancelled already"
        client.terminate_run(run_id)
    return f"cancelling {run.display_name}"


def experiment_id(client: kfp.Client, name: str, namespace: str | None) -> str | None:
    """Return the id of an experiment, None where there is none of that name."""
    try:
        return str(client.get_experiment(experiment_name=name, namespace=namespace).experiment_id)
    except ValueError as error:
        if not str(error).startswith("No experiment is found"):
            raise Refused(f"{error} Kubeflow lists more than one: archive all but one") from None
        return None


def made_if_missing(client: kfp.Client, name: str, namespace: str | None, undo: Undo) -> str:
    """Return the id of an experiment, made where there is none."""
    found = experiment_id(client, name, namespace)
    if found:
        return found
    with contextlib.redirect_stdout(io.StringIO()):
        made = str(client.create_experiment(name, namespace=namespace).experiment_id)
    undo.append(lambda: client.delete_experiment(made))
    return made


@contextmanager
def undoing() -> Iterator[Undo]:
    """Yield a list of what takes back the steps done so far; where the next one fails, they are taken back."""
    undo: Undo = []
    try:
        yield undo
    except BaseException:
        for step in reversed(undo):
            with contextlib.suppress(kfp_server_api.ApiException, urllib3.exceptions.HTTPError):
                step()  # the first error says more than one of these
        raise


def table(head: tuple[str, ...], rows: Sequence[tuple[str, ...]]) -> str:
    """Return rows in columns."""
    widths = [max(map(len, column)) for column in zip(head, *rows, strict=True)]
    return "\n".join("  ".join(map(str.ljust, row, widths)).rstrip() for row in (head, *rows))


def _steps(run: Any) -> list[Any]:
    """Return the tasks of a run without those by which Kubeflow drives it."""
    tasks = (run.run_details and run.run_details.task_details) or []
    return [task for task in tasks if task.display_name != "root" and not str(task.display_name).endswith("-driver")]


def _pods(step: Any) -> list[str]:
    pods = [step.pod_name, *(child.pod_name for child in step.child_tasks or [])]
    return [pod for pod in dict.fromkeys(pods) if pod]


def _reason(thing: Any) -> str:
    return f": {' '.join(str(thing.error.message).split())}" if thing.error and thing.error.message else ""


def _in(to: Connection) -> str:
    return f" -n {to.namespace}" if to.namespace else ""


def _time(moment: datetime | None) -> str:
    return f"{moment:%Y-%m-%d %H:%M:%S}" if moment else "-"
