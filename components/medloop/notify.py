"""Tells people how a run ended: by webhook, Slack-compatible webhook or e-mail.

Addresses and passwords are read from the environment where the message is sent, a mounted secret on a cluster, and
stand in no parameter, log or error.
"""

import os
import smtplib
import ssl
import time
from email.message import EmailMessage
from typing import Any
from urllib.parse import unquote, urlsplit

import requests

from medloop.errors import Refused, Unreachable
from medloop.params import Channel, Notify

VARIABLES: dict[Channel, tuple[str, ...]] = {
    "webhook": ("MEDLOOP_WEBHOOK_URL",),
    "slack": ("MEDLOOP_SLACK_URL",),
    "email": ("MEDLOOP_SMTP_URL", "MEDLOOP_MAIL_FROM", "MEDLOOP_MAIL_TO"),
}
GOOD = ("SUCCEEDED", "COMPLETE", "CACHED")  # of a run, in the words of one or the other version of Kubeflow
TRIES, PAUSE_SECONDS, ANSWER_SECONDS = 3, 1.0, 15.0


def report(model: str, state: str, failed: list[tuple[str, str]], run: str) -> dict[str, Any]:
    """Return how a run ended, as a webhook is told: which steps failed, and why."""
    ended = "FAILED" if failed or state not in GOOD else "SUCCEEDED"
    lines = [f"{step}: {reason}" for step, reason in failed]
    if ended == "FAILED" and not failed:
        lines = [
            f"a step ended without a word (killed, or its image not found): `medloop pipeline logs {run}` says more"
        ]
    head = f"{model}: run {run} {'failed' if ended == 'FAILED' else 'succeeded'}"
    head += f" at {', '.join(step for step, _ in failed)}" if failed else ""
    steps = [{"step": step, "reason": reason} for step, reason in failed]
    return {"text": "\n".join([head, *lines]), "model": model, "run": run, "state": ended, "failed": steps}


def send(how: Notify, told: dict[str, Any]) -> None:
    """Send a report on each channel; one that fails keeps no other from being tried.

    Raises:
        Refused: a variable that a channel needs is not set, or a password would go unencrypted.
        Unreachable: nobody took the message on a channel.
    """
    if how.when == "failure" and told["state"] != "FAILED":
        return
    failed = []
    for channel in how.channels:
        try:
            _retried(channel, told)
        except Refused as error:
            failed.append(error)
    if failed:
        raise type(failed[0])("; ".join(map(str, failed)))


def _retried(channel: Channel, told: dict[str, Any]) -> None:
    values = [_variable(channel, name) for name in VARIABLES[channel]]
    for left in reversed(range(TRIES)):
        try:
            return _mail(values, told) if channel == "email" else _post(channel, values[0], told)
        except (requests.RequestException, smtplib.SMTPException, OSError) as error:
            if not left:
                answer = getattr(error, "response", None)
                reason = type(error).__name__ if answer is None else f"status {answer.status_code}"
                raise Unreachable(f"no notification by {channel}: {reason}") from None
            time.sleep(PAUSE_SECONDS)
    return None


def _post(channel: Channel, address: str, told: dict[str, Any]) -> None:
    if urlsplit(address).scheme not in ("http", "https"):
        raise Refused(f"{VARIABLES[channel][0]} must be an http:// or https:// address")
    body = {"text": told["text"]} if channel == "slack" else told
    answer = requests.post(address, json=body, timeout=ANSWER_SECONDS, allow_redirects=False)
    if not 200 <= answer.status_code < 300:
        raise requests.HTTPError(response=answer)


def _mail(values: list[str], told: dict[str, Any]) -> None:
    server, sender, recipients = values
    message = EmailMessage()
    message["Subject"], message["From"], message["To"] = told["text"].partition("\n")[0], sender, recipients
    message.set_content(told["text"])
    parts = urlsplit(server)
    if parts.scheme not in ("smtp", "smtps") or not parts.hostname:
        raise Refused("MEDLOOP_SMTP_URL must read smtp://USER:PASSWORD@HOST:PORT, or smtps:// where TLS comes first")
    trusted = ssl.create_default_context()
    if parts.scheme == "smtps":
        connected: smtplib.SMTP = smtplib.SMTP_SSL(
            parts.hostname, parts.port or 465, timeout=ANSWER_SECONDS, context=trusted
        )
    else:
        connected = smtplib.SMTP(parts.hostname, parts.port or 587, timeout=ANSWER_SECONDS)
    with connected:
        connected.ehlo()
        if parts.scheme == "smtp" and connected.has_extn("starttls"):
            connected.starttls(context=trusted)
            connected.ehlo()
        elif parts.scheme == "smtp" and parts.password:
            raise Refused("no notification by email: the server offers no TLS, and a password would go unencrypted")
        if parts.username:
            connected.login(unquote(parts.username), unquote(parts.password or ""))
        connected.send_message(message)


def _variable(channel: Channel, name: str) -> str:
    value = os.environ.get(name, "").strip()
    if not value:
        raise Refused(
            f"no notification by {channel}: {name} is not set; on a cluster it is a key of pipeline.notify.secret"
        )
    return value
