"""Who asks which Kubeflow, and each way it can fail."""

import base64
import json
import socket
import threading
from pathlib import Path

import pytest

import certificates
from kfp_contract.server import serving
from medloop.errors import Refused, Unreachable
from medloop_pipelines import connection, runs
from medloop_pipelines.connection import Connection, resolve


def jwt(expires: float) -> str:
    """Return what has the form of a JSON Web Token."""
    return f"e30.{base64.urlsafe_b64encode(json.dumps({'exp': expires}).encode()).decode().rstrip('=')}.x"


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def test_options_come_before_the_environment_and_that_before_the_file(own_settings, monkeypatch):
    own_settings.write_text("host: https://file\nnamespace: file\ntoken: t0\n")
    own_settings.chmod(0o600)
    assert resolve() == Connection("https://file", "file", "t0")
    monkeypatch.setenv("MEDLOOP_KFP_NAMESPACE", "environment")
    monkeypatch.setenv("MEDLOOP_KFP_SERVICE_ACCOUNT", "1")
    assert resolve() == Connection("https://file", "environment", service_account=True)
    (own_settings.parent / "token").write_text("t1\n")
    came = resolve(host="https://option/", token_file=own_settings.parent / "token")
    assert came == Connection("https://option", "environment", "t1")
    assert "t1" not in repr(came)


@pytest.mark.parametrize(
    ("content", "mode", "message"),
    [
        ("token: secret\nhost: https://x\n", 0o644, "others may read it: `chmod 600"),
        ("hots: https://x\n", 0o600, "unknown key 'hots'; known: host, "),
        ("host: [", 0o600, "cannot be read as YAML"),
        ("a list", 0o600, "no keys and values"),
        ("host: https://x\ntoken: a\nservice_account: true\n", 0o600, "one of token and service_account, not both"),
        ("host: kubeflow.example.org\n", 0o600, "must begin with http:// or https://, got 'kubeflow.example.org'"),
        ("host: https://user:secret@kubeflow.example.org\n", 0o600, "the host must not hold a user name or password"),
        ('host: "http://[::1"\n', 0o600, "the host is no address: 'http://[::1'"),
        ('host: https://x\ntoken: "two secret words"\n', 0o600, "must be one word"),
        ("host: http://kubeflow.example.org\ntoken: secret\n", 0o600, "unencrypted: use https://"),
        ("host: https://x\ntoken_file: /nowhere/token\n", 0o600, "no token in /nowhere/token"),
        ("host: https://x\nca_cert: /nowhere/ca.pem\n", 0o600, "no CA bundle /nowhere/ca.pem"),
        ("", 0o600, "no Kubeflow named: give --host, MEDLOOP_KFP_HOST"),
    ],
)
def test_settings_that_do_not_fit_are_refused_without_the_token(own_settings, content, mode, message):
    own_settings.write_text(content)
    own_settings.chmod(mode)
    with pytest.raises(Refused) as caught:
        resolve()
    assert message in str(caught.value)
    assert "secret" not in str(caught.value)


def test_a_token_goes_unencrypted_to_this_machine_and_inside_a_cluster_alone():
    assert resolve(host="http://ml-pipeline.kubeflow.svc:8888", service_account=True).service_account
    with pytest.raises(Refused, match="unencrypted"):
        resolve(host="http://kubeflow.example.org", service_account=True)


def test_a_host_that_does_not_answer_is_named():
    host = f"http://127.0.0.1:{free_port()}"
    with pytest.raises(Unreachable, match=rf"Kubeflow at {host} does not answer .*; nothing was changed"):
        runs.cancel(Connection(host), "r")


def test_a_host_that_is_no_kubeflow_is_refused(kubeflow):
    with pytest.raises(Refused, match=r"no Kubeflow Pipelines API at .*/elsewhere: .* answers 400"):
        runs.cancel(Connection(f"{kubeflow.url}/elsewhere"), "r")


def test_a_server_that_goes_silent_is_not_waited_for_for_ever(kubeflow, monkeypatch):
    monkeypatch.setattr(connection, "CALL_SECONDS", 0.3)
    held = threading.Event()
    monkeypatch.setattr(kubeflow.state, "get_run", lambda *asked: held.wait(20) and {})
    with pytest.raises(Unreachable, match="does not answer"):
        runs.cancel(Connection(kubeflow.url), "r")
    held.set()


def test_the_right_token_opens_the_door(description):
    with serving(description, token="t0") as kubeflow:
        assert "no runs" in runs.listing(Connection(kubeflow.url, token="t0"), "medloop")


def test_a_service_account_is_asked_for_its_token_each_time(description, tmp_path, monkeypatch):
    monkeypatch.setenv("KF_PIPELINES_SA_TOKEN_PATH", str(tmp_path / "token"))
    with serving(description, token="t2") as kubeflow:
        to = Connection(kubeflow.url, service_account=True)
        with pytest.raises(Refused, match=r"no token of a service account at .*token: No such file"):
            runs.listing(to, "medloop")
        (tmp_path / "token").write_text("t1")
        with pytest.raises(Refused, match="401"):
            runs.listing(to, "medloop")
        (tmp_path / "token").write_text("t2")
        assert "no runs" in runs.listing(to, "medloop")


@pytest.mark.parametrize(
    ("token", "message"),
    [
        (None, "it wants a token: give --token-file, MEDLOOP_KFP_TOKEN or --service-account"),
        ("wrong", "the token is not accepted"),
        (jwt(1_700_000_000), "the token expired at 2023-11-14 22:13:20 UTC; fetch a new one"),
        (jwt(4_000_000_000), "the token is not accepted"),
    ],
)
def test_a_caller_whom_kubeflow_does_not_know_is_told_why(description, token, message):
    with serving(description, token="right") as kubeflow, pytest.raises(Refused) as caught:
        runs.cancel(Connection(kubeflow.url, token=token), "r")
    assert message in str(caught.value)
    assert token is None or token not in str(caught.value)


def test_an_unknown_namespace_is_named(description):
    with serving(description, namespaces={"team"}) as kubeflow:
        assert "no runs" in runs.listing(Connection(kubeflow.url, "team"), "medloop")
        with pytest.raises(Refused, match="namespace 'taem' is unknown, or closed to this caller"):
            runs.listing(Connection(kubeflow.url, "taem"), "medloop")
        with pytest.raises(Refused, match="has many users: give --namespace"):
            runs.listing(Connection(kubeflow.url), "medloop")
        assert kubeflow.changes() == []


def test_a_namespace_that_a_single_user_kubeflow_has_not_is_refused(kubeflow):
    with pytest.raises(Refused, match="has a single user and no namespaces: leave out 'team'"):
        runs.listing(Connection(kubeflow.url, "team"), "medloop")


@pytest.fixture
def certificate(tmp_path) -> tuple[Path, Path]:
    return certificates.make(tmp_path)


def test_tls_is_verified_against_the_bundle_alone(description, certificate):
    with serving(description, certificate=certificate, token="t0") as kubeflow:
        with pytest.raises(Unreachable, match=r"certificate of https://127.* is not trusted here: give .*--ca-cert"):
            runs.listing(Connection(kubeflow.url, token="t0"), "medloop")
        assert kubeflow.requests == []
        assert "no runs" in runs.listing(Connection(kubeflow.url, token="t0", ca_cert=certificate[0]), "medloop")
