"""What says where Kubeflow is: options, then MEDLOOP_KFP_* in the environment, then a file of the user's."""

import os
from pathlib import Path
from typing import Any

import yaml

from medloop.errors import Refused

KNOWN = ("host", "namespace", "token", "token_file", "service_account", "ca_cert")
CREDENTIALS = ("token", "token_file", "service_account")
YES, NO = ("1", "true", "yes"), ("", "0", "false", "no")


def path() -> Path:
    """Return the file of settings: $MEDLOOP_KFP_CONFIG, else in the user's configuration folder."""
    if named := os.environ.get("MEDLOOP_KFP_CONFIG"):
        return Path(named)
    return Path(os.environ.get("XDG_CONFIG_HOME") or Path.home() / ".config") / "medloop" / "kubeflow.yaml"


def read(options: dict[str, Any]) -> dict[str, Any]:
    """Return the settings by name; credentials come as a whole from the first place that gives any.

    Raises:
        Refused: two kinds of credentials in one place, or a file with an unknown key or a token open to others.
    """
    environment = {name: os.environ.get(f"MEDLOOP_KFP_{name.upper()}") for name in KNOWN}
    if environment["service_account"] is not None:
        environment |= {"service_account": _flag(environment["service_account"])}  # type: ignore[dict-item]
    found: dict[str, Any] = {}
    for where, layer in (("options", options), ("MEDLOOP_KFP_*", environment), (str(path()), _file())):
        given = {name: value for name, value in layer.items() if value not in (None, "", False)}
        credentials = [name for name in CREDENTIALS if name in given]
        if len(credentials) > 1:
            raise Refused(f"{where}: one of {' and '.join(credentials)}, not both")
        known = any(name in found for name in CREDENTIALS)
        found = {name: value for name, value in given.items() if not (known and name in CREDENTIALS)} | found
    return found


def token(found: dict[str, Any]) -> str | None:
    """Return the bearer token that the settings give or point to."""
    if not found.get("token_file"):
        given = str(found.get("token") or "").strip()
        if len(given.split()) > 1 or not given.isprintable():
            raise Refused("the token in MEDLOOP_KFP_TOKEN, or under `token:` in the file, must be one word")
        return given or None
    file = Path(found["token_file"]).expanduser()
    try:
        text = file.read_text().strip()
    except (OSError, UnicodeDecodeError) as error:
        raise Refused(f"no token in {file}: {getattr(error, 'strerror', None) or 'it is no text'}") from None
    if not text or len(text.split()) > 1:
        raise Refused(f"no token in {file}: it must hold one word")
    return text


def _file() -> dict[str, Any]:
    file = path()
    try:
        content = yaml.safe_load(file.read_text()) or {}
    except FileNotFoundError:
        return {}
    except (OSError, yaml.YAMLError, UnicodeDecodeError) as error:
        raise Refused(f"{file} cannot be read as YAML ({type(error).__name__})") from None
    if not isinstance(content, dict) or (unknown := sorted(set(content) - set(KNOWN))):
        what = f"unknown key {unknown[0]!r}" if isinstance(content, dict) else "no keys and values"
        raise Refused(f"{file}: {what}; known: {', '.join(KNOWN)}")
    if content.get("token") and file.stat().st_mode & 0o077:
        raise Refused(f"{file} holds a token and others may read it: `chmod 600 {file}`")
    return content


def _flag(text: str) -> bool:
    if text.lower() not in (*YES, *NO):
        raise Refused(f"MEDLOOP_KFP_SERVICE_ACCOUNT must be 1 or 0, got {text!r}")
    return text.lower() in YES
