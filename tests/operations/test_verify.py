"""Every link of a version's chain is compared, and a single change to any of them is named."""

import json
from pathlib import Path

import pandas as pd
import pytest

import toy_registry
from medloop import provenance
from medloop.errors import Refused
from medloop.operations.verify import verify
from medloop.tracking.connection import server
from toy_registry import Toy, registered

NAME = "medloop-classification-toy"
BASE = Toy().base


@pytest.fixture(autouse=True)
def _store(own_state: Path) -> None:
    toy_registry.empty_store(own_state)


@pytest.fixture
def loop(tmp_path) -> Path:
    """The folder of a registered loop, whose metrics are those of its predictions."""
    registered(tmp_path, scored=True, resamples=200)
    return tmp_path


def checked(folder: Path, model: str = "1") -> list[str]:
    return list(verify(BASE, model, artifacts=folder))


def kept() -> Path:
    """Where the run's artifacts lie on the server."""
    with server() as client:
        run = client.get_run(client.get_model_version(NAME, "1").tags["medloop.run_id"])
    return Path(run.info.artifact_uri)


def flip(path: Path, position: int = -1) -> None:
    content = bytearray(path.read_bytes())
    content[position] ^= 1
    path.write_bytes(content)


def edit(path: Path, *keys: str, value) -> None:
    content = inner = json.loads(path.read_text())
    for key in keys[:-1]:
        inner = inner[key]
    inner[keys[-1]] = value
    provenance.write_json(path, content)


def test_an_untouched_chain_holds_link_by_link(loop):
    said = checked(loop)
    assert said[0].startswith(f"{NAME} version 1, evaluated by run ")
    assert all(line.startswith("holds   ") for line in said[1:])
    for link in (
        "lineage of samples: outputs",
        "lineage.json against the tag of the version 1",
        "validation/lineage.json against lineage.json",
        "models/cnn/lineage.json against lineage.json",
        "logged predictions.parquet",
        "logged development.parquet",
        "model file artifacts/model/model.onnx",
        "model file MLmodel",
        "model.onnx is what training made",
        "test auc from predictions.parquet",
        "metric auc_low of the run",
        "tag medloop.dataset_digest",
        f"{loop}/samples, 2 files, against the logged lineage",
    ):
        assert f"holds   {link}" in said


def test_the_server_alone_will_do(loop, tmp_path_factory):
    said = checked(tmp_path_factory.mktemp("empty"))
    assert len(said) > 30
    assert not any("samples," in line for line in said)


def test_outputs_of_another_version_are_told_apart(loop, tmp_path_factory):
    registered(tmp_path_factory.mktemp("later"), scored=True, resamples=200, seed=1, noise=0.3, success=False)
    assert checked(loop, "2")[-1].endswith("files, of another version than this")


@pytest.mark.parametrize(
    "place", ["samples/shards/00000.bin", "samples/manifest.parquet", "models/cnn/model.onnx", "evaluation/card.json"]
)
def test_one_flipped_byte_on_disk_is_named(loop, place):
    flip(loop / place)
    folder = loop / place.replace("shards/", "").rpartition("/")[0]
    with pytest.raises(Refused, match=rf"^broken: {loop / place} against {folder}/lineage.json: wanted "):
        checked(loop)


@pytest.mark.parametrize(
    "place",
    ["report.html", "predictions.parquet", "metrics.json", "development.parquet", "validation/result.json"],
)
def test_one_flipped_byte_of_a_logged_file_is_named(loop, place):
    flip(kept() / place, 10)
    with pytest.raises(Refused, match=rf"^broken: logged {place}: wanted \w+, got \w+$"):
        checked(loop)


@pytest.mark.parametrize(
    "place", ["model.onnx", "card.json", "inference.py", "digests.json", "MLmodel", "serving.py", "requirements.txt"]
)
def test_one_flipped_byte_of_a_model_file_is_named(loop, own_state, place):
    [path] = [path for path in own_state.rglob(place) if "artifacts" in path.parts]
    flip(path, 40)
    with pytest.raises(Refused, match=rf"^broken: model file \S*{place}: wanted "):
        checked(loop)


def test_a_metric_changed_on_the_server_is_named(loop):
    with server() as client:
        run_id = client.get_model_version(NAME, "1").tags["medloop.run_id"]
        client.log_metric(run_id, "sensitivity_high", 0.999)
    with pytest.raises(Refused, match=r"^broken: metric sensitivity_high of the run: the run has 0.999, metrics.json "):
        checked(loop)


def test_a_metric_too_many_on_the_server_is_named(loop):
    with server() as client:
        client.log_metric(client.get_model_version(NAME, "1").tags["medloop.run_id"], "extra", 1.0)
    with pytest.raises(Refused, match=r"^broken: metric extra of the run: the run has 1.0, metrics.json None"):
        checked(loop)


def test_a_tag_changed_on_the_server_is_named(loop):
    with server() as client:
        client.set_model_version_tag(NAME, "1", "medloop.gate_value", "0.99")
    with pytest.raises(Refused, match=r"^broken: tag medloop.gate_value: wanted 0\.\d+, got 0.99"):
        checked(loop)


def test_metrics_that_were_wrong_from_the_start_are_named(tmp_path):
    """Every digest fits, for they were taken of metrics that the predictions do not give."""
    registered(tmp_path)
    with pytest.raises(
        Refused, match=r"^broken: test accuracy from predictions.parquet: the value is 0.7 in metrics.json"
    ):
        checked(tmp_path)


@pytest.mark.parametrize(
    ("place", "keys", "value", "message"),
    [
        ("lineage.json", ("parameters", "section", "resamples"), 201, "lineage.json against the tag of the run"),
        ("lineage.json", ("outputs", "metrics.json"), "0" * 64, "lineage.json against the tag of the run"),
        ("models/cnn/lineage.json", ("packages", "numpy"), "1.0", "packages.numpy of stage train is '1.0' here and"),
        ("models/cnn/lineage.json", ("outputs", "model.onnx"), "0" * 64, "of its stage train is not in the chain"),
        ("validation/lineage.json", ("image_digest",), "sha256:1", "image_digest of stage validate is 'sha256:1' here"),
    ],
)
def test_one_changed_line_of_a_logged_lineage_is_named(loop, place, keys, value, message):
    edit(kept() / place, *keys, value=value)
    with pytest.raises(Refused, match=f"^broken: .*{message}"):
        checked(loop)


@pytest.mark.parametrize("key", ["stage", "image_digest", "parameters", "inputs"])
def test_an_earlier_step_changed_in_the_logged_lineage_is_named(loop, key):
    content = json.loads((kept() / "lineage.json").read_text())
    [samples] = [digest for digest, step in content["upstream"].items() if step["stage"] == "ingest"]
    content["upstream"][samples][key] = {"inputs": {"x": "0" * 64}, "stage": "nix"}.get(key, {"section": {}})
    provenance.write_json(kept() / "lineage.json", content)
    with pytest.raises(Refused, match=r"^broken: "):
        checked(loop)


def test_a_changed_line_of_a_lineage_on_disk_is_named(loop):
    edit(loop / "samples/lineage.json", "parameters", "base", "seed", value=1)
    with pytest.raises(
        Refused, match=r"^broken: .*samples.* parameters.base.seed of stage ingest is 1 here and 0 there"
    ):
        checked(loop)


def test_a_lost_or_torn_file_is_named(loop):
    (kept() / "predictions.parquet").unlink()
    with pytest.raises(Refused, match=r"^broken: logged predictions.parquet is there: it is missing"):
        checked(loop)
    (kept() / "lineage.json").write_text('{"outputs": ')
    with pytest.raises(Refused, match=r"^broken: lineage.json as logged is not what medloop writes"):
        checked(loop)
    (kept() / "lineage.json").unlink()
    with pytest.raises(Refused, match=r"^broken: .* has no lineage.json of version 1"):
        checked(loop)


def test_predictions_that_do_not_give_the_metrics_are_named_even_when_every_digest_was_mended(loop):
    path = kept() / "predictions.parquet"
    table = pd.read_parquet(path)
    table.assign(label=1 - table["label"]).to_parquet(path, index=False)
    lineage = json.loads((kept() / "lineage.json").read_text())
    lineage["outputs"]["predictions.parquet"] = provenance.sha256(path)
    provenance.write_json(kept() / "lineage.json", lineage)
    with server() as client:
        run_id = client.get_model_version(NAME, "1").tags["medloop.run_id"]
        client.set_tag(run_id, "medloop.lineage_sha256", provenance.json_digest(lineage))
        client.set_model_version_tag(NAME, "1", "medloop.lineage_sha256", provenance.json_digest(lineage))
    with pytest.raises(Refused, match=r"^broken: test accuracy from predictions.parquet"):
        checked(loop)
