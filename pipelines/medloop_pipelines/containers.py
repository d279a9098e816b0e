"""Runs the steps of a local pipeline in containers, and tells a failed one from a good one.

kfp 2.17 removes a container as it ends, and takes one that is gone before it was asked for its exit code for a good
one. Here a container is removed after it was asked.
"""

import os
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import docker
from docker.errors import DockerException, ImageNotFound
from kfp.local import docker_task_handler

from medloop import privacy
from medloop.errors import Refused, Unreachable

PASSED = ("MLFLOW_TRACKING_URI", "MLFLOW_TRACKING_USERNAME", "MLFLOW_TRACKING_PASSWORD", "MEDLOOP_DATA")
HERE = ("MEDLOOP_KEY_FILE", "MEDLOOP_STATE")  # stand elsewhere on a cluster
HOLDS = (  # version and code; images of before this have no such digest
    "import kfp, medloop; from medloop import provenance; "
    "print(medloop.__version__, getattr(provenance, 'own_code', str)())"
)


@contextmanager
def reliable(images: Iterable[str], root: Path) -> Iterator[None]:
    """Have kfp's DockerRunner run its containers through `run`, which see the working folder and `root`.

    Raises:
        Unreachable: no container engine answers.
        Refused: an image is not there, lacks kfp, or holds another medloop.
    """
    from medloop import __version__, provenance

    try:
        client = docker.from_env()
        client.ping()
    except DockerException as error:
        raise Unreachable(
            f"no container engine answers at {os.environ.get('DOCKER_HOST', 'the default address')} "
            f"({type(error).__name__}): start one, or set DOCKER_HOST"
        ) from None
    for image in images:
        _check(client, image, __version__, provenance.own_code())
    kfps = docker_task_handler.run_docker_container
    root.mkdir(parents=True, exist_ok=True)

    def ours(client: Any, image: str, command: list[str], **settings: Any) -> int:
        asked = settings.get("environment", {})
        environment = {name: value for name, value in asked.items() if name not in HERE}
        return run(client, image, command, folders=[Path.cwd(), root.absolute()], environment=environment)

    docker_task_handler.run_docker_container = ours
    try:
        yield
    finally:
        docker_task_handler.run_docker_container = kfps
        client.close()


def run(client: Any, image: str, command: list[str], *, folders: Iterable[Path], environment: dict[str, str]) -> int:
    """Run `command` in a container, print what it says, and return its exit code.

    The root file system is read-only; `folders` are mounted where they are, the key read-only; the user is the one who
    runs this, without any capability.
    """
    key = privacy.key_file().absolute()
    mounts = {str(folder): {"bind": str(folder), "mode": "rw"} for folder in folders}
    if key.exists():
        mounts[str(key)] = {"bind": str(key), "mode": "ro"}
    state = Path(os.environ.get("MEDLOOP_STATE") or ".medloop").absolute()
    state.mkdir(parents=True, exist_ok=True)
    mounts[str(state)] = {"bind": str(state), "mode": "rw"}
    digest = client.images.get(image).id
    own = {"MEDLOOP_KEY_FILE": str(key), "MEDLOOP_STATE": str(state), "MEDLOOP_IMAGE_DIGEST": digest}
    container = client.containers.run(
        image,
        command,
        detach=True,
        environment={name: os.environ[name] for name in PASSED if name in os.environ} | own | environment,
        volumes=mounts,
        working_dir=str(Path.cwd()),
        user=f"{os.getuid()}:{os.getgid()}",
        network_mode="host",
        read_only=True,
        tmpfs={"/tmp": "mode=1777"},  # noqa: S108 - inside the container
        cap_drop=["ALL"],
        security_opt=["no-new-privileges"],
        init=True,
    )
    try:
        for line in container.logs(stream=True):
            print(line.decode(errors="replace"), end="")  # noqa: T201
        return int(container.wait()["StatusCode"])
    finally:
        container.remove(force=True)


def _check(client: Any, image: str, version: str, code: str) -> None:
    try:
        client.images.get(image)
    except ImageNotFound:
        raise Refused(f"there is no image {image} here: build it (`medloop images build`), or pull it") from None
    asked = client.containers.create(image, ["python3", "-c", HOLDS], network_mode="none")
    try:
        asked.start()
        ended, printed = asked.wait()["StatusCode"], asked.logs(stderr=False).decode().split()
        said = asked.logs(stdout=False).decode().strip().splitlines()
    finally:
        asked.remove(force=True)
    remedy = f"build it again from medloop {version} (`medloop images build`), or name another under pipeline.images"
    if ended:
        raise Refused(f"image {image} cannot run a step ({said[-1] if said else f'exit code {ended}'}): {remedy}")
    if printed[0] != version:
        raise Refused(f"image {image} holds medloop {printed[0]}, this is medloop {version}: {remedy}")
    if printed[1:] != [code]:
        raise Refused(f"image {image} holds other code of medloop {version} than this folder: {remedy}")
