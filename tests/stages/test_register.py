"""Versions found by their digest, runs gathered, and what is refused."""

import json
import resource
import time
from pathlib import Path

import pytest

import toy_registry
from medloop import params, privacy, provenance, tracking
from medloop.errors import Refused, Unreachable
from medloop.stages.register import register
from medloop.tracking import registry
from medloop.tracking.connection import server
from toy_registry import Toy, registered

NAME = "medloop-classification-toy"


@pytest.fixture(autouse=True)
def store(own_state: Path) -> Path:
    toy_registry.empty_store(own_state)
    return own_state / "mlflow.db"


def runs() -> list:
    with server() as client:
        return list(client.search_runs([each.experiment_id for each in client.search_experiments()]))


def versions() -> list[registry.Version]:
    with server() as client:
        return registry.versions(client, NAME)


def parent_of(result: dict):
    with server() as client:
        return client.get_run(result["run_id"])


def test_a_new_version_is_the_challenger_and_says_what_it_is(tmp_path):
    result = registered(tmp_path, simulated=True)
    with server() as client:
        found = client.get_model_version_by_alias(NAME, "challenger")
    card = json.loads((tmp_path / "evaluation/card.json").read_text())
    metrics = json.loads((tmp_path / "evaluation/metrics.json").read_text())
    assert (result["version"], result["new"], str(found.version)) == ("1", True, "1")
    assert found.description.startswith("Simulated data")
    wanted = {
        "medloop.model_digest": provenance.model_digest(card),
        "medloop.dataset_digest": provenance.digest(tmp_path / "samples"),
        "medloop.test_sha256": metrics["test_sha256"],
        "medloop.architecture": "cnn",
        "medloop.validation": "passed",
        "medloop.leaks": "refuse",
        "medloop.simulated": "true",
        "medloop.gate": "auc",
        "medloop.gate_value": repr(metrics["test"]["auc"]["value"]),
        "medloop.run_id": result["run_id"],
    }
    assert wanted.items() <= found.tags.items()


def test_the_parent_run_holds_parameters_metrics_data_and_reports(tmp_path):
    result = registered(tmp_path)
    run = parent_of(result)
    metrics = json.loads((tmp_path / "evaluation/metrics.json").read_text())["test"]
    assert run.info.status == "FINISHED"
    assert {
        "base.dataset": "toy",
        "ingest.leaks": "refuse",
        "train.cnn.epochs": "20",
    }.items() <= run.data.params.items()
    assert run.data.metrics["auc_low"] == metrics["auc"]["low"]
    assert run.data.metrics["accuracy"] == 0.7
    assert "accuracy_low" not in run.data.metrics
    [dataset] = [each.dataset for each in run.inputs.dataset_inputs]
    assert (dataset.name, dataset.digest) == ("toy", provenance.digest(tmp_path / "samples")[:36])
    kept = Path(run.info.artifact_uri)
    names = {str(path.relative_to(kept)) for path in kept.rglob("*") if path.is_file()}
    assert names == {
        "report.html",
        "metrics.json",
        "choice.json",
        "development.parquet",
        "predictions.parquet",
        "lineage.json",
        "validation/result.json",
        "validation/lineage.json",
        "validation/data_docs/index.html",
        "models/cnn/lineage.json",
    }


def test_nothing_tells_who_registered_from_where(tmp_path):
    registered(tmp_path)
    tags = {tag for run in runs() for tag in run.data.tags}
    assert {tag for tag in tags if tag.startswith("mlflow.")} == {"mlflow.runName", "mlflow.parentRunId"}
    assert {run.info.user_id for run in runs()} == {"unknown"}


def test_the_run_that_logged_live_is_gathered(tmp_path):
    loop = toy_registry.make(tmp_path)
    card = json.loads((tmp_path / "models/cnn/card.json").read_text())
    run = tracking.live("cnn", {}, {})
    run.log({"loss": 0.5}, step=1)
    run.tag({tracking.WEIGHTS: card["weights_sha256"]})
    run.close()
    result = register(Toy().base, params.Register(), **loop)
    children = [each for each in runs() if each.data.tags.get("mlflow.parentRunId") == result["run_id"]]
    assert [child.info.run_id for child in children] == [run.run_id]


def test_again_changes_nothing(tmp_path):
    first = registered(tmp_path)
    with server() as client:
        client.delete_registered_model_alias(NAME, "challenger")
    again = registered(tmp_path)
    assert again == first | {"new": False}
    assert [(each.number, each.aliases) for each in versions()] == [("1", ())]
    assert len(runs()) == 2


def test_a_deleted_database_is_filled_again_from_what_lies_on_disk(tmp_path, store):
    registered(tmp_path)
    toy_registry.empty_store(store.parent)
    result = registered(tmp_path)
    assert (result["version"], result["new"]) == ("1", True)
    [child] = [each for each in runs() if each.data.tags.get("mlflow.parentRunId") == result["run_id"]]
    with server() as client:
        history = [(each.step, each.value) for each in client.get_metric_history(child.info.run_id, "val_auc")]
    assert history == [(1, 0.6), (2, 0.7), (3, 0.8)]


def test_going_back_to_old_parameters_finds_the_old_version(tmp_path):
    results = [registered(tmp_path, noise=noise) for noise in (0.0, 0.5, 0.0)]
    assert [(each["version"], each["new"]) for each in results] == [("1", True), ("2", True), ("1", False)]
    assert results[0]["run_id"] == results[2]["run_id"]
    assert [each.number for each in versions()] == ["1", "2"]


def test_the_same_model_evaluated_anew_is_the_same_version_with_the_newer_run(tmp_path):
    first, second = (registered(tmp_path, resamples=number) for number in (2000, 1000))
    assert (second["version"], second["new"]) == ("1", False)
    assert second["run_id"] != first["run_id"]
    assert [each.tags["medloop.run_id"] for each in versions()] == [second["run_id"]]


def test_each_server_has_its_own_version(tmp_path, monkeypatch):
    for place in ("here", "there", "here"):
        uri = f"sqlite:///{tmp_path}/{place}/mlflow.db"
        if not (tmp_path / place).exists():
            toy_registry.empty_store(tmp_path / place)
        monkeypatch.setenv("MLFLOW_TRACKING_URI", uri)
        result = registered(tmp_path / "loop")
        assert (result["version"], result["server"]) == ("1", uri)
        assert len(versions()) == 1
        assert Path(parent_of(result).info.artifact_uri).is_relative_to(tmp_path / place)


@pytest.mark.parametrize("broken", ["create", "set_aliases", "retag"])
def test_an_interrupted_registration_is_taken_up_again(tmp_path, monkeypatch, broken):
    def stop(*args, **kwargs):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(registry, broken, stop)
        with pytest.raises(KeyboardInterrupt):
            registered(tmp_path)
    result = registered(tmp_path)
    assert (result["version"], result["new"]) == ("1", True)
    assert [(each.number, each.aliases) for each in versions()] == [("1", ("challenger",))]
    assert sum("medloop.loop" in run.data.tags for run in runs()) == 1


def test_a_run_that_broke_off_is_made_anew(tmp_path, monkeypatch):
    loop = toy_registry.make(tmp_path)

    def stop(*args, **kwargs):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr("mlflow.MlflowClient.log_inputs", stop)
        with pytest.raises(KeyboardInterrupt):
            register(Toy().base, params.Register(), **loop)
    result = register(Toy().base, params.Register(), **loop)
    assert [run.info.run_id for run in runs() if "medloop.loop" in run.data.tags] == [result["run_id"]]
    assert parent_of(result).inputs.dataset_inputs


def test_a_full_disk_under_the_store_is_named_and_made_good_later(tmp_path, store):
    loop = toy_registry.make(tmp_path)
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (store.stat().st_size // 2, limits[1]))
    try:
        with pytest.raises(Unreachable, match=r"tracking store sqlite:.*\(.*disk.*\); results are kept"):
            register(Toy().base, params.Register(), **loop)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert register(Toy().base, params.Register(), **loop)["version"] == "1"


@pytest.mark.parametrize("name", ["models/cnn/model.onnx", "models/cnn/card.json", "evaluation/card.json"])
def test_a_file_that_does_not_match_its_digest_is_refused(tmp_path, name):
    loop = toy_registry.make(tmp_path)
    (tmp_path / name).write_bytes((tmp_path / name).read_bytes() + b" ")
    with pytest.raises(Refused, match=rf"{Path(name).name} does not match its digest.*dvc repro"):
        register(Toy().base, params.Register(), **loop)
    assert versions() == []
    assert runs() == []


def test_an_evaluation_of_another_model_is_refused(tmp_path):
    loop = toy_registry.make(tmp_path / "a")
    other = toy_registry.make(tmp_path / "b", noise=0.5)
    with pytest.raises(Refused, match="made of another models/cnn"):
        register(Toy().base, params.Register(), **loop | {"models": other["models"]})


def test_another_pseudonym_key_is_refused(tmp_path, own_state):
    fingerprint = privacy.Pseudonyms.load().fingerprint
    loop = toy_registry.make(tmp_path, fingerprint=fingerprint)
    (own_state / "pseudonym.key").unlink()
    privacy.Pseudonyms.load()
    with pytest.raises(Refused, match=f"pseudonym key {fingerprint}.*MEDLOOP_KEY_FILE"):
        register(Toy().base, params.Register(), **loop)
    assert versions() == []


def test_a_silent_server_is_named_at_once_and_costs_nothing(tmp_path, monkeypatch):
    loop = toy_registry.make(tmp_path)
    before = {path: provenance.sha256(path) for path in tmp_path.rglob("*") if path.is_file()}
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://127.0.0.1:9")
    begun = time.monotonic()
    with pytest.raises(Unreachable, match=r"http://127\.0\.0\.1:9 .*medloop register"):
        register(Toy().base, params.Register(), **loop)
    assert time.monotonic() - begun < 20
    assert {path: provenance.sha256(path) for path in tmp_path.rglob("*") if path.is_file()} == before


def test_an_evaluation_of_another_data_set_is_refused(tmp_path):
    made = toy_registry.make(tmp_path)
    words = r"is of medloop-classification-toy, the parameters are of .*-lungs: name the profile"
    with pytest.raises(Refused, match=words):
        register(params.Base(dataset="lungs"), params.Register(), **made)
    with server() as client:
        assert client.search_registered_models() == []
