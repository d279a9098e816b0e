"""Find or create the model's version in the registry, and gather the loop's runs under one."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pandas as pd

from medloop import evidence, params, privacy, provenance, study, turn
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
    origin: Mapping[str, str] | None = None,
) -> dict[str, Any]:
    """Return the model's version, found by its digest or created, with `new`, its run and the server's address.

    Args:
        base: what every stage shares.
        section: the stage's own parameters.
        models: model folders by architecture.
        validation: what `validate` left.
        evaluation: what `evaluate` left.
        origin: tags that a Kubeflow run gives, see `evidence.origin`.

    Raises:
        Refused: a file does not match its digest, the folders do not belong together or to `base`, or another key made
            the samples.
        Unreachable: the tracking server does not answer; nothing is lost, for the next call takes up where this ended.
    """
    lineage, chosen = _verified(models, validation, evaluation)
    _same_data(lineage, base, evaluation)
    _same_key(lineage)
    card = json.loads((evaluation / "card.json").read_text())
    loop = _loop(base, lineage, card, models, validation, evaluation, evidence.origin(lineage, origin or {}))
    digest = loop.tags[evidence.DIGEST]
    with server() as client, turn.taken(base.model_name):
        run_id, known = loops.record(client, loop)
        tags = {**loop.tags, **known, registry.RUN: run_id}
        if origin and evidence.WATERMARK in origin:
            tags[evidence.VERDICT] = evidence.PENDING
        version = registry.find(client, base.model_name, digest)
        if version is None:
            text = _description(card, loop.tags)
            version = registry.create(client, base.model_name, chosen, card, run_id=run_id, tags=tags, text=text)
        new = registry.DONE not in version.tags
        if new:
            turn.confirm(base.model_name)
            registry.set_aliases(client, base.model_name, {section.alias: version.number})
        registry.retag(client, version, {**tags, registry.DONE: "true"})
    found = {"model": base.model_name, "version": version.number, "new": new, "run_id": run_id, "server": address()}
    return found | {"origin": known}


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


def _same_data(lineage: dict[str, Any], base: params.Base, evaluation: Path) -> None:
    """Raise Refused for an evaluation of another task or data set than `base` names."""
    made = params.Base.model_validate(lineage["parameters"]["base"])
    if made.model_name != base.model_name:
        raise Refused(
            f"{evaluation} is of {made.model_name}, the parameters are of {base.model_name}: "
            "name the profile that it was made under (`medloop register --profile NAME`)"
        )


def _same_key(lineage: dict[str, Any]) -> None:
    """Raise Refused when the samples were made under another pseudonym key than the one that is there now."""
    wanted = evidence.ingested(lineage)[1].get("key_fingerprint")
    if wanted and privacy.key_file().exists() and (came := privacy.Pseudonyms.load().fingerprint) != wanted:
        raise Refused(
            f"the samples were made under the pseudonym key {wanted}, {privacy.key_file()} holds {came}: "
            "put the right key back (MEDLOOP_KEY_FILE), or ingest again"
        )


def _loop(
    base: params.Base,
    lineage: dict[str, Any],
    card: dict[str, Any],
    models: Mapping[str, Path],
    validation: Path,
    evaluation: Path,
    origin: Mapping[str, str],
) -> loops.Loop:
    metrics, chosen = json.loads((evaluation / "metrics.json").read_text()), models[card["architecture"]]
    result = json.loads((validation / "result.json").read_text())
    tags = evidence.facts(base, lineage, card, metrics, result)
    same = [tags[evidence.DIGEST], tags["medloop.test_sha256"], lineage["parameters"], provenance.digest(validation)]
    return loops.Loop(
        key=provenance.json_digest(same),
        name=f"{base.model_name} {card['architecture']}",
        parameters=_parameters(lineage),
        metrics=evidence.flat(metrics),
        tags=tags,
        origin=origin,
        dataset=base.dataset,
        dataset_digest=tags["medloop.dataset_digest"],
        dataset_profile=metrics["n"],
        files=[("", chosen / "development.parquet"), *_files(models, chosen, validation, evaluation)],
        trainings=tuple(_training(path) for path in models.values()),
    )


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


def _files(models: Mapping[str, Path], chosen: Path, validation: Path, evaluation: Path) -> list[tuple[str, Path]]:
    """Return what goes to the server: folders of the run's artifacts, and the file or folder that lands there."""
    names = ("report.html", "metrics.json", "choice.json", "predictions.parquet", provenance.LINEAGE)
    files = [("", evaluation / name) for name in names]
    files += [("validation", validation / name) for name in ("result.json", provenance.LINEAGE)]
    files += [(f"models/{name}", path / provenance.LINEAGE) for name, path in models.items()]
    files += [(study.SHARED, shared)] if (shared := chosen / study.SHARED).is_dir() else []
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
    teaching = "For teaching, never for diagnosis, nor as training data without a look. " if "steps" in card else ""
    simulated = "Simulated data: not for clinical use. " if card["simulated"] else ""
    value = tags.get("medloop.gate_value")
    score = f"; test {tags['medloop.gate']} {float(value):.3f}" if value else ""
    classes = f", classes {', '.join(card['classes'])}" if card["classes"] else ""
    return f"{teaching}{simulated}{card['architecture']} on {card['dataset']}{classes}{score}"
