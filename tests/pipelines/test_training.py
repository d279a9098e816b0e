import json
import re

import pytest
import yaml
from google.protobuf import json_format
from kfp.pipeline_spec.pipeline_spec_pb2 import PipelineSpec

import medloop_pipelines
from medloop import __version__, kubeflow, params
from medloop.errors import Refused
from medloop_pipelines.training import check_cluster

ARCHITECTURES = ("cnn", "lstm", "attention")


def compiled(folder, **sections):
    """Return the two documents of a compiled pipeline: the IR and, or None, what it asks of Kubernetes."""
    path = folder / "pipeline.yaml"
    medloop_pipelines.compile(params.check({"schema_version": 1, **sections}, where="test"), path)
    documents = [*yaml.safe_load_all(path.read_text()), None]
    return documents[0], documents[1]


def tasks(spec):
    """Return the tasks of the IR by display name."""
    return {task["taskInfo"]["name"]: task for task in spec["root"]["dag"]["tasks"].values()}


def argument(task):
    return json.loads(task["inputs"]["parameters"]["params"]["runtimeValue"]["constant"])


def container(spec, task):
    label = spec["components"][task["componentRef"]["name"]]["executorLabel"]
    return spec["deploymentSpec"]["executors"][label]["container"]


def test_each_display_name_trains_its_own_architecture(tmp_path):
    hyper = {"cnn": {"units": 64}, "lstm": {"units": 20}}
    spec, _ = compiled(tmp_path, train={"architectures": ARCHITECTURES, "hyper": hyper})
    found = {
        name: (argument(task)["section"]["architectures"], argument(task)["section"]["hyper"])
        for name, task in tasks(spec).items()
        if name.startswith("train")
    }
    assert found == {
        "train-cnn": (["cnn"], {"cnn": {"units": 64}}),
        "train-lstm": (["lstm"], {"lstm": {"units": 20}}),
        "train-attention": (["attention"], {}),
    }


def test_the_dag(tmp_path):
    spec, _ = compiled(tmp_path)
    keys = {task["taskInfo"]["name"]: key for key, task in spec["root"]["dag"]["tasks"].items()}
    names = {key: name for name, key in keys.items()}
    came = {
        name: sorted(names[upstream] for upstream in task.get("dependentTasks", []))
        for name, task in tasks(spec).items()
    }
    trained = sorted(f"train-{architecture}" for architecture in ARCHITECTURES)
    assert came == {
        "ingest": [],
        "validate": ["ingest"],
        "preprocess": ["ingest", "validate"],
        **{name: ["preprocess"] for name in trained},  # side by side
        "evaluate": sorted(["preprocess", *trained, "validate"]),
        "register": sorted(["evaluate", *trained, "validate"]),
    }
    models = [
        value["taskOutputArtifact"]
        for name, value in tasks(spec)["register"]["inputs"]["artifacts"].items()
        if name.startswith("model")
    ]
    assert sorted(names[model["producerTask"]] for model in models) == trained


def test_training_never_sees_the_test_set(tmp_path):
    spec, _ = compiled(tmp_path)
    inputs = tasks(spec)["train-cnn"]["inputs"]["artifacts"]
    assert [value["taskOutputArtifact"]["outputArtifactKey"] for value in inputs.values()] == ["arrays"]


@pytest.mark.parametrize("stage", ["ingest", "validate", "preprocess", "evaluate", "register"])
def test_a_task_takes_its_stage_s_section(tmp_path, stage):
    text = json.dumps(argument(tasks(compiled(tmp_path)[0])[stage]))
    base, section = params.parse(text, type(getattr(params.Params(schema_version=1), stage)))
    assert (base, section) == (params.Base(), getattr(params.Params(schema_version=1), stage))


def test_kubeflow_s_own_parser_takes_it(tmp_path):
    spec, _ = compiled(tmp_path, train={"architectures": ["cnn"]})
    parsed = json_format.ParseDict(spec, PipelineSpec())
    assert set(parsed.root.dag.tasks) == {"ingest", "validate", "preprocess", "train", "evaluate", "register"}
    assert not parsed.root.input_definitions.parameters, "arguments given at submission could differ from its tasks"


def test_the_same_parameters_give_the_same_bytes(tmp_path):
    for name in ("a.yaml", "b.yaml"):
        medloop_pipelines.compile(params.Params(schema_version=1), tmp_path / name)
    assert (tmp_path / "a.yaml").read_bytes() == (tmp_path / "b.yaml").read_bytes()


def test_only_training_asks_for_a_gpu(tmp_path):
    spec, platform = compiled(
        tmp_path,
        pipeline={
            "accelerator": "nvidia.com/gpu",
            "accelerator_count": 2,
            "node_selector": {"pool": "gpu"},
            "tolerations": [{"key": "gpu", "operator": "Exists", "effect": "NoSchedule"}],
        },
    )
    asked = {name: container(spec, task)["resources"].get("accelerator") for name, task in tasks(spec).items()}
    trained = {f"train-{architecture}" for architecture in ARCHITECTURES}
    assert {name for name, accelerator in asked.items() if accelerator} == trained
    assert asked["train-lstm"]["resourceType"] == "nvidia.com/gpu"
    assert asked["train-lstm"]["resourceCount"] == "2"
    executors = platform["platforms"]["kubernetes"]["deploymentSpec"]["executors"]
    assert set(executors) == {"exec-train", "exec-train-2", "exec-train-3"}
    for executor in executors.values():
        assert executor["nodeSelector"]["labels"] == {"pool": "gpu"}
        assert executor["tolerations"] == [{"key": "gpu", "operator": "Exists", "effect": "NoSchedule"}]


def test_without_an_accelerator_nothing_is_asked_of_kubernetes(tmp_path):
    spec, platform = compiled(tmp_path)
    assert platform is None
    assert not any("accelerator" in container(spec, task)["resources"] for task in tasks(spec).values())


def test_resources_and_retries_come_from_the_parameters(tmp_path):
    spec, _ = compiled(tmp_path, pipeline={"cpu": "3", "memory": "5Gi", "retries": 4})
    for task in tasks(spec).values():
        resources = container(spec, task)["resources"]
        assert (resources["resourceCpuLimit"], resources["resourceMemoryLimit"]) == ("3", "5Gi")
        assert task["retryPolicy"]["maxRetryCount"] == 4


def cached(folder, **pipeline):
    found = tasks(compiled(folder, pipeline=pipeline)[0])
    return {name for name, task in found.items() if task["cachingOptions"].get("enableCache")}


def test_nothing_is_cached_under_a_tag_that_may_move(tmp_path):
    assert cached(tmp_path) == set()
    assert cached(tmp_path, images={"train": "registry/train:1", "validate": f"v@sha256:{'0' * 64}"}) == {"validate"}


def test_only_what_kfp_can_see_is_cached(tmp_path):
    trained = {f"train-{architecture}" for architecture in ARCHITECTURES}
    by_digest = dict.fromkeys(params.STAGES, f"registry/medloop@sha256:{'0' * 64}")
    assert cached(tmp_path, images=by_digest) == {"validate", "preprocess", *trained, "evaluate"}


def scheduled(folder, **sections):
    path = folder / "scheduled.yaml"
    medloop_pipelines.compile(params.check({"schema_version": 1, **sections}, where="test"), path, scheduled=True)
    return yaml.safe_load(path.read_text())


def test_a_scheduled_run_looks_first_and_compares_last(tmp_path):
    spec = scheduled(tmp_path)
    json_format.ParseDict(spec, PipelineSpec())
    outer = tasks(spec)
    assert set(outer) == {"look", "something-new"}
    assert not outer["look"]["cachingOptions"].get("enableCache")
    assert outer["something-new"]["triggerPolicy"]["condition"].endswith("!= ''")
    inner = spec["components"][outer["something-new"]["componentRef"]["name"]]["dag"]["tasks"]
    assert inner["promote"]["dependentTasks"] == ["ingest", "register"]
    assert set(tasks(compiled(tmp_path)[0])) == {task["taskInfo"]["name"] for task in inner.values()} - {"promote"}


def test_the_settings_of_a_scheduled_run_change_with_what_decides_a_result_and_with_nothing_else(tmp_path):
    def settings(**sections):
        given = tasks(scheduled(tmp_path, **sections))["look"]["inputs"]["parameters"]["settings"]
        return given["runtimeValue"]["constant"]

    same = [{}, {"pipeline": {"cpu": "8", "retries": 3}}, {"promote": {"floor": 0.9}}]
    others = [{"train": {"epochs": 3}}, {"base": {"seed": 1}}, {"pipeline": {"images": {"train": "registry/train:2"}}}]
    assert len({settings(**each) for each in same}) == 1
    assert len({settings(**each) for each in [{}, *others]}) == 1 + len(others)


def test_a_cluster_s_key_state_and_secrets_reach_every_step(tmp_path):
    held = {
        "environment": {"MLFLOW_TRACKING_URI": "https://mlflow.example.org"},
        "secrets": {"medloop-access": ["AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"]},
        "key_secret": "medloop-key",
        "state_claim": "medloop-state",
    }
    spec, platform = compiled(tmp_path, pipeline=held)
    executors = platform["platforms"]["kubernetes"]["deploymentSpec"]["executors"]
    assert len(executors) == len(tasks(spec))
    for executor in executors.values():
        [secret] = executor["secretAsEnv"]
        assert (secret["secretName"], len(secret["keyToEnv"])) == ("medloop-access", 2)
        assert executor["secretAsVolume"][0] | {"optional": False} == {
            "secretName": "medloop-key",
            "secretNameParameter": {"runtimeValue": {"constant": "medloop-key"}},
            "mountPath": "/var/run/medloop",
            "optional": False,
        }
        assert executor["pvcMount"][0]["constant"] == "medloop-state"
    for task in tasks(spec).values():
        variables = {each["name"]: each["value"] for each in container(spec, task)["env"]}
        assert variables == {
            "MLFLOW_TRACKING_URI": "https://mlflow.example.org",
            "MEDLOOP_KEY_FILE": "/var/run/medloop/pseudonym.key",
            "MEDLOOP_STATE": "/var/lib/medloop",
            kubeflow.VERSION: __version__,
        }


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("AWS_SECRET_ACCESS_KEY", "s3cret"),
        ("MLFLOW_TRACKING_PASSWORD", "s3cret"),
        ("MEDLOOP_WEBHOOK_URL", "https://hooks.example.org/s3cret"),
        ("MLFLOW_TRACKING_URI", "https://anna:s3cret@mlflow.example.org"),
        ("MLFLOW_TRACKING_URI", "https://s3cret@mlflow.example.org"),
        ("SOME_API_KEY", "s3cret"),
        ("DB_PASSWD", "s3cret"),
        ("AZURE_STORAGE_CONNECTION_STRING", "s3cret"),
    ],
)
def test_a_secret_among_the_variables_is_refused_and_not_shown(name, value):
    with pytest.raises(Refused, match=f"{name} looks like a secret.*pipeline.secrets") as caught:
        params.check({"schema_version": 1, "pipeline": {"environment": {name: value}}}, where="params.yaml")
    assert "s3cret" not in str(caught.value)


def test_patients_data_goes_to_no_cluster_without_a_key(tmp_path):
    read = params.Params(schema_version=1, ingest=params.Ingest(source="dicom", root="s3://hospital/wards"))
    with pytest.raises(Refused, match=r"pipeline.key_secret must name .* kubectl create secret"):
        medloop_pipelines.submit(read, None)


@pytest.mark.parametrize(("shards", "scheduled"), [(3, False), (1, True)])
def test_neither_shards_nor_schedules_go_to_a_cluster_without_a_key(shards, scheduled):
    read = params.Params(schema_version=1, pipeline=params.Pipeline(shards=shards))
    with pytest.raises(Refused, match=r"pipeline.key_secret must name"):
        check_cluster(read, scheduled=scheduled)
    check_cluster(params.Params(schema_version=1))
    check_cluster(params.Params(schema_version=1, pipeline=params.Pipeline(shards=3, key_secret="key")), scheduled=True)


def test_a_schedule_is_no_part_of_what_it_runs(tmp_path):
    nightly = params.Schedule(name="nightly", interval_s=60)
    with_one = params.Params(schema_version=1, schedule=(nightly,))
    medloop_pipelines.compile(with_one, tmp_path / "a.yaml")
    medloop_pipelines.compile(params.Params(schema_version=1), tmp_path / "b.yaml")
    assert (tmp_path / "a.yaml").read_bytes() == (tmp_path / "b.yaml").read_bytes()


def test_images_by_parameter_and_by_environment(tmp_path, monkeypatch):
    monkeypatch.setenv("MEDLOOP_IMAGE_EVALUATE", "registry/evaluate:2")
    spec, _ = compiled(tmp_path, pipeline={"images": {"train": "registry/train:1", "evaluate": "registry/evaluate:1"}})
    image = {name: container(spec, task)["image"] for name, task in tasks(spec).items()}
    assert image["train-cnn"] == image["train-lstm"] == "registry/train:1"
    assert image["evaluate"] == "registry/evaluate:2"
    assert re.fullmatch(r"medloop-light:[\w.]+", image["ingest"])


def test_an_image_of_no_stage_is_refused(tmp_path):
    with pytest.raises(Refused, match=r"pipeline\.images\.trian"):
        compiled(tmp_path, pipeline={"images": {"trian": "x"}})


def test_the_ui_is_given_what_it_can_show(tmp_path):
    spec, _ = compiled(tmp_path)
    shown = {
        name: sorted(
            artifact["artifactType"]["schemaTitle"].removeprefix("system.")
            for artifact in spec["components"][f"comp-{name}"]["outputDefinitions"]["artifacts"].values()
        )
        for name in ("ingest", "validate", "preprocess", "train", "evaluate")
    }
    assert shown == {
        "ingest": ["Dataset"],
        "validate": ["Artifact", "Markdown"],
        "preprocess": ["Dataset", "Dataset"],
        "train": ["Metrics", "Model"],
        "evaluate": ["Artifact", "ClassificationMetrics", "HTML", "Metrics"],
    }


def test_no_secret_gets_into_a_package(tmp_path, monkeypatch):
    (tmp_path / "key").write_text("f00d" * 16)
    monkeypatch.setenv("MEDLOOP_KEY_FILE", str(tmp_path / "key"))
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://user:hunter2@server")
    compiled(tmp_path)
    text = (tmp_path / "pipeline.yaml").read_text()
    assert "f00d" not in text
    assert "hunter2" not in text


def test_a_name_that_kubeflow_does_not_take_is_changed(tmp_path):
    spec, _ = compiled(tmp_path, base={"dataset": "ward_7"})
    assert spec["pipelineInfo"]["name"] == "medloop-classification-ward-7"


def test_more_architectures_than_inputs_are_refused(tmp_path):
    with pytest.raises(Refused, match="at most 8 side by side, got 9"):
        compiled(tmp_path, train={"architectures": [f"net{number}" for number in range(9)]})


def test_nothing_but_yaml_is_written(tmp_path):
    with pytest.raises(Refused, match=r"a \.yaml file, got"):
        medloop_pipelines.compile(params.Params(schema_version=1), tmp_path / "pipeline.zip")


def test_the_id_of_the_run_and_the_commit_go_to_register_alone(tmp_path, monkeypatch):
    monkeypatch.setenv("MEDLOOP_GIT_COMMIT", "a" * 40)
    spec, _ = compiled(tmp_path)
    found = tasks(spec)
    given = found["register"]["inputs"]["parameters"]
    assert given["git_commit"]["runtimeValue"]["constant"] == "a" * 40
    assert "$.pipeline_job_uuid" in json.dumps(given["kfp_run_id"])
    assert not found["register"]["cachingOptions"].get("enableCache")
    others = json.dumps([task for name, task in found.items() if name != "register"])
    assert "pipeline_job_uuid" not in others
    assert "a" * 40 not in others, "another commit of the same code would miss the cache"


def test_a_pinned_image_tells_its_digest_to_the_step(tmp_path):
    pinned = "registry/train@sha256:" + "ab" * 32
    spec, _ = compiled(tmp_path, pipeline={"images": {"train": pinned}})
    environments = {name: container(spec, task)["env"] for name, task in tasks(spec).items()}
    found = {name: {each["name"]: each["value"] for each in env} for name, env in environments.items()}
    assert found["train-cnn"]["MEDLOOP_IMAGE_DIGEST"] == "sha256:" + "ab" * 32
    assert "MEDLOOP_IMAGE_DIGEST" not in found["ingest"]


def test_every_step_knows_which_medloop_compiled_it(tmp_path):
    sections = {"promote": {"automatic": True}, "pipeline": {"notify": {"channels": ["webhook"]}}}
    path = tmp_path / "pipeline.yaml"
    medloop_pipelines.compile(params.check({"schema_version": 1, **sections}, where="test"), path, scheduled=True)
    executors = next(yaml.safe_load_all(path.read_text()))["deploymentSpec"]["executors"]
    assert {"exec-promote", "exec-notify", "exec-train"} <= set(executors)
    for name, executor in executors.items():
        assert {"name": kubeflow.VERSION, "value": __version__} in executor["container"]["env"], name
