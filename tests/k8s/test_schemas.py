"""Every rendered object against the schema of its kind, and that a wrong one is found."""

import copy

import pytest

import schemas
from cluster import OVERLAYS, rendered


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_every_object_of_kubernetes_has_the_fields_of_its_kind(overlay):
    objects = [each for each in rendered(overlay).objects if not schemas.is_custom(each)]
    assert len(objects) > 25
    assert {each["metadata"]["name"]: schemas.core(each) for each in objects if schemas.core(each)} == {}


def test_every_custom_resource_has_the_fields_of_its_kind(tmp_path):
    objects = [each for overlay in OVERLAYS for each in rendered(overlay).objects if schemas.is_custom(each)]
    assert {each["kind"] for each in objects} == {"ServiceMonitor", "PrometheusRule", "ExternalSecret", "Certificate"}
    assert schemas.custom(objects, tmp_path) == [""] * len(objects)


def changed(each: dict, *path: str | int, value: object = None) -> dict:
    """Return a copy whose field at `path` has another value, or (None) is gone."""
    each = copy.deepcopy(each)
    place = each
    for step in path[:-1]:
        place = place[step]
    if value is None:
        del place[path[-1]]
    else:
        place[path[-1]] = value
    return each


POD = ("spec", "template", "spec")


@pytest.mark.parametrize(
    ("kind", "name", "path", "value"),
    [
        ("Deployment", "mlflow", (*POD, "containers", 0, "imagee"), "x"),
        ("Deployment", "mlflow", (*POD, "securityContext", "runAsUser"), "nobody"),
        ("Deployment", "mlflow", ("spec", "selector"), None),
        ("StatefulSet", "s3", (*POD, "containers", 0, "livenessProbe", "httpGet", "port"), {}),
        ("CronJob", "registry-backup", ("spec", "schedule"), 17),
        ("NetworkPolicy", "s3", ("spec", "ingres"), []),
        ("Service", "s3", ("spec", "ports", 0, "port"), "8333"),
        ("CronJob", "registry-backup", ("kind",), "CronJobb"),
    ],
)
def test_a_wrong_field_is_found(kind, name, path, value):
    assert schemas.core(changed(rendered("minimal").one(kind, name), *path, value=value))


def test_a_wrong_field_of_a_custom_resource_is_found(tmp_path):
    cluster = rendered("production")
    monitor, secret = cluster.one("ServiceMonitor", "s3"), cluster.one("ExternalSecret", "s3")
    rule, certificate = cluster.one("PrometheusRule", "medloop"), cluster.one("Certificate", "mlflow")
    wrong = [
        changed(monitor, "spec", "endpoints", 0, "prot", value="metrics"),
        changed(monitor, "spec", "endpoints", 0, "port", value=9327),
        changed(monitor, "spec", "selector"),
        changed(monitor, "kind", value="ServiceMonitorr"),
        changed(rule, "spec", "groups", 0, "rules", 0, "expr"),
        changed(rule, "spec", "groups", 0, "rules", 0, "fro", value="5m"),
        changed(secret, "spec", "data", 0, "remoteRef", "key"),
        changed(secret, "spec", "target", "nam", value="s3"),
        changed(certificate, "spec", "secretName"),
        changed(secret, "apiVersion", value="external-secrets.io/v7"),
    ]
    found = schemas.custom(wrong, tmp_path)
    assert [place for place, said in enumerate(found) if not said] == []
    assert found[3] == "no schema for monitoring.coreos.com/v1 ServiceMonitorr"
