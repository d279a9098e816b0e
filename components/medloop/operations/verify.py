"""Compute the chain of a version again, from its files to its data, and name the first link that does not hold."""

import json
import math
from collections.abc import Iterator
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pandas as pd
from mlflow.artifacts import download_artifacts
from mlflow.entities import Run

from medloop import evidence, params, plugins, provenance, tasks
from medloop.errors import Refused
from medloop.evaluation import scores
from medloop.operations import chain
from medloop.operations.chain import Chain
from medloop.tracking import registry
from medloop.tracking.connection import server
from medloop.tracking.runs import flattened

PACKED = Path("artifacts/model")  # below a registered model: what medloop itself put there
Link = tuple[str, str | None]  # what was compared, and what is wrong with it


def verify(base: params.Base | None, model: str, *, artifacts: Path) -> Iterator[str]:
    """Yield a line for each link of a version's chain that holds.

    Args:
        base: names the model; None: the only model on the server.
        model: a number, an alias or a models:/ address.
        artifacts: the outputs of the stages, compared too as far as they are there and belong to the version.

    Raises:
        Refused: a link is broken; the message names it. Or there is no such version.
    """
    with server() as client, TemporaryDirectory() as temporary:
        version = chain.version(client, base, model)
        found, run = chain.read(version), chain.run(client, version)
        files = chain.logged(version, "", Path(temporary))
        yield f"{version.name} {version}, evaluated by run {run.info.run_id}"
        for name, problem in _links(found, run, files, artifacts):
            if problem:
                raise Refused(f"broken: {name}: {problem}")
            yield f"holds   {name}"


def _links(found: Chain, run: Run, files: Path, artifacts: Path) -> Iterator[Link]:
    yield from _lineages(found, run, files)
    yield from _files(found, files)
    with TemporaryDirectory() as temporary:
        address = f"models:/{found.version.name}/{found.version.number}"
        model = Path(download_artifacts(artifact_uri=address, dst_path=temporary))
        yield from _model(found, model)
        card = json.loads((model / PACKED / "card.json").read_text())
    yield from _metrics(found, run, files, card)
    yield from _tags(found, files, card)
    yield from _on_disk(found, artifacts)


def _lineages(found: Chain, run: Run, files: Path) -> Iterator[Link]:
    """Compare the logged lineages with the digests by which they name each other, and with one another."""
    for digest, step in found.steps.items():
        name = f"lineage of {found.names[digest]}"
        yield f"{name}: outputs", _difference(digest, provenance.json_digest(step["outputs"]))
        lost = next((each for each, came in step["inputs"].items() if came not in found.steps), None)
        yield f"{name}: inputs", lost and f"nothing in the chain has the digest of its input {lost}"
    for path in sorted(files.glob("*/lineage.json")) + sorted(files.glob("models/*/lineage.json")):
        other = Chain(found.version, chain.lineage(path))
        name = f"{path.relative_to(files)} against lineage.json"
        yield name, _unequal(other, found)
    digest = provenance.json_digest(found.lineage)
    for where, tags in (("run", run.data.tags), (str(found.version), found.version.tags)):
        yield f"lineage.json against the tag of the {where}", _difference(tags.get(evidence.LINEAGE), digest)


def _unequal(other: Chain, found: Chain) -> str | None:
    """Return what in a lineage is not as the chain has it, key by key."""
    for digest, step in other.steps.items():
        if digest not in found.steps:
            return f"the digest {digest[:12]} of the outputs of its stage {step['stage']} is not in the chain"
        ours, theirs = (dict(flattened(each)) for each in (found.steps[digest], step))
        for key in sorted(ours.keys() | theirs.keys()):
            if (wanted := ours.get(key)) != (came := theirs.get(key)):
                return f"{key} of stage {step['stage']} is {came!r} here and {wanted!r} there"
    return None


def _files(found: Chain, files: Path) -> Iterator[Link]:
    """Compare each logged file with the digest that its stage's lineage gives it."""
    places = {digest: Path() if digest == found.digest else Path(found.names[digest]) for digest in found.steps}
    chosen = chain.content(files / "choice.json").get("architecture")
    for digest, place in places.items():
        for name, wanted in found.steps[digest]["outputs"].items():
            path = files / place / name
            if name == "development.parquet" and found.names[digest] == f"models/{chosen}":
                path = files / name
            if path.is_file():
                yield f"logged {path.relative_to(files)}", _difference(wanted, provenance.sha256(path))
    wanted_files = ("metrics.json", "predictions.parquet", "choice.json", "validation/result.json")
    for name in wanted_files:
        yield f"logged {name} is there", None if (files / name).is_file() else "it is missing"


def _model(found: Chain, model: Path) -> Iterator[Link]:
    """Compare the files of the registered model with the registry, and with what training and evaluation left."""
    tags, came = found.version.tags, provenance.tree(model)
    recorded = json.loads(tags.get(registry.FILES, "{}")) or {
        (PACKED / name).as_posix(): digest for name, digest in chain.content(model / PACKED / "digests.json").items()
    }
    for name, wanted in recorded.items():
        yield f"model file {name}", _difference(wanted, came.get(name))
    card = chain.content(model / PACKED / "card.json", architecture=str)
    yield "model digest of card.json", _difference(tags.get(evidence.DIGEST), provenance.model_digest(card))
    trained = next(
        (each for digest, each in found.steps.items() if found.names[digest] == f"models/{card['architecture']}"), None
    )
    network = trained["outputs"].get("model.onnx") if trained else None
    yield "model.onnx is what training made", _difference(network, came.get((PACKED / "model.onnx").as_posix()))
    evaluated = found.lineage["outputs"].get("card.json")
    yield "card.json is what was evaluated", _difference(evaluated, came.get((PACKED / "card.json").as_posix()))


def _metrics(found: Chain, run: Run, files: Path, card: dict[str, Any]) -> Iterator[Link]:
    """Compute the metrics from the logged predictions again; compare metrics.json with them and with the run."""
    metrics = chain.content(files / "metrics.json", test=dict)
    base, section = _parameters(found)
    task = plugins.load(tasks, base.task)
    predictions = task.read(pd.read_parquet(files / "predictions.parquet"), card)
    computed = scores.scores(predictions, task, section, base.seed)
    for name, written in metrics["test"].items():
        yield f"test {name} from predictions.parquet", _computed(written, computed.get(name, {}))
    labels = scores.by_label(predictions, task, section, base.seed)
    for label, entry in metrics.get("labels", {}).items():
        again = labels.get(label, {}).get("metrics", {})
        problems = (_computed(written, again.get(name, {})) for name, written in entry["metrics"].items())
        yield f"test metrics of label {label} from predictions.parquet", next(filter(None, problems), None)
    flat = evidence.flat(metrics)
    for name in sorted(flat.keys() | run.data.metrics.keys()):
        wanted, came = flat.get(name), run.data.metrics.get(name)
        wrong_run = None if _close(wanted, came) else f"the run has {came}, metrics.json {wanted}"
        yield f"metric {name} of the run", wrong_run


def _computed(written: dict[str, Any], again: dict[str, Any]) -> str | None:
    """Return where a metric of metrics.json differs from the one computed `again`."""
    wrong = [end for end in ("value", "low", "high") if not _close(again.get(end), written[end])]
    return (
        f"the {wrong[0]} is {written[wrong[0]]} in metrics.json, {again.get(wrong[0])} computed again"
        if wrong
        else None
    )


def _tags(found: Chain, files: Path, card: dict[str, Any]) -> Iterator[Link]:
    """Compare what the version says of itself with what follows from the files."""
    base, _ = _parameters(found)
    contents = [chain.content(files / name) for name in ("metrics.json", "validation/result.json")]
    for name, wanted in evidence.facts(base, found.lineage, card, *contents).items():
        yield f"tag {name}", _difference(wanted, found.version.tags.get(name))


def _on_disk(found: Chain, artifacts: Path) -> Iterator[Link]:
    """Compare the outputs that lie below `artifacts` with their lineage, and it with the chain."""
    for path in sorted(artifacts.glob("*/lineage.json")) + sorted(artifacts.glob("models/*/lineage.json")):
        lineage = provenance.read_lineage(path.parent)
        for name, wanted in lineage["outputs"].items():
            file = path.parent / name
            problem = _difference(wanted, provenance.sha256(file) if file.exists() else None)
            if problem:
                yield f"{file} against {path}", problem
        other = Chain(found.version, lineage)
        if other.digest in found.steps:
            yield f"{path.parent}, {len(lineage['outputs'])} files, against the logged lineage", _unequal(other, found)
        else:
            yield f"{path.parent}, {len(lineage['outputs'])} files, of another version than this", None


def _parameters(found: Chain) -> tuple[params.Base, params.Evaluate]:
    written = found.lineage["parameters"]
    try:
        return (
            params.checked(params.Base, written["base"], where="lineage.json"),
            params.checked(params.Evaluate, written["section"], where="lineage.json"),
        )
    except Refused as error:
        raise Refused(
            f"the model was made by another medloop than this, so its metrics cannot be computed again: {error}"
        ) from None


def _difference(wanted: str | None, came: str | None) -> str | None:
    """Return what is wrong between the two, or None; what is not recorded holds nothing."""
    if wanted == came and wanted is not None:
        return None
    return f"wanted {_shown(wanted)}, got {_shown(came)}"


def _shown(value: str | None) -> str:
    return "nothing on record" if value is None else value[:40]


def _close(one: float | None, other: float | None) -> bool:
    if one is None or other is None:
        return one is other
    return math.isclose(one, other, rel_tol=1e-9, abs_tol=1e-12)
