"""The contract server refuses what the API's own description refuses: a contract test, no cluster.

Requests are taken down as kfp.Client sends them, changed in one place each, and sent again.
"""

import copy
import json

import kfp
import pytest
import urllib3

import medloop_pipelines
from medloop import params

PARAMS = params.Params(schema_version=1, train=params.Train(architectures=("cnn",)))


@pytest.fixture
def client(kubeflow) -> kfp.Client:
    return kfp.Client(host=kubeflow.url)


@pytest.fixture
def version(client, tmp_path):
    """A pipeline with a version, uploaded."""
    medloop_pipelines.compile(PARAMS, tmp_path / "pipeline.yaml")
    pipeline = client.pipelines.pipeline_service_create_pipeline({"display_name": "p", "name": "p"})
    return client.upload_pipeline_version(str(tmp_path / "pipeline.yaml"), "v1", pipeline_id=pipeline.pipeline_id)


@pytest.fixture
def posted(kubeflow, client, version, tmp_path):
    """What the client posted, by operation: (path, body)."""
    experiment = client.create_experiment("e").experiment_id
    ids = {"pipeline_id": version.pipeline_id, "version_id": version.pipeline_version_id}
    client.run_pipeline(experiment, "inline", pipeline_package_path=str(tmp_path / "pipeline.yaml"))
    inline = kubeflow.requests[-1]
    client.run_pipeline(experiment, "by reference", **ids)
    client.create_recurring_run(experiment, "nightly", cron_expression="0 0 2 * * *", **ids)
    found = {name: (path, body) for _, path, name, body in kubeflow.requests if isinstance(body, dict)}
    return found | {"inline": (inline[1], inline[3])}


def send(kubeflow, path, body, method="POST"):
    answer = urllib3.request(method, kubeflow.url + path, json=body, retries=False, timeout=10)
    return answer.status, answer.json()


def places(value, path=()):
    """Yield the way to every mapping and to every plain value of a body."""
    if isinstance(value, dict):
        yield path, value
        for key, inner in value.items():
            yield from places(inner, (*path, key))
    elif isinstance(value, (str, int, bool)):
        yield path, value


def changed(body, path, value):
    """Return `body` with `value` in one place."""
    body = copy.deepcopy(body)
    if not path:
        return value
    inner = body
    for key in path[:-1]:
        inner = inner[key]
    inner[path[-1]] = value
    return body


OPERATIONS = [
    "ExperimentService_CreateExperiment",
    "PipelineService_CreatePipeline",
    "RunService_CreateRun",
    "RecurringRunService_CreateRecurringRun",
]


@pytest.mark.parametrize("operation", OPERATIONS)
def test_a_field_that_the_description_does_not_name_is_refused_wherever_it_stands(kubeflow, posted, operation):
    path, body = posted[operation]
    tried = 0
    for place, value in places(body):
        if isinstance(value, dict) and place[-1:] != ("parameters",):
            status, answer = send(kubeflow, path, changed(body, place, value | {"no_such_field": "x"}))
            assert status == 400, place
            assert "no_such_field" in answer["message"]
            tried += 1
    assert tried >= (3 if "Run" in operation else 1)


@pytest.mark.parametrize("operation", OPERATIONS)
def test_a_value_of_the_wrong_type_is_refused_wherever_it_stands(kubeflow, posted, operation):
    path, body = posted[operation]
    for place, value in places(body):
        if place:
            wrong = [] if isinstance(value, dict) else {"wrong": "type"}
            status, _ = send(kubeflow, path, changed(body, place, wrong))
            assert status == 400, place


@pytest.mark.parametrize("operation", ["RunService_CreateRun", "RecurringRunService_CreateRecurringRun"])
@pytest.mark.parametrize("missing", ["pipeline_version_id", "pipeline_id"])
def test_a_missing_version_id_is_refused(kubeflow, posted, operation, missing):
    path, body = posted[operation]
    body = copy.deepcopy(body)
    del body["pipeline_version_reference"][missing]
    assert send(kubeflow, path, body)[0] == 400
    body["pipeline_version_reference"][missing] = "0"
    assert send(kubeflow, path, body)[0] == 404


@pytest.mark.parametrize(
    ("place", "value"),
    [
        (("pipelineInfo", "nmae"), "x"),
        (("pipelineInfo", "name"), 3),
        (("schemaVersion",), ["2.1.0"]),
        (("root", "dag", "tasks"), {}),
        (("root", "dag", "tasks", "ingest", "cachingOptions"), {"enableCache": "perhaps"}),
        (("deploymentSpec",), "none"),
    ],
)
def test_a_pipeline_that_kubeflow_cannot_parse_is_refused(kubeflow, posted, place, value):
    path, body = posted["inline"]
    status, answer = send(kubeflow, path, changed(body, ("pipeline_spec", *place), value))
    assert status == 400
    assert "pipeline" in answer["message"]


@pytest.mark.parametrize(
    ("changes", "status"),
    [
        ({"trigger": {}}, 400),
        ({"trigger": {"cron_schedule": {"cron": "daily"}}}, 400),
        ({"trigger": {"cron_schedule": {"cron": "0 0 2 * * *", "start_time": "tomorrow"}}}, 400),
        ({"trigger": {"periodic_schedule": {"interval_second": "soon"}}}, 400),
        ({"trigger": {"periodic_schedule": {"interval_second": 0}}}, 400),
        ({"max_concurrency": 99}, 400),
        ({"mode": "SOMETIMES"}, 400),
        ({"mode": None}, 400),
        ({"experiment_id": "0"}, 404),
        ({"pipeline_spec": {"pipelineInfo": {"name": "x"}}}, 400),
        ({"display_name": ""}, 400),
    ],
)
def test_a_recurring_run_that_cannot_be_is_refused(kubeflow, posted, changes, status):
    path, body = posted["RecurringRunService_CreateRecurringRun"]
    before = dict(kubeflow.state.recurring)
    assert send(kubeflow, path, body | changes)[0] == status
    assert kubeflow.state.recurring == before


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("GET", "/apis/v2beta1/runs?page_sise=3"),
        ("GET", "/apis/v2beta1/runs?page_size=many"),
        ("GET", "/apis/v2beta1/runs?filter=%7B%22no%22%3A1%7D"),
        ("GET", "/apis/v2beta1/nothing"),
        ("PUT", "/apis/v2beta1/runs"),
        ("POST", "/apis/v2beta1/runs"),
    ],
)
def test_what_the_description_does_not_know_is_refused(kubeflow, method, path):
    answer = urllib3.request(method, kubeflow.url + path, retries=False, timeout=10)
    assert answer.status == 400


def test_an_integer_of_64_bits_goes_as_a_number_and_comes_back_as_a_string(kubeflow, posted):
    path, body = posted["RecurringRunService_CreateRecurringRun"]
    assert body["max_concurrency"] == 1
    assert send(kubeflow, path, body)[1]["max_concurrency"] == "1"
    assert send(kubeflow, path, body | {"max_concurrency": "1"})[0] == 200


def test_a_recurring_run_goes_all_the_way_round(kubeflow, client, posted):
    [listed] = client.list_recurring_runs(page_size=10).recurring_runs
    made = client.get_recurring_run(listed.recurring_run_id)
    assert (made.display_name, made.status, made.trigger.cron_schedule.cron) == ("nightly", "ENABLED", "0 0 2 * * *")
    client.disable_recurring_run(made.recurring_run_id)
    assert client.get_recurring_run(made.recurring_run_id).status == "DISABLED"
    client.enable_recurring_run(made.recurring_run_id)
    assert client.get_recurring_run(made.recurring_run_id).status == "ENABLED"
    client.delete_recurring_run(made.recurring_run_id)
    assert not client.list_recurring_runs().recurring_runs
    with pytest.raises(Exception, match="404"):
        client.get_recurring_run(made.recurring_run_id)


def test_a_run_goes_all_the_way_round(kubeflow, client, posted):
    listed = client.list_runs(page_size=1)
    assert listed.next_page_token
    more = client.list_runs(page_size=1, page_token=listed.next_page_token)
    names = {run.display_name for run in (*listed.runs, *more.runs)}
    assert names == {"inline", "by reference"}
    run = listed.runs[0].run_id
    client.terminate_run(run)
    assert client.get_run(run).state == "CANCELING"
    client.delete_run(run)
    assert run not in kubeflow.state.runs


def test_an_upload_that_is_no_pipeline_is_refused(client, version, tmp_path):
    (tmp_path / "other.yaml").write_text(json.dumps({"pipelineInfo": {"name": "x", "colour": "red"}}))
    with pytest.raises(Exception, match="colour"):
        client.upload_pipeline_version(str(tmp_path / "other.yaml"), "v2", pipeline_id=version.pipeline_id)
