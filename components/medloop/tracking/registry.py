"""Versions of a registered model, their tags and aliases."""

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd
from mlflow import MlflowClient, pyfunc
from mlflow.artifacts import download_artifacts
from mlflow.entities import LoggedModelOutput
from mlflow.entities.model_registry import ModelVersion
from mlflow.exceptions import MlflowException
from mlflow.pyfunc import PyFuncModel

from medloop import provenance
from medloop.errors import Refused
from medloop.evidence import DIGEST
from medloop.tracking.connection import uri
from medloop.tracking.packaging import packaged

RUN = "medloop.run_id"  # of the latest evaluation
FILES = "medloop.files"  # digest of each file of the registered model, JSON
DONE = "medloop.registered"  # set last


@dataclass(frozen=True)
class Version:
    """One version of the registered model."""

    name: str
    number: str
    tags: dict[str, str]
    aliases: tuple[str, ...]

    def __str__(self) -> str:
        return f"version {self.number}"


def find(client: MlflowClient, name: str, digest: str) -> Version | None:
    """Return the version of the model with this digest."""
    found = client.search_model_versions(f"name = '{name}' and tags.`{DIGEST}` = '{digest}'")
    return _version(min(found, key=lambda each: int(each.version)), client) if found else None


def versions(client: MlflowClient, name: str) -> list[Version]:
    """Return all versions, the oldest first."""
    found = client.search_model_versions(f"name = '{name}'")
    return [_version(each, client) for each in sorted(found, key=lambda each: int(each.version))]


def names(client: MlflowClient) -> list[str]:
    """Return the names of medloop's models, sorted."""
    found, token = [], None
    while token != "":
        page = client.search_registered_models("name LIKE 'medloop-%'", page_token=token)
        found += [str(each.name) for each in page]
        token = page.token or ""
    return sorted(found)


def get(client: MlflowClient, name: str, reference: str) -> Version:
    """Return the version that a number or an alias stands for.

    Raises:
        Refused: there is none; the message lists what exists.
    """
    if reference.isdigit():
        found = _if_there(lambda: _version(client.get_model_version(name, reference), client))
    else:
        found = alias(client, name, reference)
    if found is None:
        kind = "version" if reference.isdigit() else "alias"
        existing = (
            ", ".join(_described(each) for each in versions(client, name)) or "no versions yet: `medloop register`"
        )
        raise Refused(f"{name} has no {kind} {reference!r}; it has {existing}")
    return found


def alias(client: MlflowClient, name: str, which: str) -> Version | None:
    """Return the version that carries the alias `which`, or None."""
    return _if_there(lambda: _version(client.get_model_version_by_alias(name, which), client))


def create(
    client: MlflowClient, name: str, model: Path, card: dict[str, Any], *, run_id: str, tags: dict[str, str], text: str
) -> Version:
    """Log the model under a run and return its new version, which appears with all its tags or not at all."""
    experiment_id = client.get_run(run_id).info.experiment_id
    logged = client.create_logged_model(experiment_id, name, source_run_id=run_id, tags=tags)
    with packaged(model, card, model_id=logged.model_id, run_id=run_id) as folder:
        files = json.dumps(provenance.tree(folder), sort_keys=True)
        client.log_model_artifacts(logged.model_id, str(folder))
    client.finalize_logged_model(logged.model_id, "READY")
    client.log_outputs(run_id, [LoggedModelOutput(logged.model_id, step=0)])
    if not client.search_registered_models(f"name = '{name}'"):
        client.create_registered_model(name)
    source = f"models:/{logged.model_id}"
    made = client.create_model_version(
        name, source, run_id, tags={**tags, FILES: files}, description=text, model_id=logged.model_id
    )
    return _version(made, client)


def set_aliases(client: MlflowClient, name: str, wanted: dict[str, str | None]) -> None:
    """Move aliases in the order given; None leaves one where it is."""
    for which, number in wanted.items():
        if number is not None:
            client.set_registered_model_alias(name, which, number)


def retag(client: MlflowClient, version: Version, tags: dict[str, str]) -> None:
    """Set those of `tags` that the version does not have yet."""
    for key, value in tags.items():
        if version.tags.get(key) != value:
            client.set_model_version_tag(version.name, version.number, key, value)


def load(reference: str) -> PyFuncModel:
    """Return the pyfunc at a `models:/` address.

    Raises:
        Refused: there is none, or one of its files is not the one that was registered.
    """
    try:
        return pyfunc.load_model(reference, suppress_warnings=True)  # to compare requirements takes 1.3 s
    except ValueError as error:
        raise Refused(f"{reference}: {error}; register the model again") from None


def predictions(version: Version) -> pd.DataFrame:
    """Return the test predictions that were logged with the version."""
    return _table(version, "predictions.parquet")


def development(version: Version) -> pd.DataFrame:
    """Return patient_id and content_sha256 of every image that the version was trained or chosen on."""
    return _table(version, "development.parquet")


def folder(version: Version, name: str) -> Path:
    """Return where the files are that were logged with the version under a name."""
    return Path(download_artifacts(run_id=version.tags[RUN], artifact_path=name, tracking_uri=uri()))


def _table(version: Version, name: str) -> pd.DataFrame:
    return pd.read_parquet(download_artifacts(run_id=version.tags[RUN], artifact_path=name, tracking_uri=uri()))


def _if_there(ask: Callable[[], Version]) -> Version | None:
    try:
        return ask()
    except MlflowException as error:
        if error.error_code in ("RESOURCE_DOES_NOT_EXIST", "INVALID_PARAMETER_VALUE"):  # the latter: no such alias
            return None
        raise


def _version(found: ModelVersion, client: MlflowClient) -> Version:
    fresh = client.get_model_version(found.name, found.version)  # a search leaves the aliases out
    return Version(fresh.name, str(fresh.version), dict(fresh.tags), tuple(fresh.aliases))


def _described(version: Version) -> str:
    return str(version) + (f" ({', '.join(version.aliases)})" if version.aliases else "")
