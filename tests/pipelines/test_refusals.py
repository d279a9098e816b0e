"""Each command that asks a Kubeflow, run as a user runs it, against one that does not answer or does not let it in."""

import base64
import json
import os
from pathlib import Path

import pytest

from kfp_contract.server import serving
from medloop import cli
from support import ROOT

COMMANDS = [
    "pipeline submit",
    "pipeline status",
    "pipeline status r",
    "pipeline logs r",
    "pipeline cancel r",
    "schedule create mine --interval 60",
    "schedule update mine --interval 60",
    "schedule list",
    "schedule pause mine",
    "schedule resume mine",
    "schedule delete mine",
    "schedule apply --yes",
]
SCHEDULE = "schedule:\n  - {name: nightly, cron: '0 30 2 * * *'}\n"
EXPIRED = f"e30.{base64.urlsafe_b64encode(json.dumps({'exp': 1_700_000_000}).encode()).decode().rstrip('=')}.signed"
CLOSED = {
    "no token": ({}, 2, "it wants a token: give --token-file, MEDLOOP_KFP_TOKEN or --service-account"),
    "wrong token": ({"TOKEN": "stolen"}, 2, "the token is not accepted: give one for this Kubeflow, by --token-file"),
    "expired token": ({"TOKEN": EXPIRED}, 2, "the token expired at 2023-11-14 22:13:20 UTC; fetch a new one"),
    "unknown namespace": (
        {"TOKEN": "right", "NAMESPACE": "taem"},
        2,
        "namespace 'taem' is unknown, or closed to this caller: give another --namespace",
    ),
}


@pytest.fixture(autouse=True)
def project(tmp_path, monkeypatch) -> Path:
    """A folder with nothing in it but params.yaml."""
    monkeypatch.chdir(tmp_path)
    declared = (ROOT / "params.yaml").read_text().replace("schedule: []", SCHEDULE)
    declared = declared.replace("key_secret: null", "key_secret: medloop-key")
    assert SCHEDULE in declared
    Path("params.yaml").write_text(declared)
    return tmp_path


def refusal(monkeypatch, capsys, command: str, **settings: str) -> tuple[int, str]:
    """Return the exit code of `medloop COMMAND` and what it said, after looking at how it said it."""
    for name, value in settings.items():
        monkeypatch.setenv(f"MEDLOOP_KFP_{name}", value)
    monkeypatch.setattr("sys.argv", ["medloop", *command.split()])
    with pytest.raises(SystemExit) as ended:
        cli.main()
    said = capsys.readouterr()
    assert said.out == ""
    assert said.err.startswith(f"medloop: Kubeflow at {os.environ['MEDLOOP_KFP_HOST']} ")
    assert said.err.count("\n") == 1, said.err
    return int(ended.value.code or 0), said.err


@pytest.mark.parametrize("command", COMMANDS)
@pytest.mark.parametrize("host", ["http://127.0.0.1:9", "http://kubeflow.invalid"])
def test_a_host_that_cannot_be_reached(project, monkeypatch, capsys, command, host):
    code, said = refusal(monkeypatch, capsys, command, HOST=host)
    assert code == 4
    assert "does not answer" in said
    assert "check --host (MEDLOOP_KFP_HOST)" in said
    assert [path.name for path in project.iterdir()] == ["params.yaml"]


@pytest.mark.parametrize(
    ("case", "command"),
    [  # a run is asked for by its id, whatever its namespace
        (case, command)
        for case in CLOSED
        for command in COMMANDS
        if case != "unknown namespace" or command[-2:] != " r"
    ],
)
def test_a_caller_whom_it_does_not_let_in(description, project, monkeypatch, capsys, command, case):
    settings, wanted, message = CLOSED[case]
    with serving(description, token="right", namespaces={"team"}) as kubeflow:
        code, said = refusal(monkeypatch, capsys, command, **{"HOST": kubeflow.url, "NAMESPACE": "team"} | settings)
        state = kubeflow.state
        kept = (state.runs, state.recurring, state.pipelines, state.versions, state.experiments)
    assert code == wanted
    assert message in said
    assert settings.get("TOKEN", "right") not in said
    assert kept == ({}, {}, {}, {}, {})
    assert [path.name for path in project.iterdir()] == ["params.yaml"]


@pytest.mark.parametrize("command", ["pipeline status r", "pipeline logs r", "pipeline cancel r"])
def test_a_run_that_is_not_there(kubeflow, monkeypatch, capsys, command):
    code, said = refusal(monkeypatch, capsys, command, HOST=kubeflow.url)
    assert code == 2
    assert "refused: 404 'r' not found; `medloop pipeline status` and" in said
