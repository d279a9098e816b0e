"""Print the chain of a version: down to its data, or from data up to every version made of it."""

import json
import re
from collections.abc import Iterator, Mapping
from typing import Any

from mlflow import MlflowClient

from medloop import evidence, params, provenance
from medloop.errors import Refused
from medloop.operations import chain
from medloop.operations.chain import Chain
from medloop.tracking import registry
from medloop.tracking.connection import address, server
from medloop.tracking.loops import PARENT

SHORT = 12
SHORTEST = 8  # hex digits by which a digest may be named
UNKNOWN = "not recorded"


def down(base: params.Base | None, model: str) -> str:
    """Return the chain of a version, from it down to its data, and which versions share its samples.

    Args:
        base: names the model; None: the only model on the server.
        model: a number, an alias or a models:/ address.

    Raises:
        Refused: no such version, or no chain was logged with it.
    """
    with server() as client:
        version = chain.version(client, base, model)
        found = chain.read(version)
        steps = [line for digest in reversed(found.steps) for line in _step(found, digest)]
        samples, _ = evidence.ingested(found.lineage)
        siblings = [each for each in registry.versions(client, version.name) if samples in _digests(each)]
        shared = f"versions of the samples {samples[:SHORT]}: {', '.join(_listed(each) for each in siblings)}"
        return "\n".join([*_head(client, version), *steps, shared])


def of_samples(base: params.Base | None, model: str) -> str:
    """Return what was made of the samples of a version, as `up` does."""
    with server() as client:
        digest = evidence.ingested(chain.read(chain.version(client, base, model)).lineage)[0]
    return up(digest)


def up(digest: str) -> str:
    """Return every output and version that was made of what `digest` names.

    Args:
        digest: of a step's outputs, of one of its files, of the data or of a model; its first digits will do.

    Raises:
        Refused: it is no digest, or no version on the server was made of such a thing.
    """
    wanted = re.sub(r"^(md5|sha256):", "", digest).lower()
    if not re.fullmatch(rf"[0-9a-f]{{{SHORTEST},64}}(\.dir)?", wanted):
        raise Refused(f"a digest has {SHORTEST} to 64 hex digits, got {digest!r}")
    lines: dict[str, None] = {}
    versions = []
    with server() as client:
        for version in (each for name in registry.names(client) for each in registry.versions(client, name)):
            if registry.RUN not in version.tags:
                continue
            found = chain.read(version)
            made = _made_of(found, wanted)
            lines |= dict.fromkeys(_brief(found, each) for each in made)
            if made:
                versions.append(f"version      {version.name} {_listed(version)}")
    if not versions:
        raise Refused(f"no version on {address()} was made of anything that the digest {digest} names")
    order = {f"{stage:<10}": number for number, stage in enumerate(chain.STAGES)}
    return "\n".join([*sorted(lines, key=lambda line: order[line[:10]]), *versions])


def _head(client: MlflowClient, version: registry.Version) -> Iterator[str]:
    run = chain.run(client, version)
    children = client.search_runs([run.info.experiment_id], f"tags.`{PARENT}` = '{run.info.run_id}'")
    trainings = ", ".join(f"{each.info.run_id} ({each.info.run_name})" for each in children)
    files = json.loads(version.tags.get(registry.FILES, "{}"))
    images = json.loads(version.tags.get(evidence.IMAGES, "{}"))
    yield f"{version.name} {_listed(version)} on {address()}"
    rows = {
        "model": version.tags.get(evidence.DIGEST, UNKNOWN),
        "files": ", ".join(f"{name} {digest[:SHORT]}" for name, digest in files.items()) or UNKNOWN,
        "git commit": version.tags.get(evidence.COMMIT, UNKNOWN),
        "data": version.tags.get(evidence.DATA, UNKNOWN),
        "images": ", ".join(f"{stage} {digest}" for stage, digest in images.items()) or UNKNOWN,
        "MLflow run": run.info.run_id,
        "trainings": trainings or UNKNOWN,
        "KFP run": version.tags.get(evidence.KUBEFLOW, UNKNOWN),
    }
    yield from (f"  {name:<11}{value}" for name, value in rows.items())


def _step(found: Chain, digest: str) -> Iterator[str]:
    step = found.steps[digest]
    yield f"{chain.part(step)}: {found.names[digest]}  {digest}"
    code, packages = step["code"], step["packages"]
    rows = {
        "of": ", ".join(f"{name} {came[:SHORT]}" for name, came in step["inputs"].items()) or _source(step),
        "files": f"{len(step['outputs'])}",
        "code": f"{len(code)} modules, {provenance.json_digest(code)[:SHORT]}",
        "packages": ", ".join(f"{name} {version}" for name, version in packages.items()),
        "image": step["image_digest"] or UNKNOWN,
    }
    yield from (f"  {name:<11}{value}" for name, value in rows.items())


def _source(step: Mapping[str, Any]) -> str:
    return f"source {step['parameters']['section']['source']}, data {step.get('data_hash', UNKNOWN)}"


def _made_of(found: Chain, wanted: str) -> list[str]:
    """Return the digests of the outputs that `wanted` names, and of all that was made of them."""
    tags = found.version.tags
    made: list[str] = []
    for digest, step in found.steps.items():  # from samples to evaluation
        named = [digest, str(step.get("data_hash", "")).partition(":")[2], *step["outputs"].values()]
        if digest == found.digest:
            named.append(tags.get(evidence.DIGEST, ""))
        if any(each.startswith(wanted) for each in named) or not set(made).isdisjoint(step["inputs"].values()):
            made.append(digest)
    return made


def _brief(found: Chain, digest: str) -> str:
    step = found.steps[digest]
    of = ", ".join(f"{name} {came[:SHORT]}" for name, came in step["inputs"].items()) or _source(step)
    return f"{step['stage']:<10}   {found.names[digest]:<16} {digest}  of {of}"


def _digests(version: registry.Version) -> set[str]:
    return {version.tags.get("medloop.dataset_digest", "")}


def _listed(version: registry.Version) -> str:
    return str(version) + (f" ({', '.join(version.aliases)})" if version.aliases else "")
