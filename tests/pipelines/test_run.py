"""The pipeline run step by step on this machine, beside `dvc repro` on the same parameters. Takes about two minutes."""

import json
import re

import pandas as pd
import pytest
import yaml

import support
import wards
from medloop import provenance
from support import CANARY, Project
from wards import SAME, STAGES

NETWORKS = {"model.keras", "model.onnx"}  # compared by their weights: the converters number their parts anew each time


@pytest.fixture(scope="module")
def project(tmp_path_factory) -> Project:
    """A project after `dvc repro` and a pipeline run of the same parameters."""
    project = wards.project(tmp_path_factory.mktemp("pipeline"))
    project.run("dvc", "repro")
    project.run("medloop", "pipeline", "run", "--runner", "subprocess")
    return project


@pytest.fixture(scope="module")
def steps(project):
    """The folder of the run, one folder a step."""
    [folder] = [path for path in (project.folder / "artifacts/pipeline").iterdir() if path.is_dir()]
    return folder


def shown(steps, step, artifact):
    """Return the metadata that KFP was given for an artifact."""
    output = json.loads((steps / step / "executor_output.json").read_text())
    return output["artifacts"][artifact]["artifacts"][0]["metadata"]


def test_every_step_ran(steps):
    assert {path.name for path in steps.iterdir()} == set(STAGES)


@pytest.mark.parametrize("output", SAME)
def test_the_pipeline_and_dvc_write_the_same_bytes(project, steps, output):
    ours, theirs = steps / output, project.folder / "artifacts" / SAME[output]
    came, wanted = ({**provenance.verify(folder)["outputs"]} for folder in (ours, theirs))
    assert came.keys() == wanted.keys()
    assert {name for name in came if came[name] != wanted[name]} <= NETWORKS


@pytest.mark.parametrize(("step", "architecture"), [("train", "cnn"), ("train-2", "lstm")])
def test_weights_are_equal(project, steps, step, architecture):
    name = f"models/{architecture}/card.json"
    theirs = json.loads((project.folder / "artifacts" / name).read_text())
    ours = json.loads((steps / step / "model/card.json").read_text())
    assert ours["architecture"] == architecture
    assert ours["weights_sha256"] == theirs["weights_sha256"]


def test_predictions_are_equal(project, steps):
    tables = [
        pd.read_parquet(folder / "predictions.parquet")
        for folder in (steps / "evaluate/evaluation", project.folder / "artifacts/evaluation")
    ]
    pd.testing.assert_frame_equal(*tables, check_exact=True)
    assert len(tables[0]) > 10


def test_a_model_chains_by_digest_to_the_samples(steps):
    lineage = provenance.read_lineage(steps / "evaluate/evaluation")
    for step, artifact in [("ingest", "samples"), ("validate", "validation"), ("train", "model"), ("train-2", "model")]:
        assert shown(steps, step, artifact)["digest"] in lineage["upstream"]


def test_both_runs_registered_the_same_version(project, steps):
    recorded = json.loads((project.folder / "artifacts/runs/register/run.json").read_text())
    version = json.loads((steps / "register/executor_output.json").read_text())["parameterValues"]["Output"]
    assert version == f"medloop-classification-wards/{recorded['version']}"


def test_run_version_and_kubeflow_s_artifact_carry_the_id_of_the_kubeflow_run(project, steps):
    told = shown(steps, "register", "version")
    assert re.fullmatch(r"[0-9a-f-]{1,36}", told["medloop.kfp_run_id"])
    said = project.run("medloop", "trace", told["version"])
    assert f"  KFP run    {told['medloop.kfp_run_id']}" in said.splitlines()
    assert told["medloop.data_hash"] == shown(steps, "ingest", "samples")["data_hash"]
    lock = yaml.safe_load((project.folder / "dvc.lock").read_text())["stages"]["ingest"]["deps"]
    [data] = [each for each in lock if each["path"] == "data/wards"]
    assert told["medloop.data_hash"] == f"md5:{data['md5']}"
    assert project.run("medloop", "verify", told["version"]).splitlines()[-1] == "every link holds"


@pytest.mark.parametrize("place", ["samples/shards/00000.bin", "models/cnn/model.onnx", "evaluation/metrics.json"])
def test_one_flipped_byte_of_an_output_breaks_the_chain(project, place):
    path = project.folder / "artifacts" / place
    content = path.read_bytes()
    path.unlink()  # it may be linked to DVC's cache
    path.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
    try:
        said = project.run("medloop", "verify", "challenger", fails=True)
    finally:
        path.write_bytes(content)
    assert project.returncode == 2
    assert said.splitlines()[-1].startswith(f"medloop: broken: artifacts/{place} against artifacts/")


def test_the_ui_gets_metrics_curves_and_report(steps):
    metrics = json.loads((steps / "evaluate/evaluation/metrics.json").read_text())["test"]
    assert shown(steps, "evaluate", "metrics")["auc"] == metrics["auc"]["value"]
    assert shown(steps, "evaluate", "curves")["confidenceMetrics"][-1]["recall"] == 1
    assert shown(steps, "train", "model")["architecture"] == "cnn"
    assert shown(steps, "train", "metrics")
    report = (steps / "evaluate/report").read_bytes()
    assert report == (steps / "evaluate/evaluation/report.html").read_bytes()
    assert (steps / "validate/checks").read_text().count("| passed |") > 3


def test_no_step_names_a_patient_or_shows_the_key(project, steps):
    key = project.home / ".config/medloop/pseudonym.key"
    secret = key.read_text().strip()
    texts = [path.read_bytes() for path in steps.rglob("*") if path.is_file()] + [project.output.encode()]
    assert not any(CANARY.encode() in text or secret.encode() in text for text in texts)


def test_nothing_but_loopback_was_asked(project):
    assert not project.socket_log.exists(), project.socket_log.read_text()


def test_dvc_names_every_module_that_a_step_imported(steps):
    from test_dependencies import covers, stages

    for output in SAME:
        stage = provenance.read_lineage(steps / output)["stage"]
        for module in provenance.read_lineage(steps / output)["code"]:
            file = f"components/{module.replace('.', '/')}.py"
            package = not (support.ROOT / file).exists()
            assert package or any(covers(each, file) for each in stages()[stage]["deps"]), f"{stage}: {file}"
