"""`medloop stack user`: people beside the administrator, each with a password of their own."""

import re
import secrets
import shlex
from pathlib import Path

import requests

from medloop.errors import Refused, Unreachable
from medloop.stack.settings import SECRET_BYTES, Settings, command, read, writable, write_private

ROLES: dict[str, tuple[str, ...]] = {"reader": (), "writer": ("experiment", "registered_model")}
TO_READ = ("MLFLOW_TRACKING_URI",)
TO_WRITE = (  # the lease on promotions is in S3, which has one key for all
    *TO_READ,
    "MEDLOOP_LEASE",
    "AWS_ENDPOINT_URL_S3",
    "AWS_DEFAULT_REGION",
    "AWS_ACCESS_KEY_ID",
    "AWS_SECRET_ACCESS_KEY",
)
SECONDS = 30.0


def add(folder: Path, name: str, role: str) -> str:
    """Make the MLflow user `name` of the stack in `folder`, and say where the password is.

    Args:
        folder: the stack's.
        name: new.
        role: a reader sees all runs and models; a writer trains, registers and promotes too.

    Raises:
        Refused: no such role, the name is taken or does not fit.
        Unreachable: the stack is not up.
    """
    if role not in ROLES:
        raise Refused(f"unknown role {role!r}; known: {', '.join(ROLES)}")
    if not re.fullmatch(r"[A-Za-z0-9][\w.-]{0,62}", name, re.ASCII):
        raise Refused(f"a user's name is up to 63 letters, digits, dots, dashes or underscores, got {name!r}")
    settings, password = read(folder), secrets.token_hex(SECRET_BYTES)
    path = settings.folder / "users" / f"{name}.env"
    if path.exists():
        raise Refused(f"{name} is a user already: see {path}")
    values = {variable: settings[variable] for variable in (TO_WRITE if ROLES[role] else TO_READ)}
    values |= {"MLFLOW_TRACKING_USERNAME": name, "MLFLOW_TRACKING_PASSWORD": password}
    with writable(folder):
        path.parent.mkdir(mode=0o700, exist_ok=True)
        write_private(path, "".join(f"{variable}={value}\n" for variable, value in values.items()))
    try:
        _ask(settings, "2.0/mlflow/users/create", username=name, password=password)
        for kind in ROLES[role]:
            grant = {"username": name, "resource_type": kind, "resource_id": "*", "permission": "MANAGE"}
            _ask(settings, "3.0/mlflow/users/permissions/grant", **grant)
    except Refused:
        path.unlink()
        raise
    return f"{name} is a {role}; what {name} sources is {shlex.quote(str(path))}"


def _ask(settings: Settings, call: str, **content: str) -> None:
    user = settings["MLFLOW_TRACKING_USERNAME"], settings["MLFLOW_TRACKING_PASSWORD"]
    address = f"{settings.url('mlflow')}/api/{call}"
    try:
        answer = requests.post(address, json=content, auth=user, timeout=SECONDS)
    except requests.RequestException as error:
        first = command("up", settings.folder)
        silence = f"{settings.url('mlflow')} does not answer ({type(error).__name__}): `{first}` first"
        raise Unreachable(silence) from None
    if answer.status_code != 200:
        said = answer.json()["message"] if answer.headers["Content-Type"] == "application/json" else answer.text
        raise Refused(f"MLflow server {settings.url('mlflow')}: {said}")
