"""Builds the container images of the steps and of the model server, with docker, podman or buildah."""

import json
import os
import re
import shutil
import ssl
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

from medloop import __version__
from medloop.errors import Refused, Unreachable

ENGINES = ("docker", "podman", "buildah")
TARGETS = ("light", "train", "serve", "stack")
DOCKERFILE = Path("infra/docker/Dockerfile")
LOCKS = Path("requirements")
SBOM = Path("dist/sbom")
INSTALLED = (
    "from importlib.metadata import distributions as d; print(*(f'{x.name}=={x.version}' for x in d()), sep='\\n')"
)


@dataclass(frozen=True)
class Image:
    """A built image."""

    reference: str  # name:version
    identifier: str  # sha256 of its configuration: changes with anything in it
    megabytes: float
    revision: str  # git commit that it was built from

    def __str__(self) -> str:
        return f"{self.reference:24} {self.identifier[:19]}  {self.megabytes:6.0f} MB  from {self.revision[:12]}"


def engine(name: str | None = None) -> str:
    """Return the container engine asked for, or the first that is installed.

    Raises:
        Refused: it is unknown or not installed.
        Unreachable: it does not answer.
    """
    if name and name not in ENGINES:
        raise Refused(f"unknown container engine {name!r}; known: {', '.join(ENGINES)}")
    found = next((each for each in ([name] if name else ENGINES) if shutil.which(each)), None)
    if found is None:
        raise Refused(f"building images needs {name or ' or '.join(ENGINES)}, which is not installed here")
    asked = subprocess.run([found, "version"], capture_output=True, text=True, check=False)
    if asked.returncode:
        address = os.environ.get("CONTAINER_HOST" if found == "podman" else "DOCKER_HOST", "the default address")
        said = (asked.stderr.strip() or f"exit code {asked.returncode}").splitlines()[-1]
        raise Unreachable(f"no container engine answers {found} at {address} ({said}): start one, or set DOCKER_HOST")
    return found


def named(targets: Sequence[str] | None) -> Sequence[str]:
    """Return the images asked for, all of them by default; raise Refused for one that there is not."""
    for target in targets or ():
        if target not in TARGETS:
            raise Refused(f"unknown image {target!r}; known: {', '.join(TARGETS)}")
    return targets or TARGETS


def build(
    target: str,
    *,
    engine: str,
    base_image: str | None = None,
    train_base_image: str | None = None,
    train_lock: str = "train",
    index: str | None = None,
) -> Image:
    """Build one of TARGETS from the project's folder, write its SBOM to SBOM, and return it.

    Args:
        target: light, train, serve or stack.
        engine: docker, podman or buildah.
        base_image: Debian or Ubuntu with Python 3.11 to 3.13, venv and pip; None: what the Dockerfile says.
        train_base_image: the same for `train`, e.g. one of NVIDIA's; None: `base_image`.
        train_lock: requirements/<train_lock>.lock: train (GPU) or train-cpu.
        index: address of the Python package index; None: PyPI.

    Raises:
        Refused: not in the project's folder, an unknown target or lock, or the engine could not build.
    """
    named([target])
    if not DOCKERFILE.exists():
        raise Refused(f"no file {DOCKERFILE}: run this from the project's folder")
    arguments = {
        "BASE_IMAGE": base_image,
        "TRAIN_BASE_IMAGE": train_base_image or base_image,
        "TRAIN_LOCK": f"{train_lock}.lock",
        "PIP_INDEX_URL": index,
        "VERSION": __version__,
        "REVISION": _revision(),
    }
    with TemporaryDirectory() as folder:
        _fill(Path(folder), train_lock)
        command = [engine, "build", "--network", "host", "--target", target, "--tag", reference(target)]
        command += ["--format", "docker"] if engine != "docker" else []  # OCI's own format knows no health check
        for name, value in arguments.items():
            command += ["--build-arg", f"{name}={value}"] if value else []
        if subprocess.run([*command, folder], check=False).returncode:
            raise Refused(f"{engine} could not build the image {target}: its message stands above")
    image = inspect(target, engine=engine)
    assert image is not None
    _write_sbom(target, engine, train_lock)
    return image


def reference(target: str) -> str:
    """Return the name and tag of an image that was built here."""
    return f"medloop-{target}:{__version__}"


def inspect(target: str, *, engine: str) -> Image | None:
    """Return the image that was built last, or None."""
    kind = ["inspect", "--type", "image"] if engine == "buildah" else ["image", "inspect"]
    asked = subprocess.run([engine, *kind, reference(target)], capture_output=True, text=True, check=False)
    if asked.returncode:
        return None
    content = json.loads(asked.stdout)
    if engine == "buildah":
        labels, identifier, size = content["OCIv1"]["config"].get("Labels", {}), content["FromImageID"], 0.0
    else:
        [content] = content
        labels, identifier, size = content["Config"]["Labels"], content["Id"], content["Size"]
    revision = labels["org.opencontainers.image.revision"]
    return Image(reference(target), f"sha256:{identifier.removeprefix('sha256:')}", size / 1e6, revision)


def push(target: str, registry: str, *, engine: str) -> str:
    """Push an image to `registry`, e.g. ghcr.io/team, and return its reference by digest, for `pipeline.images`.

    Raises:
        Refused: it is not built, or the registry did not take it.
    """
    if inspect(target, engine=engine) is None:
        raise Refused(f"there is no image {reference(target)}: build it first (`medloop images build {target}`)")
    local, remote = reference(target), f"{registry.rstrip('/')}/{reference(target)}"
    with TemporaryDirectory() as folder:
        written = Path(folder) / "digest"
        if engine == "docker":
            _ask([engine, "tag", local, remote], remote)
            try:
                printed = _ask([engine, "push", remote], remote).partition("digest: ")[2]
            except Refused:
                subprocess.run([engine, "rmi", "--no-prune", remote], capture_output=True, check=False)
                raise
        else:
            _ask([engine, "push", "--digestfile", str(written), local, f"docker://{remote}"], remote)
            printed = written.read_text()
    return f"{remote.rpartition(':')[0]}@{printed.split()[0]}"


def _ask(command: list[str], remote: str) -> str:
    """Return what a command of the engine prints; raise Refused with its last line where it fails."""
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise Refused(
            f"{command[0]} could not push {remote}: {done.stderr.strip().splitlines()[-1]}; check the registry's "
            f"address, and that `{command[0]} login` has let you in"
        )
    return done.stdout


def _fill(context: Path, train_lock: str) -> None:
    """Write what the Dockerfile copies: locks, medloop's wheel, and the certificates that this machine trusts."""
    for name in ("Dockerfile", "serve.py"):
        shutil.copyfile(DOCKERFILE.with_name(name), context / name)
    for name in ("bootstrap", "light", "serve", "stack", train_lock):
        lock = LOCKS / f"{name}.lock"
        if not lock.exists():
            known = ", ".join(sorted(path.stem for path in LOCKS.glob("*.lock")))
            raise Refused(f"no lock {lock}; known: {known}")
        shutil.copyfile(lock, context / lock.name)
    paths = ssl.get_default_verify_paths()
    shutil.copyfile(paths.cafile or paths.openssl_cafile, context / "certificates.pem")
    command = [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(context)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise Refused(f"medloop's wheel could not be built: {done.stderr.strip().splitlines()[-1]}")


def _write_sbom(target: str, engine: str, train_lock: str) -> None:
    """Write as CycloneDX which of the lock's packages, with their hashes, are in the image."""
    shown = _inside(target, engine, ["python3", "-c", INSTALLED])
    inside = {_normal(line) for line in shown.split()}
    lock = (LOCKS / f"{train_lock if target == 'train' else target}.lock").read_text().replace("\\\n", " ")
    pinned = [line for line in lock.splitlines() if line and _normal(line.split()[0]) in inside]
    SBOM.mkdir(parents=True, exist_ok=True)
    output = SBOM / f"medloop-{target}-{__version__}.cdx.json"
    command = [sys.executable, "-m", "cyclonedx_py", "requirements", "--pyproject", "pyproject.toml"]
    command += ["--output-reproducible", "--output-format", "JSON", "--output-file", str(output), "-"]
    subprocess.run(command, input="\n".join(pinned), text=True, capture_output=True, check=True)


def _normal(pin: str) -> str:
    """Return NAME==VERSION with the name as the package index writes it."""
    name, _, version = pin.partition("==")
    return f"{re.sub('[-_.]+', '-', name.partition('[')[0]).lower()}=={version}"


def _inside(target: str, engine: str, command: list[str]) -> str:
    """Return what `command` prints in a container of the image."""
    if engine == "buildah":
        made = [engine, "from", reference(target)]
        container = subprocess.run(made, capture_output=True, text=True, check=True).stdout.strip()
        run = [engine, "run", container, "--", *command]
    else:
        run = [engine, "run", "--rm", "--network", "none", reference(target), *command]
    try:
        return subprocess.run(run, capture_output=True, text=True, check=True).stdout
    finally:
        if engine == "buildah":
            subprocess.run([engine, "rm", container], capture_output=True, check=True)


def _revision() -> str:
    asked = subprocess.run(["git", "rev-parse", "HEAD"], capture_output=True, text=True, check=False)
    return asked.stdout.strip() or "unknown"
