"""The way to the Kubeflow Pipelines API: its address, who asks, and one clear error for each way it can fail."""

import base64
import binascii
import json
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from http import HTTPStatus
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import certifi
import kfp
import kfp_server_api
import urllib3
from kfp.client import ServiceAccountTokenVolumeCredentials
from kfp_server_api.rest import RESTClientObject

from medloop.errors import Refused, Unreachable
from medloop_pipelines import settings

ANSWER_SECONDS = 5.0  # for the first sign of life
CALL_SECONDS = 60.0  # for any later answer
HEALTH = "/apis/v2beta1/healthz"
LOOPBACK = ("localhost", "127.0.0.1", "::1")
IN_CLUSTER = (".svc", ".svc.cluster.local")


@dataclass(frozen=True)
class Connection:
    """Where Kubeflow is and who asks; the token is shown nowhere."""

    host: str
    namespace: str | None = None
    token: str | None = field(default=None, repr=False)
    service_account: bool = False
    ca_cert: Path | None = None


def resolve(**options: Any) -> Connection:
    """Return the connection that `options` give, what they leave out from the environment, then from the file.

    Raises:
        Refused: no host, a setting that nobody knows, two kinds of credentials, or a file that cannot be read.
    """
    found = settings.read(options)
    host = str(found.get("host") or "").rstrip("/")
    if not host:
        raise Refused(f"no Kubeflow named: give --host, MEDLOOP_KFP_HOST, or `host:` in {settings.path()}")
    if "@" in host:
        raise Refused("the host must not hold a user name or password, for it is shown: give a token instead")
    if not host.startswith(("http://", "https://")):
        raise Refused(f"the host must begin with http:// or https://, got {host!r}")
    try:
        urllib3.util.parse_url(host)
    except urllib3.exceptions.LocationParseError:
        raise Refused(f"the host is no address: {host!r}") from None
    ca_cert = Path(found["ca_cert"]).expanduser() if found.get("ca_cert") else None
    if ca_cert and not ca_cert.is_file():
        raise Refused(f"no CA bundle {ca_cert}: name a file of PEM certificates")
    account = bool(found.get("service_account"))
    to = Connection(host, found.get("namespace") or None, settings.token(found), account, ca_cert)
    _check_secrecy(to)
    return to


@contextmanager
def kubeflow(to: Connection) -> Iterator[kfp.Client]:
    """Yield a client of the Kubeflow at `to`, TLS verified.

    Raises:
        Unreachable: nothing answers, or it broke off.
        Refused: what answers is no Kubeflow, does not know the caller or the namespace, or will not do this.
    """
    try:
        _look_for_kubeflow(to)
        yield _client(to)
    except kfp_server_api.ApiException as error:
        raise _refusal(to, error) from None
    except urllib3.exceptions.HTTPError as error:
        raise _silence(to, error) from None


def _client(to: Connection) -> kfp.Client:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)  # on servers of before 2.0
        client = kfp.Client(
            host=to.host,
            namespace=to.namespace or "kubeflow",  # the client's word for none
            existing_token=to.token,
            credentials=ServiceAccountTokenVolumeCredentials() if to.service_account else None,
            ssl_ca_cert=str(to.ca_cert) if to.ca_cert else None,
            verify_ssl=True,
        )
    client._run_api.api_client.rest_client = _Bounded(client._existing_config)  # the client itself waits for ever
    return client


class _Bounded(RESTClientObject):
    def request(self, *args: Any, **options: Any) -> Any:
        options["_request_timeout"] = options.get("_request_timeout") or (ANSWER_SECONDS, CALL_SECONDS)
        return super().request(*args, **options)


def _look_for_kubeflow(to: Connection) -> None:
    """Ask before the client does, which would try for half a minute and print tracebacks."""
    http = urllib3.PoolManager(
        retries=False,
        timeout=ANSWER_SECONDS,
        cert_reqs="CERT_REQUIRED",
        ca_certs=str(to.ca_cert or certifi.where()),
    )
    bearer = _bearer(to)
    headers = {"Authorization": f"Bearer {bearer}"} if bearer else {}
    answer = http.request("GET", f"{to.host}{HEALTH}", headers=headers, redirect=False)
    if answer.status in (HTTPStatus.UNAUTHORIZED, HTTPStatus.FORBIDDEN):
        raise kfp_server_api.ApiException(http_resp=_Answer(answer))
    if answer.get_redirect_location():
        raise Refused(f"Kubeflow at {to.host} asks for a login: {_credentials(to)}")
    try:
        multi_user = bool(json.loads(answer.data)["multi_user"]) if answer.status == HTTPStatus.OK else None
    except (ValueError, TypeError, KeyError):
        multi_user = None
    if multi_user is None:
        raise Refused(f"no Kubeflow Pipelines API at {to.host}: {HEALTH} answers {answer.status} {answer.reason}")
    if multi_user and not to.namespace:
        raise Refused(f"Kubeflow at {to.host} has many users: give --namespace, the Kubeflow profile to run in")
    if to.namespace and not multi_user:
        raise Refused(f"Kubeflow at {to.host} has a single user and no namespaces: leave out {to.namespace!r}")


class _Answer:
    """An answer of urllib3 in the form that the client's error reads."""

    def __init__(self, answer: urllib3.BaseHTTPResponse) -> None:
        self.status, self.reason, self.data = answer.status, answer.reason, answer.data.decode(errors="replace")

    def getheaders(self) -> None:
        return None


def _bearer(to: Connection) -> str | None:
    if not to.service_account:
        return to.token
    config = kfp_server_api.Configuration()
    credentials = ServiceAccountTokenVolumeCredentials()
    try:
        credentials.refresh_api_key_hook(config)
    except OSError as error:
        raise Refused(
            f"no token of a service account at {credentials._token_path}: {error.strerror}; mount one there, or name "
            "its file in KF_PIPELINES_SA_TOKEN_PATH"
        ) from None
    return str(config.api_key["authorization"])


def _refusal(to: Connection, error: kfp_server_api.ApiException) -> Refused:
    if error.status == HTTPStatus.UNAUTHORIZED:
        return Refused(f"Kubeflow at {to.host} does not let this caller in (401): {_credentials(to)}")
    if error.status == HTTPStatus.FORBIDDEN:
        if not to.namespace:
            return Refused(f"Kubeflow at {to.host} refused (403): {_said(error)}; nothing was changed")
        return Refused(
            f"Kubeflow at {to.host} refused (403): namespace {to.namespace!r} is unknown, or closed to this caller: "
            "give another --namespace, or ask its owner to let this caller in; nothing was changed"
        )
    if error.status == HTTPStatus.NOT_FOUND:
        known = "`medloop pipeline status` and `medloop schedule list` say what is there"
        return Refused(f"Kubeflow at {to.host} refused: 404 {_said(error)}; {known}")
    return Refused(f"Kubeflow at {to.host} refused: {error.status} {_said(error)}")


def _credentials(to: Connection) -> str:
    """Return what is wrong with the credentials, as far as it can be told from here."""
    bearer = _bearer(to)
    if bearer is None:
        return "it wants a token: give --token-file, MEDLOOP_KFP_TOKEN or --service-account"
    expired = _expiry(bearer)
    if expired and expired <= datetime.now(UTC):
        return f"the token expired at {expired:%Y-%m-%d %H:%M:%S} UTC; fetch a new one"
    return "the token is not accepted: give one for this Kubeflow, by --token-file or MEDLOOP_KFP_TOKEN"


def _expiry(token: str) -> datetime | None:
    """Return when a JSON Web Token expires; None for any other token."""
    try:
        claims = token.split(".")[1]
        seconds = json.loads(base64.urlsafe_b64decode(claims + "=" * (-len(claims) % 4)))["exp"]
        return datetime.fromtimestamp(seconds, UTC)
    except (IndexError, ValueError, KeyError, TypeError, OverflowError, OSError, binascii.Error):
        return None


def _said(error: kfp_server_api.ApiException) -> str:
    """Return the first line of what the server says of itself."""
    try:
        content = json.loads(error.body)
        text = str(content.get("message") or content["error"])
    except (ValueError, TypeError, KeyError, AttributeError):
        text = str(error.reason)
    return text.strip().partition("\n")[0][:300]


def _silence(to: Connection, error: Exception) -> Unreachable:
    reason = getattr(error, "reason", None) or error
    if isinstance(reason, urllib3.exceptions.SSLError):
        return Unreachable(
            f"the certificate of {to.host} is not trusted here: give its authority's bundle as --ca-cert; "
            "nothing was sent"
        )
    return Unreachable(
        f"Kubeflow at {to.host} does not answer ({type(reason).__name__}): check --host (MEDLOOP_KFP_HOST), and that "
        "this machine reaches it; nothing was changed"
    )


def _check_secrecy(to: Connection) -> None:
    """Refuse to send a token in the clear over an open network."""
    name = urlsplit(to.host).hostname or ""
    private = name in LOOPBACK or name.endswith(IN_CLUSTER) or to.host.startswith("https://")
    if (to.token or to.service_account) and not private:
        raise Refused(f"a token would go to {to.host} unencrypted: use https://")
