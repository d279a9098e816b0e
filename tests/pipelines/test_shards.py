"""Ingest to preprocess as a pipeline whose first steps run in three shards; the tests of the stages take seven."""

import json
import os
from pathlib import Path

import pytest
import yaml
from google.protobuf import json_format
from kfp import dsl
from kfp.compiler import Compiler
from kfp.pipeline_spec.pipeline_spec_pb2 import PipelineSpec

import medloop_pipelines
import support
import wards
from medloop import components, params, provenance
from medloop.errors import Refused
from medloop.stages.ingest import ingest
from medloop_pipelines import runners, training
from support import CANARY

OUTPUTS = ("ingest/samples", "preprocess/arrays", "preprocess/holdout")


def settings(root: Path, shards: int) -> params.Params:
    content = params.merge({"schema_version": 1, "pipeline": {"shards": shards, "retries": 0}}, wards.SETTINGS)
    return params.check(params.merge(content, {"ingest": {"root": str(root), "workers": 1}}), where="test")


def run(pipeline, folder: Path) -> Path:
    """Run a pipeline step by step on this machine, and return the folder of its steps."""
    folder.mkdir(parents=True)
    Compiler().compile(pipeline, str(folder / "pipeline.yaml"))
    runners.subprocess(folder / "pipeline.yaml", folder / "run")
    [steps] = [path for path in (folder / "run").iterdir() if path.is_dir()]
    return steps


def until_preprocess(read: params.Params):
    @dsl.pipeline(name="until-preprocess")
    def pipeline() -> None:
        samples = training._ingested(read, kept="")
        validate = training._task("validate", read, samples=samples)
        training._preprocessed(read, samples=samples, validation=validate.outputs["validation"])

    return pipeline


@pytest.fixture(scope="module")
def runs(tmp_path_factory) -> dict[int, Path]:
    """The steps of a run in one and in three shards, by the number of shards, under one key."""
    folder = tmp_path_factory.mktemp("shards")
    root = support.dicom_tree(folder / "wards", 60, name=CANARY)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MEDLOOP_KEY_FILE", str(folder / "key"))
        patch.setenv("MEDLOOP_STATE", str(folder / "state"))
        return {shards: run(until_preprocess(settings(root, shards)), folder / str(shards)) for shards in (1, 3)}


def contents(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.mark.parametrize("output", OUTPUTS)
def test_the_number_of_shards_changes_no_byte_lineage_included(runs, output):
    assert contents(runs[3] / output) == contents(runs[1] / output)
    provenance.verify(runs[3] / output)


@pytest.mark.parametrize("shards", [1, 3])
def test_each_shard_ran_as_a_step_of_its_own(runs, shards):
    parts = [*runs[shards].rglob("ingest-part/part"), *runs[shards].rglob("preprocess-part/arrays")]
    assert len(parts) == (0 if shards == 1 else 2 * shards)


def test_no_part_holds_test_images_where_training_may_read(runs):
    arrays = {path.name for part in runs[3].rglob("preprocess-part/arrays") for path in part.iterdir()}
    holdout = {path.name for part in runs[3].rglob("preprocess-part/holdout") for path in part.iterdir()}
    assert arrays == {"train", "val", "lineage.json"}
    assert holdout == {"test", "lineage.json"}


def test_no_step_names_a_patient(runs):
    for steps in runs.values():
        for path in steps.rglob("*"):
            assert path.is_dir() or CANARY.encode() not in path.read_bytes(), path


def test_the_samples_are_those_of_the_plain_stage(runs, tmp_path, monkeypatch):
    folder = runs[1].parents[2]
    monkeypatch.setenv("MEDLOOP_KEY_FILE", str(folder / "key"))
    read = settings(folder / "wards", 1)
    ingest(read.base, read.ingest, samples=tmp_path / "samples")
    assert provenance.digest(tmp_path / "samples") == provenance.digest(runs[3] / "ingest/samples")


def test_a_shard_that_fails_is_named(tmp_path, capfd):
    root = support.dicom_tree(tmp_path / "wards", 20, name=CANARY)
    (root / "labels.csv").write_text("path,label\n")
    with pytest.raises(Refused, match="pipeline step ingest-part failed"):
        run(until_preprocess(settings(root, 2)), tmp_path / "runs")
    assert "20 of 20 files have no label" in capfd.readouterr().out


def test_samples_are_kept_for_the_next_step_and_for_its_shards(tmp_path, capfd):
    few, many = (settings(support.dicom_tree(tmp_path / str(n), n, name=CANARY), 2) for n in (40, 44))

    @dsl.pipeline(name="twice")
    def twice() -> None:
        first = components.ingest(params=params.dump(few.base, few.ingest), kept="wards")
        text = params.dump(many.base, many.ingest)
        with dsl.ParallelFor([0, 1]) as shard:
            part = components.ingest_part(params=text, shard=shard, shards=2, kept="wards").after(first)
        second = components.ingest(params=text, parts=dsl.Collected(part.outputs["part"]))
        components.ingest(params=text, kept="wards").after(second)

    steps = run(twice, tmp_path / "runs")
    assert contents(steps / "ingest-2/samples") == contents(steps / "ingest-3/samples")
    said = capfd.readouterr().out
    assert "44 items: 4 read, 40 taken over from earlier samples" in said
    assert "40 items: 40 read, 0 taken over from earlier samples" in said
    kept = Path(os.environ["MEDLOOP_STATE"]) / "samples/wards"
    assert contents(kept) == contents(steps / "ingest-3/samples")
    assert [path.name for path in kept.parent.iterdir()] == ["wards"]


def compiled(folder: Path, *, scheduled: bool = False, **pipeline) -> dict:
    read = params.check({"schema_version": 1, "pipeline": pipeline}, where="test")
    medloop_pipelines.compile(read, folder / "pipeline.yaml", scheduled=scheduled)
    return next(yaml.safe_load_all((folder / "pipeline.yaml").read_text()))


def loops(spec: dict) -> dict[str, dict]:
    """Return the one task inside each loop, by its name, with the number of its rounds."""
    found = {}
    for task in spec["root"]["dag"]["tasks"].values():
        if "parameterIterator" in task:
            rounds = json.loads(task["parameterIterator"]["items"]["raw"])
            [(name, inner)] = spec["components"][task["componentRef"]["name"]]["dag"]["tasks"].items()
            found[name] = {"rounds": rounds, "task": inner}
    return found


def test_one_shard_leaves_the_pipeline_as_it_was(tmp_path):
    assert loops(compiled(tmp_path)) == {}


def test_a_loop_over_shards_in_the_image_of_its_stage(tmp_path):
    pinned = {"ingest": "registry/light@sha256:" + "ab" * 32, "preprocess": "registry/light@sha256:" + "cd" * 32}
    spec = compiled(tmp_path, shards=4, cpu="3", images=pinned)
    found = loops(spec)
    assert set(found) == {"ingest-part", "preprocess-part"}
    assert all(each["rounds"] == [0, 1, 2, 3] for each in found.values())
    cached = {name: each["task"]["cachingOptions"].get("enableCache", False) for name, each in found.items()}
    assert cached == {"ingest-part": False, "preprocess-part": True}
    for stage in ("ingest", "preprocess"):
        container = spec["deploymentSpec"]["executors"][f"exec-{stage}-part"]["container"]
        assert container["image"] == pinned[stage]
        assert container["resources"]["resourceCpuLimit"] == "3"
    parsed = json_format.ParseDict(spec, PipelineSpec())
    inputs = parsed.root.dag.tasks["ingest"].inputs.artifacts["parts"]
    assert inputs.task_output_artifact.producer_task.startswith("for-loop")


def test_a_scheduled_pipeline_that_tells_of_its_end_loops_too(tmp_path):
    spec = compiled(tmp_path, scheduled=True, shards=2, notify={"channels": ["webhook"]})
    json_format.ParseDict(spec, PipelineSpec())
    rounds = [
        json.loads(task["parameterIterator"]["items"]["raw"])
        for component in spec["components"].values()
        for task in component.get("dag", {}).get("tasks", {}).values()
        if "parameterIterator" in task
    ]
    assert rounds == [[0, 1], [0, 1]]


def test_training_sees_no_part(tmp_path):
    spec = compiled(tmp_path, shards=2)
    inputs = spec["root"]["dag"]["tasks"]["train"]["inputs"]["artifacts"]
    assert [value["taskOutputArtifact"]["outputArtifactKey"] for value in inputs.values()] == ["arrays"]
    assert {value["taskOutputArtifact"]["producerTask"] for value in inputs.values()} == {"preprocess"}


@pytest.mark.parametrize("shards", [0, 1001])
def test_a_number_of_shards_that_cannot_be_is_refused(tmp_path, shards):
    with pytest.raises(Refused, match=r"pipeline\.shards"):
        compiled(tmp_path, shards=shards)
