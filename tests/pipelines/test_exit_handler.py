"""Who is told how a run of the pipeline ended."""

import json

import pytest
import yaml
from google.protobuf import json_format
from kfp.pipeline_spec.pipeline_spec_pb2 import PipelineSpec

import medloop_pipelines
from medloop import params
from medloop.errors import Refused
from receivers import Mail, Web, receiving

NOTIFY = params.Notify(channels=("webhook", "slack", "email"), secret="our-hooks")
TOLD = params.Params(schema_version=1, pipeline=params.Pipeline(notify=NOTIFY))
SECRETS = {
    "MEDLOOP_WEBHOOK_URL": "https://hooks.example.org/s3cret-hook",
    "MEDLOOP_SLACK_URL": "https://hooks.slack.example/s3cret-slack",
    "MEDLOOP_SMTP_URL": "smtps://user:s3cret-password@mail.example.org",
    "MEDLOOP_MAIL_FROM": "s3cret-sender@example.org",
    "MEDLOOP_MAIL_TO": "s3cret-recipient@example.org",
}


@pytest.fixture
def package(tmp_path, monkeypatch):
    """The pipeline, compiled where all secrets are set."""
    for name, value in SECRETS.items():
        monkeypatch.setenv(name, value)
    medloop_pipelines.compile(TOLD, tmp_path / "pipeline.yaml")
    return tmp_path / "pipeline.yaml"


def test_no_secret_of_a_notification_is_in_the_package(package):
    assert "s3cret" not in package.read_text()


def test_kubernetes_mounts_the_secret_in_the_last_step_alone(package):
    _, platform = yaml.safe_load_all(package.read_text())
    executors = platform["platforms"]["kubernetes"]["deploymentSpec"]["executors"]
    assert set(executors) == {"exec-notify"}
    [mounted] = executors["exec-notify"]["secretAsEnv"]
    assert mounted["secretName"] == "our-hooks"
    assert {each["envVar"] for each in mounted["keyToEnv"]} == set(SECRETS)


def test_the_last_step_runs_however_the_loop_ends(package):
    spec, _ = yaml.safe_load_all(package.read_text())
    json_format.ParseDict(spec, PipelineSpec())
    tasks = spec["root"]["dag"]["tasks"]
    assert set(tasks) == {"exit-handler-1", "notify"}
    assert tasks["notify"]["triggerPolicy"]["strategy"] == "ALL_UPSTREAM_TASKS_COMPLETED"
    assert not tasks["notify"]["cachingOptions"].get("enableCache")
    assert len(spec["components"]["comp-exit-handler-1"]["dag"]["tasks"]) == 8


def test_without_a_channel_there_is_no_exit_handler(tmp_path):
    medloop_pipelines.compile(params.Params(schema_version=1), tmp_path / "pipeline.yaml")
    assert "exit-handler" not in (tmp_path / "pipeline.yaml").read_text()


def test_a_failed_run_is_told_with_its_step_and_its_reason(tmp_path, monkeypatch, capfd, own_state):
    root = tmp_path / "nothing-here"
    read = TOLD.model_copy(update={"ingest": params.Ingest(source="folder", root=root)})
    with receiving(Web()) as web, receiving(Mail()) as mail:
        monkeypatch.setenv("MEDLOOP_WEBHOOK_URL", f"{web.url}/s3cret-hook")
        monkeypatch.setenv("MEDLOOP_SLACK_URL", f"{web.url}/s3cret-slack")
        monkeypatch.setenv("MEDLOOP_SMTP_URL", mail.url)
        monkeypatch.setenv("MEDLOOP_MAIL_FROM", "medloop@example.org")
        monkeypatch.setenv("MEDLOOP_MAIL_TO", "team@example.org")
        with pytest.raises(Refused, match="pipeline step ingest failed"):
            medloop_pipelines.run(read, tmp_path / "root")
    (_, told), (_, slack) = web.got
    [failed] = told["failed"]
    assert failed["step"] == "ingest"
    assert failed["reason"].startswith(f"no folder {root}")
    assert f"ingest: no folder {root}" in slack["text"]
    assert "failed at ingest" in mail.got[0]
    assert not list((own_state / "state/failures").glob("*"))
    assert "s3cret" not in capfd.readouterr().out
    assert "s3cret" not in json.dumps([path.read_text() for path in (tmp_path / "root").rglob("*.json")])
