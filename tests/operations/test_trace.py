"""The chain of a version, printed down to its data and up again from the data, with nothing but the server at hand."""

import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import requests

import toy_registry
from medloop import cli, provenance
from medloop.errors import Refused
from medloop.operations.trace import down, of_samples, up
from medloop.operations.verify import verify
from medloop.tracking.connection import server
from toy_registry import Toy, registered

NAME = "medloop-classification-toy"
BASE = Toy().base


@pytest.fixture(autouse=True)
def _store(own_state: Path) -> None:
    toy_registry.empty_store(own_state)


def digests(folder: Path) -> dict[str, str]:
    return {name: provenance.digest(folder / name) for name in ("samples", "validation", "models/cnn", "evaluation")}


def test_down_names_every_step_with_its_digest_and_the_runs(tmp_path):
    result = registered(tmp_path)
    said = down(BASE, "challenger")
    lines = said.splitlines()
    found = digests(tmp_path)
    steps = [line for line in lines if line.endswith(tuple(found.values()))]
    assert steps == [
        f"evaluate: evaluation  {found['evaluation']}",
        f"train cnn: models/cnn  {found['models/cnn']}",
        f"validate: validation  {found['validation']}",
        f"ingest: samples  {found['samples']}",
    ]
    card = json.loads((tmp_path / "evaluation/card.json").read_text())
    assert lines[0].startswith(f"{NAME} version 1 (challenger) on sqlite")
    assert f"  model      {provenance.model_digest(card)}" in lines
    assert f"  MLflow run {result['run_id']}" in lines
    assert any(line.startswith("  trainings  ") and line.endswith(" (cnn)") for line in lines)
    assert any("model.onnx" in line for line in lines)
    assert any(line.startswith("  packages   ") and "numpy" in line for line in lines)


@pytest.mark.parametrize("address", ["1", "challenger", f"models:/{NAME}/1", f"models:/{NAME}@challenger"])
def test_a_version_is_found_without_a_project(tmp_path, address):
    registered(tmp_path)
    assert down(None, address) == down(BASE, "1")


def test_up_from_the_samples_leads_to_all_versions_made_of_them(tmp_path):
    registered(tmp_path / "one")
    registered(tmp_path / "one", noise=0.3)
    registered(tmp_path / "other", seed=1, noise=0.2)
    samples = digests(tmp_path / "one")["samples"]
    said = up(samples[:12])
    assert [line for line in said.splitlines() if line.startswith("version")] == [
        f"version      {NAME} version 1",
        f"version      {NAME} version 2",
    ]
    assert [line.split()[0] for line in said.splitlines()][:2] == ["ingest", "validate"]
    assert said.count("\ntrain ") == 2
    assert of_samples(BASE, "2") == up(samples)
    assert "version 3 (challenger)" in up(digests(tmp_path / "other")["evaluation"])
    assert "version 3" not in said
    assert "versions of the samples" in down(BASE, "1")
    assert down(BASE, "1").splitlines()[-1].endswith(": version 1, version 2")


def test_up_takes_the_digest_of_a_file_and_of_a_model(tmp_path):
    registered(tmp_path)
    lineage = provenance.read_lineage(tmp_path / "samples")
    card = json.loads((tmp_path / "evaluation/card.json").read_text())
    assert up(lineage["outputs"]["manifest.parquet"]) == up(digests(tmp_path)["samples"])
    assert [line.split()[0] for line in up(provenance.model_digest(card)).splitlines()] == ["evaluate", "version"]


def test_what_cannot_be_traced_is_refused(tmp_path):
    with pytest.raises(Refused, match=r"which model's '1'\? .* has no model of medloop"):
        down(None, "1")
    registered(tmp_path)
    registered(tmp_path / "b", name="other")
    with pytest.raises(Refused, match=r"has medloop-classification-other, medloop-classification-toy"):
        down(None, "1")
    with pytest.raises(Refused, match=r"has no version '7'"):
        down(BASE, "7")
    with pytest.raises(Refused, match=r"reads models:/NAME/NUMBER or models:/NAME@ALIAS, got models:/m-1"):
        down(BASE, "models:/m-1")
    with pytest.raises(Refused, match=r"8 to 64 hex digits, got 'abc'"):
        up("abc")
    with pytest.raises(Refused, match=r"no version on .* was made of anything that the digest 0123456789 names"):
        up("0123456789")


def test_an_empty_digest_is_refused_and_not_taken_for_none_at_all(monkeypatch, capsys):
    monkeypatch.setattr("sys.argv", ["medloop", "trace", "--from", ""])
    with pytest.raises(SystemExit) as ended:
        cli.main()
    assert (ended.value.code, "8 to 64 hex digits, got ''" in capsys.readouterr().err) == (2, True)


def test_a_version_of_somebody_else_has_no_chain(tmp_path):
    with server() as client:
        client.create_registered_model(NAME)
        client.create_model_version(NAME, str(tmp_path))
    with pytest.raises(Refused, match=r"lacks the tag medloop.run_id"):
        down(BASE, "1")


def test_the_command_needs_nothing_but_the_server(tmp_path):
    registered(tmp_path / "loop", scored=True)
    empty = tmp_path / "empty"
    empty.mkdir()
    run = [sys.executable, "-c", "from medloop.cli import main; main()"]
    env = {**os.environ, "MEDLOOP_STATE": str(empty / "state")}
    env.pop("MEDLOOP_KEY_FILE")
    said = [
        subprocess.run([*run, *arguments], cwd=empty, env=env, capture_output=True, text=True, check=True).stdout
        for arguments in (["trace", "1"], ["verify", "challenger"])
    ]
    assert said[0].rstrip() == down(BASE, "1")
    assert said[1].splitlines()[-1] == "every link holds"


@contextmanager
def mlflow_server(folder: Path) -> Iterator[str]:
    """Yield the address of a tracking server that keeps artifacts itself, as a team's does."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    store = toy_registry.empty_store(folder)
    command = [sys.executable, "-m", "mlflow", "server", "--backend-store-uri", store, "--port", str(port)]
    command += ["--artifacts-destination", str(folder / "kept"), "--workers", "1"]
    with (folder / "server.log").open("w") as log:
        process = subprocess.Popen(command, cwd=folder, stdout=log, stderr=log, start_new_session=True)
    try:
        deadline = time.monotonic() + 90
        while not _answers(f"http://127.0.0.1:{port}/health"):
            assert process.poll() is None, (folder / "server.log").read_text()[-2000:]
            assert time.monotonic() < deadline, (folder / "server.log").read_text()[-2000:]
            time.sleep(0.3)
        yield f"http://127.0.0.1:{port}"
    finally:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def _answers(address: str) -> bool:
    try:
        return requests.get(address, timeout=2).ok
    except requests.RequestException:
        return False


def test_a_server_across_the_network_has_all_that_is_needed(tmp_path, monkeypatch):
    (tmp_path / "server").mkdir()
    with mlflow_server(tmp_path / "server") as address:
        monkeypatch.setenv("MLFLOW_TRACKING_URI", address)
        registered(tmp_path / "loop", scored=True, resamples=200)
        (tmp_path / "loop").rename(tmp_path / "gone")
        monkeypatch.chdir(tmp_path / "server")
        assert list(verify(None, "challenger", artifacts=Path("artifacts")))[-1].startswith("holds   tag")
        samples = digests(tmp_path / "gone")["samples"]
        assert f"ingest: samples  {samples}" in down(None, f"models:/{NAME}@challenger").splitlines()
        assert up(samples).splitlines()[-1] == f"version      {NAME} version 1 (challenger)"
        [path] = list((tmp_path / "server/kept").rglob("metrics.json"))
        path.write_text(path.read_text().replace('"openings": 1', '"openings": 0'))
        with pytest.raises(Refused, match=r"^broken: logged metrics.json: wanted "):
            list(verify(None, "1", artifacts=Path("artifacts")))
