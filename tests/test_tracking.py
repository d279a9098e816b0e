"""Live runs, and what happens where the server is silent or the store is damaged."""

import logging
import os
import subprocess
import sys
from pathlib import Path

import pytest

import toy_registry
from medloop import tracking
from medloop.errors import Refused, Unreachable
from medloop.tracking.connection import address, server

SILENT = "http://127.0.0.1:9"


@pytest.fixture
def _store(own_state: Path) -> None:
    toy_registry.empty_store(own_state)


@pytest.mark.usefixtures("_store")
def test_a_live_run_keeps_every_epoch_and_nothing_of_the_user():
    run = tracking.live("cnn", {"epochs": 2, "augment": {"shift": 0.1}}, {"kind": "training"})
    run.log({"loss": 0.9, "auc": 0.6}, step=1)
    run.log({"loss": 0.5, "auc": float("nan")}, step=2)
    run.tag({tracking.WEIGHTS: "abc"})
    run.close()
    with server() as client:
        found = client.get_run(run.run_id)
        losses = [(each.step, each.value) for each in client.get_metric_history(run.run_id, "loss")]
        aucs = [(each.step, each.value) for each in client.get_metric_history(run.run_id, "auc")]
    assert losses == [(1, 0.9), (2, 0.5)]
    assert aucs == [(1, 0.6)]
    assert found.data.params == {"epochs": "2", "augment.shift": "0.1"}
    assert found.data.tags == {"kind": "training", "mlflow.runName": "cnn", tracking.WEIGHTS: "abc"}
    assert (found.info.status, found.info.user_id) == ("FINISHED", "unknown")


def test_a_silent_server_costs_one_warning_and_hides_the_password(monkeypatch, caplog):
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://anna:secret@127.0.0.1:9")
    with caplog.at_level(logging.WARNING):
        run = tracking.live("cnn", {}, {})
        run.log({"loss": 1.0}, step=1)
        run.close()
    assert [SILENT in message for message in caplog.messages] == [True]
    assert "secret" not in caplog.text


@pytest.mark.usefixtures("_store")
def test_a_server_that_falls_silent_during_training_costs_one_warning(monkeypatch, caplog):
    run = tracking.live("cnn", {}, {})
    monkeypatch.setenv("MLFLOW_TRACKING_URI", SILENT)
    with caplog.at_level(logging.WARNING):
        run.log({"loss": 1.0}, step=1)
        run.log({"loss": 0.5}, step=2)
        run.close()
    assert [SILENT in message for message in caplog.messages] == [True]


def test_a_silent_server_is_named_with_what_to_do(monkeypatch):
    monkeypatch.setenv("MLFLOW_TRACKING_URI", SILENT)
    wanted = r"http://127\.0\.0\.1:9 does not answer.*`medloop register` later"
    with pytest.raises(Unreachable, match=wanted) as found, server():
        pass
    assert found.value.exit_code == 4


@pytest.mark.parametrize(
    ("content", "message"), [(b"no database at all" * 100, "file is not a database"), (None, "does not exist")]
)
def test_a_damaged_or_impossible_store_is_refused_at_once(tmp_path, monkeypatch, content, message):
    path = tmp_path / "mlflow.db" if content else tmp_path / "nowhere" / "mlflow.db"
    if content:
        path.write_bytes(content)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{path}")
    with pytest.raises(Refused, match=message), server():
        pass
    assert content is None or path.read_bytes() == content


def test_without_a_setting_everything_stays_in_the_working_folder(tmp_path, monkeypatch, own_state):
    toy_registry.empty_store(own_state)
    (own_state / "mlflow.db").rename(tmp_path / "mlflow.db")
    monkeypatch.delenv("MLFLOW_TRACKING_URI")
    monkeypatch.chdir(tmp_path)
    run = tracking.live("cnn", {}, {})
    with server() as client:
        client.log_text(run.run_id, "hello", "note.txt")
    assert address() == "sqlite:///mlflow.db"
    assert [path.read_text() for path in tmp_path.glob("mlruns/medloop/*/artifacts/note.txt")] == ["hello"]


def test_usage_reporting_is_off_before_mlflow_is_imported():
    code = "import medloop.tracking, mlflow.telemetry as t; print(t.get_telemetry_client())"
    env = {
        name: value for name, value in os.environ.items() if not name.startswith(("MLFLOW", "PYTEST", "DO_NOT", "CI"))
    }
    done = subprocess.run([sys.executable, "-c", code], env=env, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "None"


def test_three_processes_may_open_a_new_store_at_once(tmp_path):
    code = """
import os, sys
from medloop import tracking
children = []
for number in range(3):
    child = os.fork()
    if not child:
        run = tracking.live(f"run {number}", {}, {})
        run.close()
        os._exit(run.run_id is None)
    children.append(child)
sys.exit(sum(os.waitpid(child, 0)[1] for child in children))
"""
    env = os.environ | {"MLFLOW_TRACKING_URI": f"sqlite:///{tmp_path}/mlflow.db"}
    done = subprocess.run(
        [sys.executable, "-c", code], env=env, capture_output=True, text=True, timeout=120, check=False
    )
    assert (done.returncode, done.stderr) == (0, "")
