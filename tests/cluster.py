"""The objects that infra/k8s makes, rendered by kubectl, and what Kubernetes would make of them."""

import os
import shutil
import subprocess
from collections.abc import Iterator
from functools import cached_property, lru_cache
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest
import yaml

from support import ROOT

TOOLS = ROOT / ".medloop/kubernetes"
OVERLAYS = ("minimal", "production")
NAMESPACE = "medloop"
NAME = "app.kubernetes.io/name"


def tool(name: str) -> str:
    """Return the path of a program, or skip."""
    found = shutil.which(name, path=f"{TOOLS / 'bin'}{os.pathsep}{os.environ['PATH']}")
    if found is None:
        pytest.skip(f"no {name} here: .ci/kubernetes gets it")
    return found


@lru_cache
def rendered(overlay: str) -> "Cluster":
    """Return all objects of an overlay, with secrets that were made as the README says."""
    kubectl = tool("kubectl")
    with TemporaryDirectory() as folder:
        copy = Path(folder, "k8s")
        shutil.copytree(ROOT / "infra/k8s", copy, ignore=shutil.ignore_patterns("secrets"))
        subprocess.run([copy / "secrets.sh"], check=True, capture_output=True)
        command = [kubectl, "kustomize", copy / "overlays" / overlay]
        text = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    return Cluster(list(yaml.safe_load_all(text)))


class Cluster:
    """Objects of one namespace."""

    def __init__(self, objects: list[dict]) -> None:
        self.objects = objects

    def of(self, *kinds: str) -> list[dict]:
        return [each for each in self.objects if each["kind"] in kinds]

    def one(self, kind: str, name: str) -> dict:
        [found] = [each for each in self.of(kind) if each["metadata"]["name"] == name]
        return found

    def data(self, kind: str, name: str) -> dict[str, str]:
        """Return what a ConfigMap or Secret holds, by its name in the base."""
        [found] = [each for each in self.of(kind) if each["metadata"]["name"].rpartition("-")[0] == name]
        return found["data"]

    @cached_property
    def templates(self) -> dict[str, dict]:
        """Every pod's template, by kind/name of what makes it."""
        found = {}
        for each in self.of("Deployment", "StatefulSet", "CronJob"):
            spec = each["spec"]
            template = spec["jobTemplate"]["spec"]["template"] if each["kind"] == "CronJob" else spec["template"]
            found[f"{each['kind']}/{each['metadata']['name']}"] = template
        return found

    def selected(self, selector: dict) -> list[str]:
        """Return which pods a selector takes."""
        return [name for name, each in self.templates.items() if matches(selector, each["metadata"]["labels"])]

    def allowed(self, source: tuple[dict, dict], target: tuple[dict, dict], port: int, named: dict[str, int]) -> bool:
        """Tell whether the policies let a connection pass.

        Args:
            source, target: labels of the pod, and of its namespace, where `NAMESPACE` is the one with the policies.
            port: of the target.
            named: the target's ports by name.
        """
        ends = (("Egress", source, target, "egress", "to"), ("Ingress", target, source, "ingress", "from"))
        return all(self._end(*end, port, named) for end in ends)

    def _end(self, kind, own, other, rules, peers, port, named) -> bool:
        if own[1].get("kubernetes.io/metadata.name") != NAMESPACE:
            return True
        policies = [
            each["spec"]
            for each in self.of("NetworkPolicy")
            if kind in each["spec"]["policyTypes"] and matches(each["spec"]["podSelector"], own[0])
        ]
        return not policies or any(
            any(self._peer(peer, other) for peer in rule.get(peers, [{}]))
            and any(named.get(each["port"], each["port"]) == port for each in rule["ports"])
            for policy in policies
            for rule in policy.get(rules, [])
        )

    def _peer(self, peer: dict, other: tuple[dict, dict]) -> bool:
        if "ipBlock" in peer:
            return False
        home = {"matchLabels": {"kubernetes.io/metadata.name": NAMESPACE}}
        return matches(peer.get("namespaceSelector", home), other[1]) and matches(peer.get("podSelector", {}), other[0])


def matches(selector: dict, labels: dict) -> bool:
    """Tell whether a label selector takes what has `labels`."""
    for each in selector.get("matchExpressions", []):
        assert each["operator"] == "In", "no other is written here"
        if labels.get(each["key"]) not in each["values"]:
            return False
    return all(labels.get(key) == value for key, value in selector.get("matchLabels", {}).items())


def containers(template: dict) -> list[dict]:
    spec = template["spec"]
    return spec.get("initContainers", []) + spec["containers"]


def ports(template: dict) -> dict[str, int]:
    return {each["name"]: each["containerPort"] for one in containers(template) for each in one.get("ports", [])}


def references(template: dict) -> Iterator[tuple[str, str, str | None]]:
    """Yield kind, name and key (None: the whole) of what a pod takes from elsewhere."""
    for one in containers(template):
        for each in one.get("envFrom", []):
            [field] = each
            yield {"configMapRef": "ConfigMap", "secretRef": "Secret"}[field], each[field]["name"], None
        for each in one.get("env", []):
            if "valueFrom" in each:
                yield "Secret", each["valueFrom"]["secretKeyRef"]["name"], each["valueFrom"]["secretKeyRef"]["key"]
    for volume in template["spec"].get("volumes", []):
        yield from _mounted(volume)
    yield "ServiceAccount", template["spec"]["serviceAccountName"], None


def _mounted(volume: dict) -> Iterator[tuple[str, str, str | None]]:
    if "configMap" in volume:
        yield "ConfigMap", volume["configMap"]["name"], None
    for item in volume.get("secret", {}).get("items", []):
        yield "Secret", volume["secret"]["secretName"], item["key"]
    if "persistentVolumeClaim" in volume:
        yield "PersistentVolumeClaim", volume["persistentVolumeClaim"]["claimName"], None
