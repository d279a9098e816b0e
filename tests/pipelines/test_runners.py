import json
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import jsonschema
import pytest
import yaml
from kfp import dsl
from kfp.compiler import Compiler

import medloop_pipelines
from medloop import params
from medloop.errors import Refused, Unreachable
from medloop_pipelines import runners

PARAMS = params.Params(schema_version=1)
OTHER = params.Params(schema_version=1, train=params.Train(architectures=("cnn",)))


class Kubeflow(BaseHTTPRequestHandler):
    """As much of the v2beta1 API as a submission calls; remembers what was posted."""

    def do_GET(self):
        known = {"/apis/v2beta1/healthz": {"multi_user": False}, "/apis/v2beta1/experiments": {}}
        self._answer(known.get(self.path.partition("?")[0]))

    def do_POST(self):
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        self.server.posted[self.path] = body
        answer = body | {"experiment_id": "e1"} | ({"run_id": "r1"} if "runs" in self.path else {})
        self._answer(None if self.path in self.server.refuses else answer)

    def _answer(self, content):
        text = json.dumps(content or {"error": "no"}).encode()
        self.send_response(404 if content is None else 200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(text)))
        self.end_headers()
        self.wfile.write(text)

    def log_message(self, *args):
        pass


@pytest.fixture
def kubeflow(monkeypatch, tmp_path):
    monkeypatch.setattr("kfp.Client._LOCAL_KFP_CONTEXT", str(tmp_path / "context.json"))
    with ThreadingHTTPServer(("127.0.0.1", 0), Kubeflow) as server:
        server.posted, server.refuses = {}, set()
        server.url = f"http://127.0.0.1:{server.server_port}"
        threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True).start()
        yield server
        server.shutdown()


def test_submit_posts_the_compiled_pipeline(kubeflow, tmp_path):
    medloop_pipelines.compile(PARAMS, tmp_path / "wanted.yaml")
    assert medloop_pipelines.submit(PARAMS, kubeflow.url) == "r1"
    posted = kubeflow.posted["/apis/v2beta1/runs"]
    assert posted["pipeline_spec"] == yaml.safe_load((tmp_path / "wanted.yaml").read_text())
    assert posted["experiment_id"] == "e1"
    assert not posted["runtime_config"].get("parameters")


def test_what_is_posted_fits_the_api_s_own_description(kubeflow, shared_data):
    swagger = json.loads((shared_data.parent / "kfp-api/kfp_api_single_file.swagger.json").read_text())
    pipeline = params.Pipeline(accelerator="nvidia.com/gpu", node_selector={"pool": "gpu"})
    medloop_pipelines.submit(PARAMS.model_copy(update={"pipeline": pipeline}), kubeflow.url, namespace="team")
    wanted = {"/apis/v2beta1/runs": "v2beta1Run", "/apis/v2beta1/experiments": "v2beta1Experiment"}
    assert set(kubeflow.posted) == set(wanted)
    for path, name in wanted.items():
        definitions = {key: closed(value) for key, value in swagger["definitions"].items()}
        jsonschema.validate(kubeflow.posted[path], {"$ref": f"#/definitions/{name}", "definitions": definitions})
    assert kubeflow.posted["/apis/v2beta1/experiments"]["namespace"] == "team"
    assert set(kubeflow.posted["/apis/v2beta1/runs"]["pipeline_spec"]) == {"pipeline_spec", "platform_spec"}


def closed(definition):
    return {"additionalProperties": False, **definition} if "properties" in definition else definition


@pytest.mark.parametrize("act", ["run", "submit"])
def test_a_package_of_other_parameters_is_refused(kubeflow, tmp_path, act):
    package = tmp_path / "pipeline.yaml"
    medloop_pipelines.compile(OTHER, package)
    where = {"run": tmp_path / "root", "submit": kubeflow.url}[act]
    with pytest.raises(Refused, match=r"pipeline\.yaml was compiled for other parameters.*compile it again"):
        getattr(medloop_pipelines, act)(PARAMS, where, package=package)
    assert kubeflow.posted == {}
    assert not (tmp_path / "root").exists()


def test_a_package_of_the_same_parameters_is_submitted(kubeflow, tmp_path):
    medloop_pipelines.compile(OTHER, tmp_path / "pipeline.yaml")
    assert medloop_pipelines.submit(OTHER, kubeflow.url, package=tmp_path / "pipeline.yaml") == "r1"


@pytest.mark.parametrize("content", [None, "", "a: 1", "[1]", "a: [", "\0"])
def test_what_is_no_package_is_refused(tmp_path, content):
    if content is not None:
        (tmp_path / "pipeline.yaml").write_text(content)
    with pytest.raises(Refused, match=r"pipeline\.yaml"):
        medloop_pipelines.submit(PARAMS, "http://127.0.0.1:9", package=tmp_path / "pipeline.yaml")


def test_a_host_that_does_not_answer_is_named():
    with pytest.raises(Unreachable, match=r"Kubeflow at http://127\.0\.0\.1:9 does not answer"):
        medloop_pipelines.submit(PARAMS, "http://127.0.0.1:9")


def test_a_host_without_a_scheme_is_refused():
    with pytest.raises(Refused, match="must begin with http:// or https://, got 'localhost:8080'"):
        medloop_pipelines.submit(PARAMS, "localhost:8080")


def test_a_host_that_is_no_kubeflow_is_refused(kubeflow):
    with pytest.raises(Refused, match=r"no Kubeflow Pipelines API at .*/elsewhere: .* answers 404"):
        medloop_pipelines.submit(PARAMS, f"{kubeflow.url}/elsewhere")


def test_a_run_that_kubeflow_refuses_is_reported(kubeflow):
    kubeflow.refuses.add("/apis/v2beta1/runs")
    with pytest.raises(Refused, match=r"Kubeflow at .* refused the run: 404"):
        medloop_pipelines.submit(PARAMS, kubeflow.url)


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
