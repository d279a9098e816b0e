import pytest
import yaml
from kfp import dsl
from kfp.compiler import Compiler

import medloop_pipelines
from medloop import params
from medloop.errors import Refused
from medloop_pipelines import runners
from medloop_pipelines.connection import Connection

PARAMS = params.Params(schema_version=1)
OTHER = params.Params(schema_version=1, train=params.Train(architectures=("cnn",)))


def connection(kubeflow, **more) -> Connection:
    return Connection(kubeflow.url, **more)


def test_submit_posts_the_compiled_pipeline(kubeflow, tmp_path):
    medloop_pipelines.compile(PARAMS, tmp_path / "wanted.yaml")
    run = kubeflow.state.runs[medloop_pipelines.submit(PARAMS, connection(kubeflow), name="mine")]
    assert run["pipeline_spec"] == yaml.safe_load((tmp_path / "wanted.yaml").read_text())
    assert kubeflow.state.experiments[run["experiment_id"]]["display_name"] == "medloop"
    assert run["display_name"] == "mine"
    assert not run["runtime_config"].get("parameters")


def test_what_kubernetes_is_asked_travels_along(kubeflow):
    pipeline = params.Pipeline(accelerator="nvidia.com/gpu", node_selector={"pool": "gpu"})
    run = medloop_pipelines.submit(PARAMS.model_copy(update={"pipeline": pipeline}), connection(kubeflow))
    assert set(kubeflow.state.runs[run]["pipeline_spec"]) == {"pipeline_spec", "platform_spec"}


def test_two_runs_share_an_experiment_and_differ_by_name(kubeflow):
    experiments = {medloop_pipelines.submit(PARAMS, connection(kubeflow), experiment="trial") for _ in range(2)}
    runs = [kubeflow.state.runs[run] for run in experiments]
    assert len({run["experiment_id"] for run in runs}) == 1
    assert all(run["display_name"].startswith("medloop-classification-phantom 20") for run in runs)
    assert [each["display_name"] for each in kubeflow.state.experiments.values()] == ["trial"]


def test_a_package_of_other_parameters_is_not_run(tmp_path):
    medloop_pipelines.compile(OTHER, tmp_path / "pipeline.yaml")
    with pytest.raises(Refused, match=r"pipeline\.yaml was compiled for other parameters.*compile it again"):
        medloop_pipelines.run(PARAMS, tmp_path / "root", package=tmp_path / "pipeline.yaml")
    assert not (tmp_path / "root").exists()


def test_a_package_of_other_parameters_is_not_submitted(kubeflow, tmp_path):
    medloop_pipelines.compile(OTHER, tmp_path / "pipeline.yaml")
    with pytest.raises(Refused, match=r"pipeline\.yaml was compiled for other parameters.*compile it again"):
        medloop_pipelines.submit(PARAMS, connection(kubeflow), package=tmp_path / "pipeline.yaml")
    assert kubeflow.changes() == []


def test_a_package_of_the_same_parameters_is_submitted(kubeflow, tmp_path):
    medloop_pipelines.compile(OTHER, tmp_path / "pipeline.yaml")
    run = medloop_pipelines.submit(OTHER, connection(kubeflow), package=tmp_path / "pipeline.yaml")
    assert list(kubeflow.state.runs) == [run]


@pytest.mark.parametrize("content", [None, "", "a: 1", "[1]", "a: [", "\0"])
def test_what_is_no_package_is_refused(tmp_path, content):
    if content is not None:
        (tmp_path / "pipeline.yaml").write_text(content)
    with pytest.raises(Refused, match=r"pipeline\.yaml"):
        medloop_pipelines.submit(PARAMS, Connection("http://127.0.0.1:9"), package=tmp_path / "pipeline.yaml")


def test_a_run_that_kubeflow_refuses_is_reported_and_leaves_nothing(kubeflow):
    kubeflow.breaks["RunService_CreateRun"] = 500
    with pytest.raises(Refused, match=r"Kubeflow at .* refused: 500 told to"):
        medloop_pipelines.submit(PARAMS, connection(kubeflow))
    assert kubeflow.state.experiments == {}


@dsl.component(base_image="none", install_kfp_package=False)
def train(code: int):
    raise SystemExit(code)


@dsl.pipeline(name="fails")
def failing():
    first = train(code=0).set_display_name("train-cnn")
    train(code=3).set_display_name("train-lstm").after(first)


def test_a_failing_step_is_named_as_the_user_knows_it(tmp_path):
    Compiler().compile(failing, str(tmp_path / "pipeline.yaml"))
    with pytest.raises(Refused, match="pipeline step train-lstm failed"):
        runners.subprocess(tmp_path / "pipeline.yaml", tmp_path / "root")


def test_a_refusal_inside_a_step_is_one_message(tmp_path, capfd):
    ingest = params.Ingest(source="folder", root=tmp_path / "nothing-here")
    with pytest.raises(Refused, match="pipeline step ingest failed"):
        medloop_pipelines.run(PARAMS.model_copy(update={"ingest": ingest}), tmp_path / "root")
    said = capfd.readouterr().out
    assert f"medloop: no folder {tmp_path}" in said
    assert "Traceback" not in said
    assert said.count("Executing task") == 1, "retried, or went on"
