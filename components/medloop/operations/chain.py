"""A registered version with the lineage that was logged with it: the chain from the version back to its data."""

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from mlflow import MlflowClient
from mlflow.artifacts import download_artifacts
from mlflow.entities import Run
from mlflow.exceptions import MlflowException

from medloop import params, provenance
from medloop.errors import Refused
from medloop.tracking import registry
from medloop.tracking.connection import address, uri

STAGES = list(params.STAGES)
STEP = {"outputs": dict, "inputs": dict, "parameters": dict, "code": dict, "packages": dict}


@dataclass(frozen=True)
class Chain:
    """A version and the lineage of the evaluation that it was registered with."""

    version: registry.Version
    lineage: dict[str, Any]

    @cached_property
    def digest(self) -> str:
        """The digest of the evaluation's outputs."""
        return provenance.json_digest(self.lineage["outputs"])

    @cached_property
    def steps(self) -> dict[str, dict[str, Any]]:
        """The lineage of every output that led to the version by its digest, from samples to evaluation."""
        own = {key: value for key, value in self.lineage.items() if key != "upstream"}
        found = {**self.lineage["upstream"], self.digest: own}
        return dict(sorted(found.items(), key=lambda item: (STAGES.index(item[1]["stage"]), self.names[item[0]])))

    @cached_property
    def names(self) -> dict[str, str]:
        """What those who read an output call it, by its digest: samples, models/cnn ..."""
        steps = [*self.lineage["upstream"].values(), self.lineage]
        steps.sort(key=lambda step: STAGES.index(step["stage"]), reverse=True)  # the first to read it names it
        read = {digest: name for step in steps for name, digest in step["inputs"].items()}
        return {**dict.fromkeys(self.lineage["upstream"], "?"), **read, self.digest: "evaluation"}


def version(client: MlflowClient, base: params.Base | None, reference: str) -> registry.Version:
    """Return the version that a number, an alias or a models:/ address stands for.

    Args:
        client: of the tracking server.
        base: names the model; None: the only model on the server.
        reference: as the user gave it.

    Raises:
        Refused: no such version, no such form of address, or no telling which model is meant.
    """
    if reference.startswith("models:/"):
        parts = re.fullmatch(r"models:/(?P<name>[^/@]+)(?:/(?P<number>\d+)|@(?P<alias>[^/@]+))", reference)
        if parts is None:
            raise Refused(f"a version's address reads models:/NAME/NUMBER or models:/NAME@ALIAS, got {reference}")
        return registry.get(client, parts["name"], parts["number"] or parts["alias"])
    return registry.get(client, base.model_name if base else _only_model(client, reference), reference)


def read(found: registry.Version) -> Chain:
    """Return the chain of a version; raise Refused where none was logged with it, or what was logged is no lineage."""
    if registry.RUN not in found.tags:
        raise Refused(
            f"{found} of {found.name} lacks the tag {registry.RUN}: only versions that `medloop register` made have a "
            "chain"
        )
    return Chain(found, lineage(logged(found, provenance.LINEAGE)))


def run(client: MlflowClient, found: registry.Version) -> Run:
    """Return MLflow's run of the version's latest evaluation."""
    return client.get_run(found.tags[registry.RUN])


def logged(found: registry.Version, place: str, folder: Path | None = None) -> Path:
    """Return the local copy, below `folder`, of what lies at `place` among the artifacts of the version's run."""
    try:
        to = str(folder) if folder else None
        run_id = found.tags[registry.RUN]
        return Path(download_artifacts(run_id=run_id, artifact_path=place, dst_path=to, tracking_uri=uri()))
    except (MlflowException, FileNotFoundError, OSError) as error:
        if isinstance(error, MlflowException) and "API request to" in str(error):
            raise
        raise Refused(
            f"broken: {address()} has no {place or 'files'} of {found} of {found.name}, which was logged at its "
            "registration"
        ) from None


def lineage(path: Path) -> dict[str, Any]:
    """Return the lineage in `path`; raise Refused where it is none."""
    found = content(path, upstream=dict, **STEP)
    for step in [found, *found["upstream"].values()]:
        if step.get("stage") not in STAGES or any(not isinstance(step.get(key), kind) for key, kind in STEP.items()):
            raise Refused(f"broken: {path.name} as logged is not what medloop writes: it was changed since")
    return found


def content(path: Path, **keys: type) -> dict[str, Any]:
    """Return a lineage or another JSON object in `path`; raise Refused where it is none or lacks one of `keys`."""
    try:
        found = json.loads(path.read_text())
    except (ValueError, UnicodeDecodeError):
        found = None
    if not isinstance(found, dict) or any(not isinstance(found.get(key), kind) for key, kind in keys.items()):
        raise Refused(f"broken: {path.name} as logged is not what medloop writes: it was changed since")
    return found


def part(step: Mapping[str, Any]) -> str:
    """Return what a step is called among those of its stage: the architecture of a training."""
    names = step["parameters"]["section"].get("architectures", ()) if step["stage"] == "train" else ()
    return " ".join([step["stage"], *names])


def _only_model(client: MlflowClient, reference: str) -> str:
    names = registry.names(client)
    if len(names) == 1:
        return names[0]
    listed = ", ".join(names) or "no model of medloop"
    raise Refused(
        f"which model's {reference!r}? Give models:/NAME/NUMBER or models:/NAME@ALIAS; {address()} has {listed}"
    )
