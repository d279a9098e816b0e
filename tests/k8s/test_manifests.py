"""The rendered objects: what pods may do, who reaches whom, and that all they name exists."""

import copy
import re
import subprocess

import pytest
from mlflow.server.security_utils import is_allowed_host_header

import restricted
from cluster import NAME, NAMESPACE, OVERLAYS, Cluster, containers, ports, references, rendered
from support import ROOT

HOME = {"kubernetes.io/metadata.name": NAMESPACE}
WATCHERS = {"kubernetes.io/metadata.name": "monitoring"}
DOOR = {"kubernetes.io/metadata.name": "ingress-nginx"}
STEPS = {"kubernetes.io/metadata.name": "team-a", "medloop/steps": "true"}
CLIENTS = {"kubernetes.io/metadata.name": "ward", "medloop/clients": "true"}
ANYBODY = {"kubernetes.io/metadata.name": "default"}


@pytest.fixture(params=OVERLAYS)
def cluster(request) -> Cluster:
    return rendered(request.param)


def test_every_pod_is_restricted_and_bounded(cluster):
    assert len(cluster.templates) == 7
    for name, template in cluster.templates.items():
        assert restricted.violations(template) + restricted.beyond(template) == [], name
    labels = cluster.one("Namespace", NAMESPACE)["metadata"]["labels"]
    assert {labels[f"pod-security.kubernetes.io/{mode}"] for mode in ("enforce", "audit", "warn")} == {"restricted"}


def mutate(template: dict, *path: str | int, value: object = None) -> dict:
    """Return a copy with a field dropped, or set to `value`."""
    changed = copy.deepcopy(template)
    place = changed["spec"]
    for step in path[:-1]:
        place = place.setdefault(step, {}) if isinstance(step, str) else place[step]
    if value is None:
        del place[path[-1]]
    else:
        place[path[-1]] = value
    return changed


@pytest.mark.parametrize(
    ("path", "value", "found"),
    [
        (("securityContext",), None, "runAsNonRoot is missing"),
        (("securityContext", "seccompProfile"), None, "seccompProfile is missing"),
        (("securityContext", "seccompProfile", "type"), "Unconfined", "the pod: seccompProfile"),
        (("securityContext", "runAsUser"), 0, "runAsUser 0"),
        (("containers", 0, "securityContext"), None, "capabilities are not dropped"),
        (("containers", 0, "securityContext", "capabilities", "add"), ["SYS_ADMIN"], "capabilities are added"),
        (("containers", 0, "securityContext", "allowPrivilegeEscalation"), True, "allowPrivilegeEscalation"),
        (("containers", 0, "securityContext", "privileged"), True, "privileged"),
        (("containers", 0, "securityContext", "runAsNonRoot"), False, "runAsNonRoot false"),
        (("containers", 0, "securityContext", "readOnlyRootFilesystem"), False, "root file system can be written"),
        (("containers", 0, "resources", "limits", "memory"), None, "no limits of memory"),
        (("containers", 0, "ports"), [{"containerPort": 1, "hostPort": 1}], "hostPort 1"),
        (("volumes", 0), {"name": "x", "hostPath": {"path": "/"}}, "volume x: hostPath"),
        (("hostNetwork",), True, "hostNetwork"),
        (("automountServiceAccountToken",), None, "a token is mounted"),
    ],
)
def test_a_pod_that_may_more_is_found(path, value, found):
    template = mutate(rendered("minimal").templates["Deployment/mlflow"], *path, value=value)
    assert any(found in each for each in restricted.violations(template) + restricted.beyond(template))


def test_all_that_pods_name_exists(cluster):
    there: dict[tuple[str, str], set[str] | None] = {
        (each["kind"], each["metadata"]["name"]): set(each.get("data") or {}) for each in cluster.objects
    }
    for each in cluster.of("ExternalSecret"):
        there["Secret", each["spec"]["target"]["name"]] = {item["secretKey"] for item in each["spec"]["data"]}
    for name, template in cluster.templates.items():
        for kind, named, key in references(template):
            assert (kind, named) in there, name
            assert key is None or key in there[kind, named], (name, named, key)
    for ingress in cluster.of("Ingress"):
        made = {each["spec"]["secretName"]: each["spec"]["dnsNames"] for each in cluster.of("Certificate")}
        for tls in ingress["spec"]["tls"]:
            assert tls["hosts"] == made[tls["secretName"]]
            assert {rule["host"] for rule in ingress["spec"]["rules"]} == set(tls["hosts"])


def test_every_service_finds_its_pods_at_the_port_they_open(cluster):
    for service in cluster.of("Service"):
        [pod] = cluster.selected({"matchLabels": service["spec"]["selector"]})
        for port in service["spec"]["ports"]:
            assert ports(cluster.templates[pod])[port["targetPort"]] == port["port"], service["metadata"]["name"]
    for name, template in cluster.templates.items():
        for one in containers(template):
            for probe in ("startupProbe", "readinessProbe", "livenessProbe"):
                assert name.startswith("CronJob") or one["name"] == "fetch" or probe in one, (name, probe)
                assert one.get(probe, {}).get("httpGet", {"port": None})["port"] in (None, *ports(template))


def test_selectors_of_policies_budgets_monitors_and_scalers_match(cluster):
    for each in cluster.of("NetworkPolicy", "PodDisruptionBudget"):
        selector = each["spec"].get("podSelector", each["spec"].get("selector"))
        assert cluster.selected(selector), each["metadata"]["name"]
    for monitor in cluster.of("ServiceMonitor"):
        wanted = monitor["spec"]["selector"]["matchLabels"].items()
        [service] = [each for each in cluster.of("Service") if wanted <= each["metadata"].get("labels", {}).items()]
        named = {port["name"] for port in service["spec"]["ports"]}
        assert {each["port"] for each in monitor["spec"]["endpoints"]} <= named
    for scaler in cluster.of("HorizontalPodAutoscaler"):
        target = scaler["spec"]["scaleTargetRef"]
        assert "replicas" not in cluster.one(target["kind"], target["name"])["spec"], "two would say how many"
    for budget in cluster.of("PodDisruptionBudget"):
        deployment = cluster.one("Deployment", budget["metadata"]["name"])
        scaled = [each["spec"]["minReplicas"] for each in cluster.of("HorizontalPodAutoscaler")]
        assert deployment["spec"].get("replicas", *scaled) > budget["spec"]["minAvailable"], (
            "a node could not be drained"
        )


def implied(cluster: Cluster) -> set[tuple[str, str, int]]:
    """Return who must reach which service, at which port, by what the pods' variables and words say."""
    opened = {each["metadata"]["name"]: each["spec"]["ports"][0]["port"] for each in cluster.of("Service")}
    found = set()
    for name, template in cluster.templates.items():
        words = [word for one in containers(template) for word in one.get("command", [])]
        for kind, named, _ in references(template):
            if kind == "ConfigMap":
                data = cluster.one(kind, named)["data"]
                words += [*data.values(), f"@{data['PGHOST']}/" if "PGHOST" in data else ""]
        for service, port in opened.items():
            if any(re.search(rf"(http://|@){service}[:/]", word) for word in words):
                found.add((name, service, port))
    return found


def test_every_flow_that_the_configuration_implies_may_pass(cluster):
    flows = implied(cluster)
    assert {(source.partition("/")[2], target) for source, target, _ in flows} == {
        ("mlflow", "postgres"),
        ("mlflow", "s3"),
        ("model-server", "mlflow"),
        *((f"registry-{what}", target) for what in ("backup", "restore") for target in ("postgres", "s3")),
        *(("mlflow-upgrade", target) for target in ("postgres", "s3")),
    }
    for source, target, port in flows:
        own, other = cluster.templates[source], pods(cluster)[target]
        ends = (own["metadata"]["labels"], HOME), (other["metadata"]["labels"], HOME)
        assert cluster.allowed(*ends, port, ports(other)), (source, target)


def pods(cluster: Cluster) -> dict[str, dict]:
    """Return the pods behind services, by the name of the service."""
    found = {each["metadata"]["name"]: each["spec"]["selector"] for each in cluster.of("Service")}
    return {name: cluster.templates[cluster.selected({"matchLabels": labels})[0]] for name, labels in found.items()}


@pytest.mark.parametrize("overlay", OVERLAYS)
@pytest.mark.parametrize(
    ("namespace", "open_to"),
    [
        (STEPS, {("mlflow", 5000), ("s3", 8333)}),
        (CLIENTS, {("model-server", 8080)}),
        (WATCHERS, {("model-server", 8080), ("s3", 9327)}),
        (ANYBODY, set()),
        (DOOR, {("mlflow", 5000), ("model-server", 8080)}),
    ],
    ids=["steps", "clients", "watchers", "anybody", "door"],
)
def test_from_outside_no_more_is_open_than_must_be(overlay, namespace, open_to):
    cluster = rendered(overlay)
    found = {
        (name, port)
        for name, template in pods(cluster).items()
        for port in ports(template).values()
        if cluster.allowed(({}, namespace), (template["metadata"]["labels"], HOME), port, ports(template))
    }
    assert found == (set() if namespace is DOOR and overlay == "minimal" else open_to)


def test_inside_nobody_reaches_what_he_need_not(cluster):
    server, database = (pods(cluster)[name] for name in ("model-server", "postgres"))
    ends = (server["metadata"]["labels"], HOME), (database["metadata"]["labels"], HOME)
    assert not cluster.allowed(*ends, 5432, ports(database))
    for template in cluster.templates.values():
        names = ({"k8s-app": "kube-dns"}, {"kubernetes.io/metadata.name": "kube-system"})
        assert cluster.allowed((template["metadata"]["labels"], HOME), names, 53, {})
        assert not cluster.allowed((template["metadata"]["labels"], HOME), ({}, ANYBODY), 443, {})


@pytest.mark.parametrize("policy", ["postgres", "s3", "mlflow", "model-server", "registry"])
def test_a_policy_that_is_missing_is_found(policy):
    objects = [each for each in rendered("minimal").objects if each["metadata"]["name"] != policy]
    services = rendered("minimal").of("Service", "Deployment", "StatefulSet")
    cluster = Cluster(objects + [each for each in services if each["metadata"]["name"] == policy])
    broken = [
        (source, target)
        for source, target, port in implied(cluster)
        if not cluster.allowed(
            (cluster.templates[source]["metadata"]["labels"], HOME),
            (pods(cluster)[target]["metadata"]["labels"], HOME),
            port,
            ports(pods(cluster)[target]),
        )
    ]
    assert broken


def test_the_mlflow_server_answers_by_the_names_of_its_service(cluster):
    hosts = cluster.data("ConfigMap", "mlflow")["MLFLOW_SERVER_ALLOWED_HOSTS"].split(",")
    asked = [f"mlflow{suffix}:5000" for suffix in ("", f".{NAMESPACE}", f".{NAMESPACE}.svc")] + ["localhost:5000"]
    asked += [
        rule["host"] for each in cluster.of("Ingress") for rule in each["spec"]["rules"] if "mlflow" in rule["host"]
    ]
    assert all(is_allowed_host_header(hosts, host) for host in asked)
    assert not is_allowed_host_header(hosts, "evil.example.com")


def test_the_repository_holds_no_secret():
    listed = ["git", "-C", str(ROOT), "ls-files", "-co", "--exclude-standard", "infra/k8s"]
    files = subprocess.run(listed, capture_output=True, text=True, check=True).stdout.split()
    assert files, "they are in Git's sight"
    assert [name for name in files if "/secrets/" in name or name.endswith(".env")] == []
    for name in files:
        text = (ROOT / name).read_text()
        assert not re.search(r"kind: Secret\b", text), name
        assert not re.search(r"(?i)(password|secret|key|token)\w*[=:] *[\"']?[0-9a-f]{16,}", text), name


def test_production_takes_every_secret_from_the_teams_store_and_stands_twice():
    cluster = rendered("production")
    assert cluster.of("Secret") == []
    assert cluster.one("Deployment", "mlflow")["spec"]["replicas"] == 2
    assert cluster.one("HorizontalPodAutoscaler", "model-server")["spec"]["minReplicas"] == 2
    assert cluster.data("ConfigMap", "model")["MODEL_URI"].rpartition("/")[2].isdecimal(), "all pods serve one version"
    bucket = cluster.data("ConfigMap", "backup")["BACKUP_PLACE"].removeprefix("s3://").partition("/")[0]
    assert bucket not in ("", *cluster.templates["StatefulSet/s3"]["spec"]["containers"][0]["args"][3][8:].split(","))
    for template in (cluster.templates[f"Deployment/{name}"] for name in ("mlflow", "model-server")):
        spread = template["spec"]["topologySpreadConstraints"]
        assert {each["topologyKey"] for each in spread} == {"topology.kubernetes.io/zone", "kubernetes.io/hostname"}
        assert all(
            template["metadata"]["labels"].items() >= each["labelSelector"]["matchLabels"].items() for each in spread
        )
        assert all(NAME in each["matchLabelKeys"] for each in spread)
