"""`medloop pipeline submit`, `status`, `logs` and `cancel` against the contract server."""

import json
from datetime import UTC, datetime

import pytest

from medloop import cli, params
from medloop.errors import Refused
from medloop_pipelines import runs, submit
from medloop_pipelines.connection import Connection

PARAMS = params.Params(schema_version=1, train=params.Train(architectures=("cnn",)))


@pytest.fixture
def to(kubeflow) -> Connection:
    return Connection(kubeflow.url)


def fail(kubeflow, run: str) -> None:
    """Let the stand-in answer as Kubeflow does after a failed step."""
    now = datetime.now(UTC).isoformat()
    step = {"run_id": run, "task_id": "t1", "display_name": "train-cnn", "start_time": now, "end_time": now}
    pods = {"child_tasks": [{"pod_name": "medloop-x-system-container-impl-7"}]}
    reason = {"error": {"code": 13, "message": "exit status 2"}}
    drives = {"run_id": run, "task_id": "t0", "display_name": "train-cnn-driver", "state": "SUCCEEDED"}
    details = {"task_details": [drives, step | pods | reason | {"state": "FAILED"}]}
    kubeflow.state.runs[run] |= {"state": "FAILED", "run_details": details}


def test_a_run_is_started_looked_at_and_cancelled(kubeflow, to):
    run = submit(PARAMS, to, name="first")
    assert runs.status(to, run) == "first: PENDING"
    assert run in runs.listing(to, "medloop")
    assert runs.cancel(to, run) == "cancelling first"
    assert kubeflow.state.runs[run]["state"] == "CANCELING"
    assert runs.cancel(to, run) == "first is being cancelled already"
    kubeflow.state.runs[run]["state"] = "CANCELED"
    with pytest.raises(Refused, match="has ended already: CANCELED"):
        runs.cancel(to, run)


def test_a_failed_step_is_named_with_its_reason_and_its_pod(kubeflow, to):
    run = submit(PARAMS, to, name="first")
    fail(kubeflow, run)
    assert "train-cnn  FAILED" in runs.status(to, run)
    assert "driver" not in runs.status(to, run)
    said = runs.logs(to, run)
    assert "step train-cnn FAILED: exit status 2" in said
    assert "kubectl logs medloop-x-system-container-impl-7" in said
    assert "the API keeps no logs" in said


def test_a_run_that_is_not_there_is_named(to):
    with pytest.raises(Refused, match="404 'r1' not found"):
        runs.status(to, "r1")


@pytest.mark.parametrize("command", ["submit", "status", "logs", "cancel"])
def test_the_commands_take_the_host_from_the_environment(kubeflow, monkeypatch, capsys, command):
    monkeypatch.setenv("MEDLOOP_KFP_HOST", kubeflow.url)
    run = submit(PARAMS, Connection(kubeflow.url))
    own = {"submit": ["-S", "train.architectures=[cnn]"]}.get(command, [run])
    monkeypatch.setattr("sys.argv", ["medloop", "pipeline", command, *own])
    with pytest.raises(SystemExit) as ended:
        cli.main()
    assert ended.value.code in (0, None)
    assert capsys.readouterr().out.startswith({"submit": "submitted run "}.get(command, ""))
    assert len(kubeflow.state.runs) == (2 if command == "submit" else 1)


def test_no_token_is_sent_along_as_a_parameter(kubeflow, to):
    submit(PARAMS, Connection(kubeflow.url, token="hunter2"))
    assert "hunter2" not in json.dumps([body for *_, body in kubeflow.requests])
