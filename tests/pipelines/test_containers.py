"""The images that `medloop images build` made, and the pipeline with every step in a container.

Needs a container engine and the images: `.ci/containers` starts the one and builds the others. Takes about two minutes.
"""

import base64
import json
import shutil
import subprocess
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager, suppress

import docker
import pytest
from docker.errors import DockerException
from kfp import dsl, local

import support
import toy_registry
import wards
from medloop import kubeflow, provenance
from medloop.kinds.image import file_of as encoded
from medloop.tracking import packaging
from medloop_pipelines import building, containers
from support import Project
from wards import SAME, STAGES

MAX_SERVE_MB = 500  # without the base
PARTS = ((2, "ingest-part/part"), (4, "preprocess-part/arrays"), (4, "preprocess-part/holdout"))
LACKING = "import importlib.util as u, sys; print(*(n for n in sys.argv[1:] if u.find_spec(n)))"


def _engine():
    try:
        client = docker.from_env()
        client.ping()
    except DockerException:
        return None
    return client


ENGINE = _engine()
MISSING = [] if ENGINE is None else [each for each in building.TARGETS if not building.inspect(each, engine="docker")]
pytestmark = pytest.mark.skipif(
    ENGINE is None or bool(MISSING),
    reason="no container engine answers"
    if ENGINE is None
    else f"not built: {', '.join(MISSING)}: medloop images build",
)


def inside(target, *command):
    """Return what a command prints in a container without network, root or a root file system to write to."""
    locked = {"read_only": True, "tmpfs": {"/tmp": ""}, "network_mode": "none", "cap_drop": ["ALL"], "remove": True}
    return ENGINE.containers.run(building.reference(target), list(command), **locked).decode().strip()


@pytest.mark.parametrize("target", building.TARGETS)
def test_an_image_says_what_it_is_and_runs_without_root(target):
    config = ENGINE.images.get(building.reference(target)).attrs["Config"]
    labels = config["Labels"]
    assert labels["org.opencontainers.image.title"] == f"medloop-{target}"
    assert len(labels["org.opencontainers.image.revision"]) == 40
    assert config["User"] == "65532:65532"
    assert config["Healthcheck"]["Test"][0] == "CMD"
    assert inside(target, "id", "-u") == "65532"
    with pytest.raises(docker.errors.ContainerError, match=r"Read-only file system|Permission denied"):
        inside(target, "touch", "/opt/medloop/x")


@pytest.mark.parametrize(
    ("target", "absent"),
    [
        ("light", ["tensorflow", "jax"]),
        ("serve", ["tensorflow", "kfp", "medloop"]),
        ("stack", ["tensorflow", "kfp", "jax"]),
        ("train", []),
    ],
)
def test_an_image_holds_what_it_needs_and_no_more(target, absent):
    asked = ["medloop", "kfp", "tensorflow", "jax", "onnxruntime"]
    found = inside(target, "python3", "-c", LACKING, *asked).split()
    assert not set(found) & set(absent)
    assert found, "something is there"
    assert "PIP_INDEX_URL" not in json.dumps(ENGINE.images.get(building.reference(target)).history())


def test_the_serving_image_is_small():
    size = inside("serve", "du", "-sm", "/opt/medloop").split()[0]
    assert int(size) < MAX_SERVE_MB


@pytest.mark.parametrize("target", building.TARGETS)
def test_a_bill_of_materials_lists_what_is_inside(target):
    path = support.ROOT / building.SBOM / f"medloop-{target}-{building.__version__}.cdx.json"
    if not path.exists():
        pytest.skip(f"the image was built elsewhere: no {path.name}")
    bill = json.loads(path.read_text())
    assert bill["bomFormat"] == "CycloneDX"
    assert all(each["externalReferences"][0]["hashes"] for each in bill["components"])
    found = inside(target, "python3", "-c", building.INSTALLED).split()
    wanted = {building._normal(line) for line in found if not line.startswith("medloop==")}
    assert {building._normal(f"{each['name']}=={each['version']}") for each in bill["components"]} == wanted


def test_the_model_server_answers_as_the_model_does(tmp_path):
    toy_registry.make(tmp_path)
    card = json.loads((tmp_path / "evaluation/card.json").read_text())
    with packaging.packaged(tmp_path / "models/cnn", card, model_id="m-0", run_id="0") as made:
        shutil.copytree(made, tmp_path / "pyfunc")
    for path in (tmp_path, *tmp_path.rglob("*")):
        path.chmod(0o755 if path.is_dir() else 0o644)
    _, images = toy_registry.images(toy_registry.Toy(), tmp_path / "samples")
    rows = [[base64.b64encode(encoded(image[..., 0], 8)).decode()] for image in images[:3]]
    server = ENGINE.containers.run(
        building.reference("serve"),
        ["uvicorn", "--app-dir", "/opt/medloop/server", "serve:app", "--host", "127.0.0.1", "--port", "18431"],
        detach=True,
        read_only=True,
        tmpfs={"/tmp": ""},
        cap_drop=["ALL"],
        network_mode="host",
        volumes={str(tmp_path / "pyfunc"): {"bind": "/model", "mode": "ro"}},
    )
    try:
        wait_for(lambda: urllib.request.urlopen("http://127.0.0.1:18431/health", timeout=1).status == 200, server)
        asked = urllib.request.Request(
            "http://127.0.0.1:18431/invocations",
            json.dumps({"dataframe_split": {"columns": ["image"], "data": rows}}).encode(),
            {"Content-Type": "application/json"},
        )
        answer = json.loads(urllib.request.urlopen(asked, timeout=30).read())["predictions"]
    finally:
        server.remove(force=True)
    from medloop.answers.classification import probabilities
    from medloop.inference import Network

    wanted = probabilities(Network(tmp_path / "models/cnn/model.onnx").outputs(images[:3]), card["temperature"])
    assert [row["p_nodule"] for row in answer] == pytest.approx(wanted[:, 1].tolist())


def test_the_image_of_the_stack_runs_its_servers_and_backs_them_up_as_the_cluster_does():
    """All of it without root, network or a root file system to write to."""
    script = """set -e
    medloop stack up --folder /tmp/stack
    set -a; . /tmp/stack/stack.env; set +a
    medloop registry backup /tmp/backups
    medloop registry backups /tmp/backups --verify
    medloop registry restore /tmp/backups
    medloop stack status --folder /tmp/stack"""
    said = inside("stack", "sh", "-c", script)
    assert "2 databases, 0 objects" in said
    assert "every digest holds" in said
    assert "restored in" in said


def wait_for(condition, container, seconds=240):
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        with suppress(OSError):
            if condition():
                return
        container.reload()
        if container.status != "running":
            break
        time.sleep(0.3)
    pytest.fail(container.logs().decode())


@pytest.fixture(scope="module")
def project(tmp_path_factory) -> Project:
    """A project after a pipeline run in processes, and one in containers and shards, of the same parameters."""
    project = wards.project(tmp_path_factory.mktemp("containers"))
    for runner, shards in (("subprocess", 1), ("docker", 2)):
        command = ["medloop", "pipeline", "run", "--runner", runner, "--root", f"artifacts/{runner}"]
        project.run(*command, "--set", f"pipeline.shards={shards}")
    return project


def steps(project, runner):
    [folder] = [path for path in (project.folder / "artifacts" / runner).iterdir() if path.is_dir()]
    return folder


def test_every_step_ran_in_its_own_container(project):
    folder = steps(project, "docker")
    assert {path.name for path in folder.iterdir() if not path.name.startswith("for-loop-")} == set(STAGES)
    parts = [f"for-loop-{loop}-iteration-{shard}/{part}" for loop, part in PARTS for shard in range(2)]
    digests = {target: ENGINE.images.get(building.reference(target)).id for target in ("light", "train")}
    for output in [*SAME, *parts]:
        lineage = provenance.read_lineage(folder / output)
        target = "light" if lineage["stage"].startswith(("ingest", "preprocess")) else "train"
        assert lineage["image_digest"] == digests[target]


@pytest.mark.parametrize("output", ["ingest/samples", "preprocess/arrays", "preprocess/holdout"])
def test_containers_and_processes_write_the_same_samples_and_arrays(project, output):
    came, wanted = (
        provenance.verify(steps(project, runner) / output)["outputs"] for runner in ("docker", "subprocess")
    )
    assert came == wanted


def test_containers_and_processes_train_the_same_weights(project):
    cards = [
        json.loads((steps(project, runner) / step / "model/card.json").read_text())["weights_sha256"]
        for step in ("train", "train-2")
        for runner in ("docker", "subprocess")
    ]
    assert cards[0] == cards[1]
    assert cards[2] == cards[3]


def test_no_step_in_a_container_names_a_patient(project):
    texts = [path.read_bytes() for path in steps(project, "docker").rglob("*") if path.is_file()]
    assert not any(support.CANARY.encode() in text for text in [*texts, project.output.encode()])


def test_forty_steps_that_fail_are_forty_failures(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    image = building.reference("light")

    @dsl.container_component
    def fail():
        return dsl.ContainerSpec(image=image, command=["sh", "-c", "exit 1"])

    with containers.reliable([image], tmp_path / "runs"):
        local.init(local.DockerRunner(), pipeline_root=str(tmp_path / "runs"))
        for _ in range(40):
            with pytest.raises(RuntimeError, match="FAILURE"):
                fail()
    assert not [each for each in ENGINE.containers.list(all=True) if image in each.image.tags]


@contextmanager
def changed(name: str, command: str) -> Iterator[str]:
    """An image like `light`, in whose medloop a command was run."""
    there = "/opt/medloop/lib/python3*/site-packages/medloop"
    file = f"FROM {building.reference('light')}\nUSER root\nRUN cd {there} && {command}"
    build = ["docker", "build", "--quiet", "--tag", name, "-"]
    subprocess.run(build, input=file, text=True, check=True, capture_output=True)
    yield name
    ENGINE.images.remove(name)


@pytest.fixture(scope="module")
def other_version():
    """An image like `light`, of another medloop."""
    with changed("medloop-other:9", "sed -i s/0.1.0/9.9.9/ __init__.py") as name:
        yield name


@pytest.fixture(scope="module")
def other_code():
    """An image like `light`, built before somebody added an architecture."""
    with changed("medloop-before:1", "rm models/vit.py") as name:
        yield name


def test_what_cannot_run_is_refused_by_the_command_before_the_first_step(other_version, other_code, tmp_path):
    project = wards.project(tmp_path)

    def refusal(stage, image, **env):
        env[f"MEDLOOP_IMAGE_{stage.upper()}"] = image
        command = ("medloop", "pipeline", "run", "--runner", "docker", "--root", str(tmp_path / "run"))
        said = project.run(*command, fails=True, **env)
        assert {path.name for path in (tmp_path / "run").rglob("*")} == {"pipeline.yaml"}, "a step began"
        [line] = [line for line in said.splitlines() if line.startswith("medloop: ")]
        assert "Traceback" not in said
        return project.returncode, line.removeprefix("medloop: ")

    ours = building.__version__
    remedy = f"build it again from medloop {ours} (`medloop images build`), or name another under pipeline.images"
    without_kfp = building.reference("serve")
    assert refusal("ingest", "medloop-none:1") == (
        2,
        "there is no image medloop-none:1 here: build it (`medloop images build`), or pull it",
    )
    assert refusal("train", without_kfp) == (
        2,
        f"image {without_kfp} cannot run a step (ModuleNotFoundError: No module named 'kfp'): {remedy}",
    )
    assert refusal("validate", other_version) == (
        2,
        f"image {other_version} holds medloop 9.9.9, this is medloop {ours}: {remedy}",
    )
    assert refusal("preprocess", other_code) == (
        2,
        f"image {other_code} holds other code of medloop {ours} than this folder: {remedy}",
    )
    code, said = refusal("ingest", "medloop-none:1", DOCKER_HOST=f"unix://{tmp_path}/nobody.sock")
    assert (code, said.partition(" (")[0]) == (4, f"no container engine answers at unix://{tmp_path}/nobody.sock")


def test_a_step_finds_out_itself_that_its_image_is_another_medloop(other_version):
    """On a cluster nobody looks into the images before the first step."""
    step = "from medloop import kubeflow\nwith kubeflow.step('ingest'): print('began')"
    container = ENGINE.containers.run(
        other_version,
        ["python3", "-c", step],
        environment={kubeflow.VERSION: building.__version__},
        read_only=True,
        detach=True,
    )
    try:
        assert container.wait()["StatusCode"] == 2
        said = container.logs().decode()
    finally:
        container.remove(force=True)
    assert f"this image holds medloop 9.9.9, the pipeline was compiled by medloop {building.__version__}" in said
    assert "began" not in said
