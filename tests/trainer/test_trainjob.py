"""A TrainJob of two nodes in two real containers, through the container backend of the Kubeflow SDK.

Needs a container engine and the image `train` ($MEDLOOP_TEST_TRAIN_IMAGE names another one): see `.ci/containers`.
"""

import json
import os
import subprocess
import sys
import threading
import time
from pathlib import Path

import docker
import numpy as np
import pyarrow.parquet as pq
import pytest
from docker.errors import DockerException, ImageNotFound
from kubeflow.trainer import ContainerBackendConfig, TrainerClient, TrainingRuntimeSource

from medloop import params
from medloop.errors import Refused
from medloop.trainer import trainjob
from medloop.training import node
from medloop_pipelines import building
from synthetic import write_arrays

RUNTIMES = Path(__file__).resolve().parents[2] / "infra/k8s/trainer/runtime.yaml"
MEMBER = Path(__file__).resolve().parents[1] / "training/member.py"
IMAGE = os.environ.get("MEDLOOP_TEST_TRAIN_IMAGE") or building.reference("train")
JOB = params.TrainJob(runtime="medloop-train", image=IMAGE, cpu="1", memory="2Gi")
SECTION = params.Train(
    architectures=("lstm",),
    backend="jax",
    epochs=8,
    patience=8,
    batch_size=16,  # 1002 samples: the last batch is uneven, and holds more of one node than of the other
    augment=params.Augment(rotate_deg=5, flip_horizontal=True, noise=0.05),
    hyper={"lstm": {"units": 8, "dropout": 0.2}},
)
TOGETHER = SECTION.model_copy(update={"nodes": 2})
SECONDS = 400


def _missing():
    try:
        docker.from_env().images.get(IMAGE)
    except ImageNotFound:
        return f"no image {IMAGE}: medloop images build train"
    except DockerException:
        return "no container engine answers"
    return None


pytestmark = pytest.mark.skipif(bool(_missing()), reason=str(_missing()))


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    """A home of its own, in which the backend keeps the folder that it mounts."""
    with pytest.MonkeyPatch.context() as patch:
        folder = tmp_path_factory.mktemp("home")
        patch.setenv("HOME", str(folder))
        yield folder


@pytest.fixture(scope="module")
def client(home):
    config = ContainerBackendConfig(
        pull_policy="Never",
        auto_remove=False,  # the folder outlives a job, as a volume does
        container_host=os.environ.get("DOCKER_HOST", "unix:///var/run/docker.sock"),
        container_runtime="docker",
        runtime_source=TrainingRuntimeSource(sources=[f"file://{RUNTIMES}"]),
    )
    return TrainerClient(config)


@pytest.fixture
def place(home):
    def made(name):
        folder = home / ".kubeflow/trainer/containers" / name
        folder.mkdir(parents=True, exist_ok=True)
        folder.chmod(0o777)  # the nodes run as another user
        return trainjob.Place(folder, "/workspace")

    return made


@pytest.fixture(scope="module")
def arrays(tmp_path_factory):
    return write_arrays(tmp_path_factory.mktemp("data") / "arrays", size=(16, 16, 1), train=1002, signal=5)


@pytest.fixture(scope="module")
def alone(arrays, tmp_path_factory):
    """The model of one process that nobody disturbs, outside of any container."""
    folder = tmp_path_factory.mktemp("alone")
    env = {**os.environ, "SECTION": SECTION.model_dump_json(), "PYTHONPATH": os.pathsep.join(sys.path)}
    command = [sys.executable, str(MEMBER), str(arrays), str(folder / "model")]
    subprocess.run(command, env=env | {"MEDLOOP_STATE": str(folder / "state")}, check=True)
    return folder / "model"


def assert_alike(one, other):
    """Hold the losses, metrics and logits of two models together."""
    names = ["loss", "val_loss", "val_auc"]
    first, second = (pq.read_table(model / "history.parquet").to_pandas()[names] for model in (one, other))
    print("largest difference of a loss or a metric:", (first - second).abs().max().max())
    np.testing.assert_allclose(second, first, atol=1e-5, rtol=0)
    tables = (pq.read_table(model / "validation.parquet").to_pandas() for model in (one, other))
    np.testing.assert_allclose(*(table[["output_0", "output_1"]] for table in tables), atol=1e-4, rtol=0)


def test_two_nodes_in_two_containers_come_to_what_one_process_comes_to(client, place, arrays, alone, tmp_path, capfd):
    scores = trainjob.train(
        params.Base(), TOGETHER, arrays=arrays, model=tmp_path / "model", job=JOB, client=client, place=place
    )
    said = capfd.readouterr().err
    assert_alike(alone, tmp_path / "model")
    assert scores == json.loads((tmp_path / "model/card.json").read_text())["validation"]
    name = trainjob.job_name(params.Base(), TOGETHER, arrays)
    assert {"node-0: Running", "node-1: Running", f"{name}: Complete"} <= set(said.splitlines())
    assert "node-0 | lstm 8/8 epochs" in said
    assert client.list_jobs() == []
    assert not (place("x").here.parent / name).exists()


def _kill_after_a_checkpoint(folder, container, killed):
    """Kill a container once an epoch is whole."""
    deadline = time.monotonic() + SECONDS
    while not list(folder.glob(f"{node.STATE}/checkpoints/*/state.npz")):
        if time.monotonic() > deadline:
            return  # the job then ends well, and the test fails
        time.sleep(0.01)
    docker.from_env().containers.get(container).kill()
    killed.append(container)


def test_a_node_that_is_killed_is_named_and_the_next_job_goes_on_after_the_last_whole_epoch(
    client, place, arrays, alone, tmp_path, capfd
):
    name = trainjob.job_name(params.Base(), TOGETHER, arrays)
    killed = []
    killer = threading.Thread(target=_kill_after_a_checkpoint, args=(place(name).here, f"{name}-node-1", killed))
    killer.start()
    asked = {"arrays": arrays, "model": tmp_path / "model", "job": JOB, "client": client, "place": place}
    message = rf"TrainJob {name} failed: node-1 ended without a reason.*node-0: node 1 of 2 is gone"
    with pytest.raises(Refused, match=message):
        trainjob.train(params.Base(), TOGETHER, **asked)
    killer.join()
    assert killed
    assert client.list_jobs() == []
    assert not (tmp_path / "model").exists()
    [kept] = (place(name).here / node.STATE / "checkpoints").glob("*/state.npz")
    with np.load(kept) as state:
        reached = json.loads(str(state["state"]))["epoch"]
    print(f"killed in epoch {reached + 1} of 8")
    assert 1 <= reached < 8
    capfd.readouterr()

    trainjob.train(params.Base(), TOGETHER, **asked)
    said = capfd.readouterr().err
    assert f"lstm {reached}/8 epochs" not in said
    assert f"lstm {reached + 1}/8 epochs" in said
    assert_alike(alone, tmp_path / "model")
