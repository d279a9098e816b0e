"""`medloop images push` to a real registry on loopback, and what it prints pulled from there."""

import hashlib
import json
import os
import re
import shutil
import socket
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Iterator
from contextlib import suppress

import pytest

import support
from medloop_pipelines import building

PUSHED = "serve"  # the smallest
READY_SECONDS = 20
CONFIG = "version: 0.1\nstorage: {{filesystem: {{rootdirectory: {root}}}}}\nhttp: {{addr: '127.0.0.1:{port}'}}\n"


@pytest.fixture(scope="module", params=building.ENGINES)
def engine(request) -> str:
    """Each engine that is here and has the image."""
    if not shutil.which(request.param):
        pytest.skip(f"no {request.param} here")
    if building.inspect(PUSHED, engine=request.param) is None:
        pytest.skip(f"{request.param} answers with no image {building.reference(PUSHED)}: medloop images build")
    return request.param


@pytest.fixture(scope="module")
def registry(tmp_path_factory) -> Iterator[str]:
    """The address of a registry without a password, as one may be on loopback."""
    binary = shutil.which("docker-registry") or shutil.which("registry")
    if binary is None:
        pytest.skip("no image registry here: Debian's package docker-registry is one")
    folder = tmp_path_factory.mktemp("registry")
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    (folder / "config.yml").write_text(CONFIG.format(root=folder / "data", port=port))
    with (folder / "log").open("w") as log:
        process = subprocess.Popen([binary, "serve", folder / "config.yml"], stdout=log, stderr=log)
    try:
        deadline = time.monotonic() + READY_SECONDS
        while time.monotonic() < deadline and process.poll() is None:
            with suppress(OSError), urllib.request.urlopen(f"http://127.0.0.1:{port}/v2/", timeout=1):
                break
            time.sleep(0.1)
        else:
            pytest.fail((folder / "log").read_text())
        yield f"127.0.0.1:{port}"
    finally:
        process.terminate()
        process.wait(10)
        shutil.rmtree(folder / "data", ignore_errors=True)


def medloop(*words: str, **env: str) -> subprocess.CompletedProcess:
    command = [sys.executable, "-c", "from medloop.cli import main; main()", "images", *words]
    return subprocess.run(command, cwd=support.ROOT, env=os.environ | env, capture_output=True, text=True, timeout=500)


def tags(engine: str) -> str:
    return subprocess.run([engine, "images"], capture_output=True, text=True, check=True).stdout


@pytest.fixture
def unencrypted(registry, tmp_path) -> dict[str, str]:
    """What lets podman and buildah push without TLS; docker does so to loopback of itself."""
    (tmp_path / "registries.conf").write_text(f"[[registry]]\nlocation = '{registry}'\ninsecure = true\n")
    return {"CONTAINERS_REGISTRIES_CONF": str(tmp_path / "registries.conf")}


@pytest.fixture
def elsewhere(engine) -> Iterator[list[str]]:
    """The engine with a storage of its own, into which it must fetch all; docker has but one."""
    with tempfile.TemporaryDirectory() as folder:  # podman takes no longer path than 50 letters
        own = [f"--root={folder}/storage", f"--runroot={folder}/run", "--storage-driver=vfs"]
        yield [engine, *(own if engine != "docker" else [])]


def test_what_push_prints_is_what_a_registry_gives(engine, registry, unencrypted, elsewhere):
    pushed = medloop("push", f"{registry}/team-{engine}", PUSHED, "--engine", engine, **unencrypted)
    assert pushed.returncode == 0, pushed.stderr
    repository = f"team-{engine}/medloop-{PUSHED}"
    printed = re.fullmatch(rf"{registry}/{repository}@(sha256:[0-9a-f]{{64}})\n", pushed.stdout)
    assert printed, pushed.stdout
    accepted = "application/vnd.docker.distribution.manifest.v2+json, application/vnd.oci.image.manifest.v1+json"
    asked = urllib.request.Request(
        f"http://{registry}/v2/{repository}/manifests/{printed[1]}", headers={"Accept": accepted}
    )
    with urllib.request.urlopen(asked, timeout=10) as answer:
        assert f"sha256:{hashlib.sha256(answer.read()).hexdigest()}" == printed[1]
    reference = pushed.stdout.strip()
    pulled = subprocess.run(
        [*elsewhere, "pull", reference], env=os.environ | unencrypted, capture_output=True, text=True, timeout=400
    )
    assert pulled.returncode == 0, pulled.stderr
    if engine == "docker":
        [image] = json.loads(
            subprocess.run([engine, "image", "inspect", reference], capture_output=True, check=True).stdout
        )
        assert image["Id"] == building.inspect(PUSHED, engine=engine).identifier
        for name in (reference, f"{registry}/{repository}:{building.__version__}"):
            subprocess.run([engine, "rmi", "--no-prune", name], capture_output=True)
    assert building.inspect(PUSHED, engine=engine) is not None


def test_a_registry_that_does_not_answer_is_named_and_leaves_no_tag(engine):
    pushed = medloop("push", "127.0.0.1:9/team", PUSHED, "--engine", engine)
    assert (pushed.returncode, pushed.stdout) == (2, "")
    [line] = pushed.stderr.splitlines()
    assert line.startswith(f"medloop: {engine} could not push 127.0.0.1:9/team/{building.reference(PUSHED)}: ")
    assert "connection refused" in line
    assert line.endswith(f"check the registry's address, and that `{engine} login` has let you in")
    assert "127.0.0.1:9/team" not in tags(engine)


def test_an_image_that_is_not_built_is_refused(engine, monkeypatch):
    monkeypatch.setattr(building, "__version__", "0.0.0")
    with pytest.raises(building.Refused, match=r"there is no image medloop-serve:0\.0\.0: build it first"):
        building.push(PUSHED, "127.0.0.1:9/team", engine=engine)
