"""One fact, three files: the manifests, the compose file and the laptop stack say the same."""

import re

import pytest
import yaml

from cluster import OVERLAYS, containers, rendered
from medloop import __version__, params
from medloop.backup import making
from medloop.stack import postgres, seaweed, server, settings
from support import ROOT

COMPOSE = yaml.safe_load((ROOT / "infra/stack/compose.yaml").read_text())["services"]


@pytest.fixture(scope="module")
def laptop(tmp_path_factory) -> settings.Settings:
    return settings.settle(tmp_path_factory.mktemp("stack"), {})


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_images_are_those_of_this_version_and_of_the_compose_file(overlay):
    found = {one["image"] for each in rendered(overlay).templates.values() for one in containers(each)}
    prefix = {"minimal": "", "production": "registry.example.org/medloop/"}[overlay]
    ours = {f"{prefix}medloop-{target}:{__version__}" for target in ("stack", "serve")}
    assert found == ours | {COMPOSE[name]["image"] for name in ("postgres", "s3")}


def test_the_mlflow_server_is_set_as_on_a_laptop(laptop):
    cluster, mlflow = rendered("minimal"), server.part(laptop)
    one = cluster.templates["Deployment/mlflow"]["spec"]["containers"][0]
    theirs = cluster.data("ConfigMap", "mlflow") | cluster.data("ConfigMap", "s3")
    theirs |= {each["name"]: "" for each in one["env"]}
    apart = {"MLFLOW_SERVER_ALLOWED_HOSTS", "PGPASSWORD", making.BUCKET}
    assert set(theirs) - apart == set(mlflow.env)
    own = {"MLFLOW_BACKEND_STORE_URI", "MLFLOW_AUTH_CONFIG_PATH"}
    for name in set(theirs) - apart - own:
        assert theirs[name] in ("", mlflow.env[name], "http://s3:8333"), name
    shared = list(mlflow.command)[list(mlflow.command).index("mlflow") : list(mlflow.command).index("--host")]
    assert set(shared) <= set(one["command"])
    server._prepare(laptop.folder / "auth.ini", laptop)
    ini = (laptop.folder / "auth.ini").read_text()
    wanted = re.sub(r"(?<=postgresql\+psycopg2://)\S+?@\S+?/", "mlflow@postgres/", ini)
    assert cluster.data("ConfigMap", "mlflow-auth")["basic_auth.ini"] == wanted


def test_s3_is_set_as_in_the_compose_file(laptop):
    one = rendered("minimal").templates["StatefulSet/s3"]["spec"]["containers"][0]
    ours = {"-ip=127.0.0.1", "-metricsPort=9327"}
    assert set(one["args"]) - ours == set(COMPOSE["s3"]["command"]) - {"-ip=s3"}
    assert {each["name"] for each in one["env"]} - {"HOME"} == set(seaweed.part(laptop).env)


def test_postgres_is_set_as_in_the_compose_file(laptop):
    cluster = rendered("minimal")
    one = cluster.templates["StatefulSet/postgres"]["spec"]["containers"][0]
    given, theirs = {each["name"]: each["value"] for each in one["env"]}, COMPOSE["postgres"]["environment"]
    same = ("POSTGRES_USER", "POSTGRES_DB", "POSTGRES_INITDB_ARGS")
    assert {name: given[name] for name in same} == {name: theirs[name] for name in same}
    assert given["POSTGRES_USER"] == postgres.ROLE
    assert cluster.data("ConfigMap", "databases")["databases.sql"].split()[2] == postgres.DATABASES[1]
    assert one["args"] == ["-c", f"max_connections={postgres.CONNECTIONS}"]


def test_a_backup_has_the_variables_that_a_laptops_shell_has(laptop):
    cluster = rendered("minimal")
    one = cluster.templates["CronJob/registry-backup"]["spec"]["containers"][0]
    given = {each["name"] for each in one["env"]}
    for name in ("postgres", "s3"):
        given |= set(cluster.data("ConfigMap", name))
    assert given - {"MLFLOW_S3_ENDPOINT_URL"} <= set(laptop.values)
    assert {"PGHOST", "PGPORT", "PGUSER", "PGPASSWORD", making.BUCKET} <= given
    assert one["command"][:3] == ["medloop", "registry", "backup"]


def test_secrets_have_the_names_of_the_laptop_stack():
    cluster = rendered("production")
    keys = {item["secretKey"] for each in cluster.of("ExternalSecret") for item in each["spec"]["data"]}
    ours = {"MLFLOW_TRACKING_USERNAME", "auth"}
    assert {key for key in keys if not key.startswith("MEDLOOP_BACKUP_AWS_")} - ours <= set(settings.SECRETS)
    minimal = {key for each in rendered("minimal").of("Secret") for key in each.get("data") or {}}
    assert minimal == {key for key in keys if not key.startswith("MEDLOOP_BACKUP_AWS_")} - {"auth"}


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_nothing_here_asks_kubernetes(overlay):
    assert rendered(overlay).of("ClusterRole", "ClusterRoleBinding") == []


def test_the_gpu_pool_of_the_readme_is_one_that_the_parameters_take():
    text = (ROOT / "infra/k8s/README.md").read_text()
    block = next(each for each in re.findall(r"```yaml\n(.*?)```", text, re.DOTALL) if "accelerator" in each)
    assert params.Pipeline(**yaml.safe_load(block)["pipeline"]).accelerator == "nvidia.com/gpu"
    taint = re.search(r"taint nodes -l (\w+)=(\w+) (\S+)=\w+:(\w+)", text)
    said = yaml.safe_load(block)["pipeline"]
    assert (said["node_selector"], said["tolerations"][0]["key"]) == ({taint[1]: taint[2]}, taint[3])
    assert said["tolerations"][0]["effect"] == taint[4]
