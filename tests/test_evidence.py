"""Runs and versions say where they came from, and nothing that changes from run to run gets into a lineage."""

import json
import subprocess
from pathlib import Path

import pytest

import toy_registry
from medloop import evidence, params, provenance
from medloop.stages.register import register
from medloop.tracking.connection import server
from toy_registry import Toy

NAME = "medloop-classification-toy"
PINNED = "registry/medloop@sha256:" + "ab" * 32


@pytest.fixture(autouse=True)
def _store(own_state: Path) -> None:
    toy_registry.empty_store(own_state)


def tags(result: dict) -> tuple[dict, dict]:
    """Return the tags of the run and of the version."""
    with server() as client:
        return client.get_run(result["run_id"]).data.tags, client.get_model_version(NAME, result["version"]).tags


def registered(loop: dict, **origin) -> dict:
    return register(Toy().base, params.Register(), **loop, **origin)


def test_run_and_version_carry_commit_images_lineage_and_the_kubeflow_run(tmp_path, monkeypatch):
    monkeypatch.setenv("MEDLOOP_IMAGE_DIGEST", "sha256:1234")
    monkeypatch.setenv("MEDLOOP_GIT_COMMIT", "f00d" * 10)
    result = registered(toy_registry.make(tmp_path), origin=evidence.given("0" * 40, "run-1"))
    lineage = provenance.read_lineage(tmp_path / "evaluation")
    wanted = {
        "medloop.git_commit": "f00d" * 10,
        "medloop.kfp_run_id": "run-1",
        "medloop.lineage_sha256": provenance.json_digest(lineage),
        "medloop.image_digests": json.dumps(
            dict.fromkeys(("evaluate", "ingest", "train", "validate"), "sha256:1234"), sort_keys=True
        ),
    }
    assert result["origin"] == wanted
    for found in tags(result):
        assert wanted.items() <= found.items()
    assert "run-1" not in json.dumps(lineage)


def test_a_second_kubeflow_run_of_the_same_files_leaves_its_id_and_the_first_commit(tmp_path, monkeypatch):
    loop = toy_registry.make(tmp_path)
    monkeypatch.setenv("MEDLOOP_GIT_COMMIT", "a" * 40)
    registered(loop, origin=evidence.given("", "run-1"))
    monkeypatch.setenv("MEDLOOP_GIT_COMMIT", "b" * 40)
    again = registered(loop, origin=evidence.given("", "run-2"))
    assert not again["new"]
    for found in tags(again):
        assert (found["medloop.git_commit"], found["medloop.kfp_run_id"]) == ("a" * 40, "run-2")


def test_the_commit_of_the_compiling_project_stands_in_where_the_code_knows_none(tmp_path, monkeypatch):
    loop = toy_registry.make(tmp_path / "loop")
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("MEDLOOP_GIT_COMMIT", raising=False)
    monkeypatch.setenv("GIT_CEILING_DIRECTORIES", str(tmp_path.parent))
    assert tags(registered(loop, origin=evidence.given("c" * 40, "")))[1]["medloop.git_commit"] == "c" * 40


def test_changed_code_shows_in_the_commit(tmp_path, monkeypatch):
    def git(*arguments):
        identity = ("-c", "user.name=a", "-c", "user.email=a@localhost")
        done = subprocess.run(["git", *identity, *arguments], cwd=tmp_path, check=True, capture_output=True, text=True)
        return done.stdout.strip()

    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("MEDLOOP_GIT_COMMIT", raising=False)
    (tmp_path / "components").mkdir()
    (tmp_path / "components/a.py").write_text("a = 1\n")
    git("init", "-q")
    git("add", ".")
    git("commit", "-qm", "start")
    head = git("rev-parse", "HEAD")
    (tmp_path / "dvc.lock").write_text("changes with every run\n")
    assert evidence.commit() == head
    (tmp_path / "components/a.py").write_text("a = 2\n")
    assert evidence.commit() == f"{head}-dirty"
