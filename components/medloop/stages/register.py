"""Find or create the model's version in the registry, and gather the loop's runs under one."""

import json
import shutil
import subprocess
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pandas as pd

from medloop import params, privacy, provenance, turn
from medloop.errors import Refused
from medloop.tracking import loops, registry
from medloop.tracking.connection import address, server

MAX_DATA_DOCS_BYTES = 20 * 2**20  # larger ones go to the server as their first page alone


def register(
    base: params.Base,
    section: params.Register,
    *,
    models: Mapping[str, Path],
    validation: Path,
    evaluation: Path,
) -> dict[str, Any]:
    """Return the model's version, found by its digest or created, with `new`, its run and the server's address.

    Args:
        base: what every stage shares.
        section: the stage's own parameters.
        models: model folders by architecture.
        validation: what `validate` left.
        evaluation: what `evaluate` left.

    Raises:
        Refused: a file does not match its digest, the folders do not belong together, or another key made the samples.
        Unreachable: the tracking server does not answer; nothing is lost, for the next call takes up where this ended.
    """
    lineage, chosen = _verified(models, validation, evaluation)
    _same_key(lineage)
    card = json.loads((evaluation / "card.json").read_text())
    loop = _loop(base, lineage, card, models, validation, evaluation)
    digest = loop.tags[registry.DIGEST]
    with server() as client, turn.taken(base.model_name):
        run_id = loops.record(client, loop)
        tags = {**loop.tags, registry.RUN: run_id}
        version = registry.find(client, base.model_name, digest)
        if version is None:
            text = _description(card, loop.tags)
            version = registry.create(client, base.model_name, chosen, card, run_id=run_id, tags=tags, text=text)
        new = registry.DONE not in version.tags
        if new:
            turn.confirm(base.model_name)
            registry.set_aliases(client, base.model_name, {section.alias: version.number})
        registry.retag(client, version, {**tags, registry.DONE: "true"})
    return {"model": base.model_name, "version": version.number, "new": new, "run_id": run_id, "server": address()}


def _verified(models: Mapping[str, Path], validation: Path, evaluation: Path) -> tuple[dict[str, Any], Path]:
    """Return the lineage of `evaluation` and the folder of the model that it chose, every file checked."""
    lineage = provenance.verify(evaluation)
    provenance.verify(validation)
    inputs = {"validation": validation, **{f"models/{name}": path for name, path in models.items()}}
    for name, path in inputs.items():
        if lineage["inputs"].get(name) != provenance.digest(path):
            raise Refused(f"{evaluation} was made of another {name} than {path}: run `dvc repro`")
    architecture = json.loads((evaluation / "choice.json").read_text())["architecture"]
    if architecture not in models:
        raise Refused(
            f"{evaluation} chose {architecture}, train.architectures has {', '.join(models)}: run `dvc repro`"
        )
    provenance.verify(models[architecture])
    return lineage, models[architecture]


def _same_key(lineage: dict[str, Any]) -> None:
    """Raise Refused when the samples were made under another pseudonym key than the one that is there now."""
    wanted = _ingest(lineage)[1].get("key_fingerprint")
    if wanted and privacy.key_file().exists() and (came := privacy.Pseudonyms.load().fingerprint) != wanted:
        raise Refused(
            f"the samples were made under the pseudonym key {wanted}, {privacy.key_file()} holds {came}: "
            "put the right key back (MEDLOOP_KEY_FILE), or ingest again"
        )


def _ingest(lineage: dict[str, Any]) -> tuple[str, dict[str, Any]]:
    """Return the digest of the samples and the lineage of the stage that made them."""
    for digest, step in lineage["upstream"].items():
        if step["stage"] == "ingest":
            return digest, step
    raise Refused("the evaluation's lineage does not lead back to any samples: run `dvc repro`")


def _loop(
    base: params.Base,
    lineage: dict[str, Any],
    card: dict[str, Any],
    models: Mapping[str, Path],
    validation: Path,
    evaluation: Path,
) -> loops.Loop:
    metrics = json.loads((evaluation / "metrics.json").read_text())
    result = json.loads((validation / "result.json").read_text())
    samples, ingest = _ingest(lineage)
    tags = {
        registry.DIGEST: provenance.model_digest(card),
        "medloop.architecture": card["architecture"],
        "medloop.task": base.task,
        "medloop.classes": json.dumps(card["classes"]),
        "medloop.dataset": base.dataset,
        "medloop.dataset_digest": samples,
        "medloop.test_sha256": metrics["test_sha256"],
        "medloop.validation": "passed" if result["success"] is True else "failed",
        "medloop.leaks": metrics["leaks"]["regime"],
        "medloop.simulated": str(bool(card["simulated"])).lower(),
        "medloop.gate": metrics["gate"],
        **_interval(metrics),
    }
    optional = {"medloop.key_fingerprint": ingest.get("key_fingerprint"), "medloop.git_commit": _git_commit()}
    tags |= {name: value for name, value in optional.items() if value}
    same = [tags[registry.DIGEST], tags["medloop.test_sha256"], lineage["parameters"], provenance.digest(validation)]
    return loops.Loop(
        key=provenance.json_digest(same),
        name=f"{base.model_name} {card['architecture']}",
        parameters=_parameters(lineage),
        metrics=_flat(metrics),
        tags=tags,
        dataset=base.dataset,
        dataset_digest=samples,
        dataset_profile=metrics["n"],
        files=[("", models[card["architecture"]] / "development.parquet"), *_files(models, validation, evaluation)],
        trainings=tuple(_training(path) for path in models.values()),
    )


def _interval(metrics: dict[str, Any]) -> dict[str, str]:
    """Return the gating metric's value and interval on test data as tags, those that are defined."""
    found = metrics["test"][metrics["gate"]]
    return {f"medloop.gate_{end}": repr(found[end]) for end in ("value", "low", "high") if found[end] is not None}


def _parameters(lineage: dict[str, Any]) -> dict[str, Any]:
    """Return the parameters of every stage that stands above; those of training by architecture."""
    found: dict[str, Any] = {"base": lineage["parameters"]["base"], "train": {}}
    for step in [*lineage["upstream"].values(), lineage]:
        section = step["parameters"]["section"]
        if step["stage"] == "train":
            found["train"][section["architectures"][0]] = section
        else:
            found[step["stage"]] = section
    return found


def _flat(metrics: dict[str, Any]) -> dict[str, float]:
    """Return the test metrics with their intervals, and the gating metric of every architecture on validation data."""
    flat: dict[str, float | None] = {}
    for name, found in metrics["test"].items():
        flat |= {name: found["value"], f"{name}_low": found["low"], f"{name}_high": found["high"]}
    for architecture, found in metrics["architectures"].items():
        flat[f"validation.{architecture}.{metrics['gate']}"] = found[metrics["gate"]]["value"]
    return {name: value for name, value in flat.items() if value is not None}


def _files(models: Mapping[str, Path], validation: Path, evaluation: Path) -> list[tuple[str, Path]]:
    """Return what goes to the server: folders of the run's artifacts, and the file or folder that lands there."""
    names = ("report.html", "metrics.json", "choice.json", "predictions.parquet", provenance.LINEAGE)
    files = [("", evaluation / name) for name in names]
    files += [("validation", validation / name) for name in ("result.json", provenance.LINEAGE)]
    files += [(f"models/{name}", path / provenance.LINEAGE) for name, path in models.items()]
    docs = validation / "data_docs"
    if docs.is_dir():
        size = sum(path.stat().st_size for path in docs.rglob("*") if path.is_file())
        files.append(("validation/data_docs", docs if size <= MAX_DATA_DOCS_BYTES else docs / "index.html"))
    return files


def _training(model: Path) -> loops.Training:
    card = json.loads((model / "card.json").read_text())
    section = provenance.read_lineage(model)["parameters"]["section"]
    history = pd.read_parquet(model / "history.parquet")
    return loops.Training(card["architecture"], card["weights_sha256"], section, history)


def _description(card: dict[str, Any], tags: Mapping[str, str]) -> str:
    simulated = "Simulated data: not for clinical use. " if card["simulated"] else ""
    value = tags.get("medloop.gate_value")
    score = f"; test {tags['medloop.gate']} {float(value):.3f}" if value else ""
    return f"{simulated}{card['architecture']} on {card['dataset']}, classes {', '.join(card['classes'])}{score}"


def _git_commit() -> str | None:
    """Return the commit of the working folder, where git knows one."""
    git = shutil.which("git")
    if git is None:
        return None
    asked = subprocess.run([git, "rev-parse", "HEAD"], capture_output=True, text=True, check=False)
    return asked.stdout.strip() if asked.returncode == 0 else None
