"""The step that trains on several hosts, through the Kubernetes backend of the SDK, against a stand-in."""

import json
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
import yaml
from kubeflow.trainer import KubernetesBackendConfig, TrainerClient
from kubeflow_trainer_api import models

import medloop_pipelines
import trainer_api
from medloop import params, provenance
from medloop.errors import Conflict, Refused, Unreachable
from medloop.trainer import api, trainjob
from medloop.training import node
from synthetic import write_arrays

FOLDER = Path(__file__).resolve().parents[2] / "infra/k8s/trainer"
JOB = params.TrainJob(runtime="medloop-train", image="medloop-train:1", cpu="2", memory="4Gi")
SECTION = params.Train(
    architectures=("lstm",), backend="jax", nodes=2, epochs=2, batch_size=16, hyper={"lstm": {"units": 4}}
)


@pytest.fixture
def cluster(tmp_path):
    with trainer_api.serving(tmp_path / "nodes") as server:
        yield server


def client_of(cluster):
    return TrainerClient(KubernetesBackendConfig(namespace="team", client_configuration=cluster.configuration))


def train(cluster, folder, section=SECTION, job=JOB):
    return trainjob.train(
        params.Base(),
        section,
        arrays=folder / "arrays",
        model=folder / "out/model",
        job=job,
        client=client_of(cluster),
        place=lambda name: trainjob.Place(folder / "shared" / name, str(folder / "shared" / name)),
    )


def test_a_job_runs_on_the_nodes_brings_its_model_home_and_leaves_nothing(cluster, tmp_path, capfd):
    write_arrays(tmp_path / "arrays", signal=5)
    scores = train(cluster, tmp_path)
    assert scores == json.loads((tmp_path / "out/model/card.json").read_text())["validation"]
    assert provenance.verify(tmp_path / "out/model")["stage"] == "train"
    said = capfd.readouterr().err
    assert "node-0: Running" in said
    assert "node-0 | lstm 2/2 epochs" in said
    assert cluster.jobs == {}
    assert list((tmp_path / "shared").iterdir()) == []


def test_a_node_that_refuses_is_named_with_its_reason(cluster, tmp_path):
    write_arrays(tmp_path / "arrays", train=15)
    with pytest.raises(Refused, match=r"node-0: 15 training samples make one batch, which 2 devices.*node-1: 15 train"):
        train(cluster, tmp_path)
    assert cluster.jobs == {}


def test_what_is_asked_for_each_node(cluster, tmp_path, monkeypatch):
    asked = {}
    monkeypatch.setattr(cluster, "start", lambda job: asked.update(job["spec"]) or _stop())
    write_arrays(tmp_path / "arrays")
    gpus = SECTION.model_copy(update={"gpus_per_node": 4})
    with pytest.raises(Refused, match=r"Kubernetes refused: Failed to create TrainJob.*status 422"):
        train(cluster, tmp_path, gpus, JOB.model_copy(update={"accelerator": "nvidia.com/gpu"}))
    assert asked["runtimeRef"] == {"kind": "TrainingRuntime", "name": "medloop-train"} | asked["runtimeRef"]
    trainer = asked["trainer"]
    assert (trainer["image"], trainer["numNodes"]) == ("medloop-train:1", 2)
    assert trainer["resourcesPerNode"]["limits"] == {"cpu": "2", "memory": "4Gi", "nvidia.com/gpu": 4}
    assert {each["name"] for each in trainer["env"]} == {"MEDLOOP_HOSTS"}, "a TrainJob can be read by many"


@pytest.mark.parametrize("gpus", [0, 1])
def test_a_node_on_an_accelerator_gets_one_where_no_number_is_given(cluster, tmp_path, monkeypatch, gpus):
    asked = {}
    monkeypatch.setattr(cluster, "start", lambda job: asked.update(job["spec"]) or _stop())
    write_arrays(tmp_path / "arrays")
    section = SECTION.model_copy(update={"gpus_per_node": gpus})
    with pytest.raises(Refused, match="status 422"):
        train(cluster, tmp_path, section, JOB.model_copy(update={"accelerator": "nvidia.com/gpu"}))
    assert asked["trainer"]["resourcesPerNode"]["limits"]["nvidia.com/gpu"] == 1


def test_a_job_that_somebody_deletes_is_said_to_be_deleted(cluster, tmp_path, monkeypatch):
    monkeypatch.setattr(trainjob, "POLL_S", 0.2)
    write_arrays(tmp_path / "arrays", size=(32, 32, 1), train=2000)
    section = SECTION.model_copy(update={"epochs": 5000, "patience": 5000})

    def delete():
        while not cluster.jobs:
            time.sleep(0.1)
        cluster.remove(*cluster.jobs)

    other = threading.Thread(target=delete)
    other.start()
    with pytest.raises(Refused, match=r"TrainJob medloop-lstm-\w+ was deleted while it ran: run the step again"):
        train(cluster, tmp_path, section)
    other.join()


def test_a_shared_volume_that_cannot_be_written_is_refused_with_the_user_it_needs(cluster, tmp_path):
    write_arrays(tmp_path / "arrays")
    (tmp_path / "shared").write_text("a file where the volume should be, as root may write into any folder")
    with pytest.raises(Refused, match=rf"cannot be written to at .*shared .*user {os.getuid()} must be able to"):
        train(cluster, tmp_path)
    assert cluster.nodes == {}


def _stop():
    raise RuntimeError("seen enough")


def test_a_step_that_is_cancelled_deletes_its_job(cluster, tmp_path):
    write_arrays(tmp_path / "arrays", size=(32, 32, 1), train=2000)
    code = f"""
import sys
from pathlib import Path
from kubernetes.client import Configuration
sys.path[:0] = {[str(each) for each in sys.path]!r}
import test_api as t

class Remote:
    configuration = Configuration(host="http://127.0.0.1:{cluster.server_port}")

section = t.SECTION.model_copy(update={{"epochs": 5000, "patience": 5000}})
t.train(Remote, Path({str(tmp_path)!r}), section)
"""
    env = {**os.environ, "PYTHONPATH": str(Path(__file__).parent)}
    with subprocess.Popen([sys.executable, "-c", code], env=env, stderr=subprocess.PIPE, text=True) as step:
        deadline = time.monotonic() + 120
        while not cluster.jobs and time.monotonic() < deadline:
            time.sleep(0.1)
        [processes] = [list(nodes) for nodes in cluster.nodes.values()]
        step.send_signal(signal.SIGTERM)
        step.communicate(timeout=60)
    assert step.returncode == 128 + signal.SIGTERM
    assert cluster.jobs == {}
    assert all(process.poll() is not None for process, _ in processes)


def test_two_runs_that_train_the_same_do_not_meet(cluster, tmp_path, monkeypatch):
    monkeypatch.setattr(trainjob, "POLL_S", 0.1)
    write_arrays(tmp_path / "arrays")
    name = trainjob.job_name(params.Base(), SECTION, tmp_path / "arrays")
    lease = tmp_path / "shared" / name / node.LEASE
    lease.parent.mkdir(parents=True)
    lease.write_text("0")
    ended = threading.Event()

    def renew():
        while not ended.wait(0.05):
            trainjob._renew(lease)

    other = threading.Thread(target=renew)
    other.start()
    with pytest.raises(Conflict, match=f"another run trains the same right now as TrainJob {name}"):
        train(cluster, tmp_path)
    ended.set()
    other.join()
    assert not any(method == "POST" for method, _ in cluster.requests)


def test_a_node_ends_when_nobody_waits_for_it(tmp_path):
    code = (
        f"from medloop.training import node; from pathlib import Path; node._watch(Path({str(tmp_path)!r}) / 'x', 0.5)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=False)
    assert (done.returncode, done.stderr) == (
        2,
        "medloop: the step that waits for this job is gone, so the node stops\n",
    )


def test_a_node_waits_while_its_volume_does_not_answer_and_goes_on_when_it_does(tmp_path):
    """A volume that is away for less than the patience ends nobody: reading fails, then the lease is renewed again."""
    code = f"""
import pathlib, threading, time
from medloop.training import node
lease = pathlib.Path({str(tmp_path)!r}) / "lease"
node.LOOK_S = 0.1
lease.write_text("0")
threading.Thread(target=node._watch, args=(lease, 3.0), daemon=True).start()
for renewed in range(1, 5):
    lease.unlink()
    lease.mkdir()  # it cannot be read
    time.sleep(1.0)
    lease.rmdir()
    lease.write_text(str(renewed))
    time.sleep(0.5)
print("still here")
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=False)
    assert (done.returncode, done.stdout, done.stderr) == (0, "still here\n", "")


def test_a_node_of_another_version_refuses(tmp_path):
    node.ask(tmp_path, params.Base(), SECTION)
    request = json.loads((tmp_path / node.REQUEST).read_text())
    (tmp_path / node.REQUEST).write_text(json.dumps(request | {"medloop": "0.0.9"}))
    with pytest.raises(Refused, match=r"this node has medloop .*, the step that started it 0\.0\.9"):
        node._request(tmp_path)


@pytest.mark.parametrize(
    ("status", "message"),
    [
        (404, "this cluster has no TrainingRuntime 'medloop-train' or no Kubeflow Trainer .*apply infra/k8s/trainer"),
        (403, "the service account of this step may not use TrainJobs .*status 403.*with its roles"),
        (500, "Kubernetes refused: .*status 500"),
    ],
)
def test_a_cluster_that_will_not_is_told_from_its_remedy(cluster, status, message):
    cluster.status = status
    with pytest.raises(Refused, match=message), api.asking("medloop-train"):
        client_of(cluster).get_runtime("medloop-train")


def test_no_cluster_is_said_to_be_none(tmp_path, monkeypatch):
    monkeypatch.setenv("KUBECONFIG", str(tmp_path / "none"))
    monkeypatch.setattr("kubernetes.config.kube_config.KUBE_CONFIG_DEFAULT_LOCATION", str(tmp_path / "none"))
    with pytest.raises(Unreachable, match="takes a Kubernetes cluster, and there is none here"):
        api.cluster("medloop-train")
    with trainer_api.serving(tmp_path) as gone:
        configuration = gone.configuration
    client = TrainerClient(KubernetesBackendConfig(namespace="team", client_configuration=configuration))
    with pytest.raises(Unreachable, match="the Kubernetes API does not answer"), api.asking("medloop-train"):
        client.get_runtime("medloop-train")


def test_a_pipeline_for_several_nodes_mounts_their_volume_and_asks_for_no_gpu_itself(tmp_path):
    read = params.Params(
        schema_version=1,
        train=params.Train(architectures=("cnn",), backend="jax", nodes=3, gpus_per_node=2, batch_size=36),
        pipeline=params.Pipeline(
            accelerator="nvidia.com/gpu", images={"train": "registry/train:1"}, environment={"MEDLOOP_DATA": "/data"}
        ),
    )
    medloop_pipelines.compile(read, tmp_path / "pipeline.yaml")
    spec, platform = yaml.safe_load_all((tmp_path / "pipeline.yaml").read_text())
    executor = spec["deploymentSpec"]["executors"]["exec-train"]["container"]
    assert "accelerator" not in executor["resources"]
    [mount] = platform["platforms"]["kubernetes"]["deploymentSpec"]["executors"]["exec-train"]["pvcMount"]
    assert (mount["mountPath"], mount["constant"]) == ("/workspace", "medloop-train")
    inputs = spec["root"]["dag"]["tasks"]["train"]["inputs"]["parameters"]
    job = params.TrainJob.model_validate_json(inputs["job"]["runtimeValue"]["constant"])
    assert job == params.TrainJob(
        runtime="medloop-train",
        image="registry/train:1",
        cpu="2",
        memory="8Gi",
        accelerator="nvidia.com/gpu",
        environment={"MEDLOOP_DATA": "/data"},
    )


def test_on_one_machine_several_nodes_are_refused(tmp_path):
    read = params.Params(schema_version=1, train=params.Train(backend="jax", nodes=2))
    with pytest.raises(Refused, match=r"train\.nodes is 2, and here is one machine: `medloop pipeline submit`"):
        medloop_pipelines.run(read, tmp_path)
    assert list(tmp_path.iterdir()) == []


def documents():
    names = yaml.safe_load((FOLDER / "kustomization.yaml").read_text())["resources"]
    assert {f"{path.name}" for path in FOLDER.glob("*.yaml")} == {*names, "kustomization.yaml"}
    return [each for name in names for each in yaml.safe_load_all((FOLDER / name).read_text())]


def test_the_runtime_is_one_to_the_letter_of_kubeflow_trainer_and_stands_on_what_is_beside_it():
    kinds = {each["kind"]: each for each in documents()}
    runtime = kinds["TrainingRuntime"]
    parsed = models.TrainerV1alpha1TrainingRuntime.from_dict(runtime)
    assert json.loads(parsed.to_json()) == runtime
    [job] = runtime["spec"]["template"]["spec"]["replicatedJobs"]
    pod = job["template"]["spec"]["template"]
    [shared] = [each for each in pod["spec"]["volumes"] if each["name"] == "shared"]
    claim = kinds["PersistentVolumeClaim"]
    assert shared["persistentVolumeClaim"]["claimName"] == claim["metadata"]["name"] == params.Pipeline().trainer.claim
    assert claim["spec"]["accessModes"] == ["ReadWriteMany"]
    assert runtime["metadata"]["name"] == params.Pipeline().trainer.runtime
    policy = kinds["NetworkPolicy"]["spec"]
    assert policy["podSelector"]["matchLabels"].items() <= pod["metadata"]["labels"].items()
    assert kinds["RoleBinding"]["roleRef"]["name"] == kinds["Role"]["metadata"]["name"]


def test_the_role_allows_what_the_step_asks_and_nothing_else(cluster, tmp_path):
    """What the stand-in was asked, told in the words of a Role."""
    write_arrays(tmp_path / "arrays", train=15)
    with pytest.raises(Refused):
        train(cluster, tmp_path)
    verbs = {"POST": "create", "DELETE": "delete", "GET": "get"}
    asked = set()
    for method, path in cluster.requests:
        if "configmaps" in path:  # a check of the SDK that may fail
            continue
        _, _, rest = path.partition("/namespaces/team/")
        parts = rest.split("/")
        resource = parts[0] + (f"/{parts[2]}" if len(parts) > 2 else "")
        asked.add((resource, "list" if method == "GET" and len(parts) == 1 else verbs[method]))
    [role] = [each for each in documents() if each["kind"] == "Role"]
    allowed = {(name, verb) for rule in role["rules"] for name in rule["resources"] for verb in rule["verbs"]}
    assert asked == allowed
