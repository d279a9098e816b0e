"""The alerts, run by Prometheus's own promtool over series as a cluster gives them."""

import subprocess
from pathlib import Path

import pytest
import yaml

from cluster import OVERLAYS, rendered, tool

OURS = 'namespace="medloop"'
SERIES = {
    f'kube_deployment_status_replicas_available{{{OURS}, deployment="mlflow"}}': ("1x240", "0x240"),
    f'kube_statefulset_status_replicas_ready{{{OURS}, statefulset="postgres"}}': ("1x240", "0x240"),
    f'up{{{OURS}, pod="model-server-a"}}': ("1x240", "0x240"),
    f'http_requests_total{{{OURS}, handler="/invocations", status="2xx"}}': ("0+90x240", "0+90x240"),
    f'http_requests_total{{{OURS}, handler="/invocations", status="5xx"}}': ("0+1x240", "0+10x240"),
    f'http_request_duration_seconds_bucket{{{OURS}, handler="/invocations", le="0.5"}}': ("0+100x240", "0+90x240"),
    f'http_request_duration_seconds_bucket{{{OURS}, handler="/invocations", le="5"}}': ("0+100x240", "0+100x240"),
    f'http_request_duration_seconds_bucket{{{OURS}, handler="/invocations", le="+Inf"}}': ("0+100x240", "0+100x240"),
    f'kube_cronjob_status_last_successful_time{{{OURS}, cronjob="registry-backup"}}': ("0x240", "-90000x240"),
    f'kube_cronjob_created{{{OURS}, cronjob="registry-backup"}}': ("-900000x240", "-900000x240"),
    f'kubelet_volume_stats_available_bytes{{{OURS}, persistentvolumeclaim="data-s3-0"}}': ("30x240", "10x240"),
    f'kubelet_volume_stats_capacity_bytes{{{OURS}, persistentvolumeclaim="data-s3-0"}}': ("100x240", "100x240"),
    f'kube_pod_container_status_restarts_total{{{OURS}, pod="mlflow-a"}}': ("3x240", "0+1x240"),
}
AT = "3h"


@pytest.fixture(scope="module")
def rules(tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("rules") / "rules.yaml"
    path.write_text(yaml.safe_dump(rendered("minimal").one("PrometheusRule", "medloop")["spec"]))
    return path


def firing(rules: Path, series: dict[str, str]) -> set[str]:
    """Return the names of the alerts that fire after three hours of `series`, one value a minute."""
    names = {each["alert"] for group in yaml.safe_load(rules.read_text())["groups"] for each in group["rules"]}
    given = [{"series": name, "values": values} for name, values in series.items()]
    found = set()
    for name in names:
        quiet = {"eval_time": AT, "alertname": name, "exp_alerts": []}
        test = {
            "rule_files": [rules.name],
            "tests": [{"interval": "1m", "input_series": given, "alert_rule_test": [quiet]}],
        }
        path = rules.with_name("test.yaml")
        path.write_text(yaml.safe_dump(test))
        done = subprocess.run([tool("promtool"), "test", "rules", path], capture_output=True, text=True)
        said = done.stdout + done.stderr
        assert done.returncode == 0 or f"alertname: {name}" in said, said
        if done.returncode:
            found.add(name)
    return found


def test_promtool_takes_the_rules(rules):
    done = subprocess.run([tool("promtool"), "check", "rules", rules], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr


def test_nothing_fires_while_all_is_well(rules):
    assert firing(rules, {name: good for name, (good, _) in SERIES.items()}) == set()


def test_every_alert_fires_when_its_time_has_come(rules):
    wanted = {each["alert"] for each in yaml.safe_load(rules.read_text())["groups"][0]["rules"]}
    assert firing(rules, {name: bad for name, (_, bad) in SERIES.items()}) == wanted


def test_a_backup_that_was_never_made_is_missed(rules):
    never = {name: good for name, (good, _) in SERIES.items() if "last_successful" not in name}
    assert firing(rules, never) == {"MedloopBackupTooOld"}


@pytest.mark.parametrize("part", ["deployment", "statefulset"])
def test_one_server_alone_is_missed(rules, part):
    series = {name: pair[f"kube_{part}_status" in name] for name, pair in SERIES.items()}
    assert firing(rules, series) == {"MedloopServerDown"}


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_the_backup_of_the_rule_is_the_one_that_is_made(overlay):
    assert rendered(overlay).one("CronJob", "registry-backup")["spec"]["schedule"].split()[1:] == ["1", "*", "*", "*"]
