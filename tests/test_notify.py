"""Notifications, sent for real to receivers on loopback."""

import base64

import pytest

import certificates
from medloop import failures, kubeflow, notify
from medloop.errors import Refused, Unreachable
from medloop.params import Notify
from receivers import Mail, Web, receiving

FAILED = notify.report("medloop-x", "FAILED", [("train-cnn", "no GPU"), ("train-lstm", "no GPU")], "r1")
ALL = Notify(channels=("webhook", "slack", "email"))


@pytest.fixture
def web(monkeypatch):
    monkeypatch.setattr(notify, "PAUSE_SECONDS", 0.0)
    with receiving(Web()) as server:
        monkeypatch.setenv("MEDLOOP_WEBHOOK_URL", f"{server.url}/hooks/s3cret")
        monkeypatch.setenv("MEDLOOP_SLACK_URL", f"{server.url}/services/s3cret")
        yield server


@pytest.fixture
def mail(monkeypatch):
    with receiving(Mail()) as server:
        monkeypatch.setenv("MEDLOOP_SMTP_URL", server.url)
        monkeypatch.setenv("MEDLOOP_MAIL_FROM", "medloop@example.org")
        monkeypatch.setenv("MEDLOOP_MAIL_TO", "team@example.org, lead@example.org")
        yield server


def test_every_channel_names_the_steps_and_the_reasons(web, mail):
    notify.send(ALL, FAILED)
    (hook, told), (slack, text) = web.got
    assert (hook, slack) == ("/hooks/s3cret", "/services/s3cret")
    assert told["failed"][0] == {"step": "train-cnn", "reason": "no GPU"}
    assert (told["state"], told["run"]) == ("FAILED", "r1")
    assert text == {"text": told["text"]}
    assert told["text"].splitlines()[0] == "medloop-x: run r1 failed at train-cnn, train-lstm"
    [message] = mail.got
    assert "Subject: medloop-x: run r1 failed at train-cnn, train-lstm" in message
    assert "train-lstm: no GPU" in message
    assert [line.split("<")[1] for line in mail.envelopes if line.upper().startswith("RCPT")] == [
        "team@example.org>",
        "lead@example.org>",
    ]


@pytest.mark.parametrize("state", ["SUCCEEDED", "COMPLETE"])
def test_success_is_told_only_where_asked_for(web, state):
    told = notify.report("medloop-x", state, [], "r1")
    notify.send(Notify(channels=("webhook",)), told)
    assert web.got == []
    notify.send(Notify(channels=("webhook",), when="always"), told)
    assert web.got[0][1]["text"] == "medloop-x: run r1 succeeded"


def test_a_step_that_left_no_word_is_not_kept_quiet_about():
    told = notify.report("medloop-x", "FAILED", [], "r1")
    assert "a step ended without a word" in told["text"]
    assert "medloop pipeline logs r1" in told["text"]


def test_a_receiver_that_is_down_for_a_moment_is_tried_again(web):
    web.statuses = [503, 503]
    notify.send(Notify(channels=("webhook",)), FAILED)
    assert len(web.got) == 3


@pytest.mark.parametrize("status", [302, 404, 500])
def test_a_receiver_that_does_not_take_it_is_reported_without_its_address(web, mail, status):
    web.statuses = [status] * 6
    with pytest.raises(Unreachable) as caught:
        notify.send(ALL, FAILED)
    assert f"no notification by webhook: status {status}; no notification by slack" in str(caught.value)
    assert "s3cret" not in str(caught.value)
    assert len(mail.got) == 1, "one channel that fails keeps no other from being tried"


def test_nobody_there_is_reported_without_the_address(monkeypatch):
    monkeypatch.setattr(notify, "PAUSE_SECONDS", 0.0)
    monkeypatch.setenv("MEDLOOP_WEBHOOK_URL", "http://127.0.0.1:9/s3cret")
    with pytest.raises(Unreachable, match=r"^no notification by webhook: ConnectionError$"):
        notify.send(Notify(channels=("webhook",)), FAILED)


@pytest.mark.parametrize(
    ("variables", "channel", "message"),
    [
        ({"MEDLOOP_WEBHOOK_URL": ""}, "webhook", "MEDLOOP_WEBHOOK_URL is not set"),
        ({"MEDLOOP_SLACK_URL": "hooks/s3cret"}, "slack", "MEDLOOP_SLACK_URL must be an http"),
        ({"MEDLOOP_SMTP_URL": "mail/s3cret"}, "email", "MEDLOOP_SMTP_URL must read smtp://"),
    ],
)
def test_a_variable_that_does_not_fit_is_named_and_not_shown(mail, monkeypatch, variables, channel, message):
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(Refused, match=message) as caught:
        notify.send(Notify(channels=(channel,)), FAILED)
    assert "s3cret" not in str(caught.value)


def test_a_password_does_not_go_to_a_mail_server_without_tls(mail, monkeypatch):
    monkeypatch.setenv("MEDLOOP_SMTP_URL", mail.url.replace("//", "//user:hunter2@"))
    with pytest.raises(Refused, match="offers no TLS"):
        notify.send(Notify(channels=("email",)), FAILED)
    assert mail.got == []


@pytest.mark.parametrize("at_once", [True, False])
def test_a_password_goes_to_a_trusted_mail_server_over_tls_alone(mail, monkeypatch, tmp_path, at_once):
    monkeypatch.setattr(notify, "PAUSE_SECONDS", 0.0)
    certificate = certificates.make(tmp_path)
    with receiving(Mail(certificate, at_once=at_once)) as private:
        monkeypatch.setenv("MEDLOOP_SMTP_URL", private.url.replace("//", "//us%40er:hunter2@"))
        with pytest.raises(Unreachable, match=r"^no notification by email: SSLCertVerificationError$"):
            notify.send(Notify(channels=("email",)), FAILED)
        assert (private.logins, private.got) == ([], [])
        monkeypatch.setenv("SSL_CERT_FILE", str(certificate[0]))
        notify.send(Notify(channels=("email",)), FAILED)
        [(login, over_tls)] = private.logins
    assert base64.b64decode(login) == b"\0us@er\0hunter2"
    assert over_tls
    assert len(private.got) == 1


@pytest.mark.parametrize(
    "variable", [("MEDLOOP_RUN", "r1"), ("KFP_POD_NAME", "medloop-x-7k2-system-container-impl-99")]
)
def test_steps_of_one_run_share_their_notes(monkeypatch, variable):
    monkeypatch.setenv(*variable)
    for reason in ("first try", "second try"):
        with pytest.raises(SystemExit), kubeflow.step("train-cnn"):
            raise Refused(reason)
    with pytest.raises(SystemExit), kubeflow.step("validate"):
        raise KeyError("Canarybird^Jane")
    if variable[0] == "KFP_POD_NAME":  # another pod of the same run
        monkeypatch.setenv("KFP_POD_NAME", "medloop-x-7k2-system-container-impl-4711")
    (one, reason), (two, unexpected) = failures.read()
    assert (one, reason, two) == ("train-cnn", "second try", "validate")
    assert unexpected.startswith("unexpected KeyError in ")
    with kubeflow.step("train-cnn"):
        pass
    assert [step for step, _ in failures.read()] == ["validate"]
    monkeypatch.setenv(variable[0], variable[1].replace("7k2", "8x3").replace("r1", "r2"))
    assert failures.read() == []


def test_outside_of_a_run_no_note_is_left(own_state):
    with pytest.raises(SystemExit), kubeflow.step("ingest"):
        raise Refused("no")
    assert not (own_state / "state").exists()
