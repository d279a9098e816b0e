"""Choose on validation data, enter the opening into the ledger, then open the test set and report."""

import json
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pandas as pd

from medloop import kinds, pages, params, plugins, provenance, study, tasks
from medloop.errors import Refused
from medloop.evaluation import beside, boxes, candidates, choice, ledger, maps, plots, report, scores
from medloop.inference import Network
from medloop.predictions import Predictions


def evaluate(
    base: params.Base,
    section: params.Evaluate,
    *,
    models: Mapping[str, Path],
    holdout: Path,
    validation: Path,
    evaluation: Path,
) -> dict[str, Any]:
    """Write choice, card, metrics, predictions, plots and report to `evaluation`; return the metrics.

    Args:
        base: what every stage shares.
        section: the stage's own parameters.
        models: model folders by architecture.
        holdout: the test set, read after everything is chosen.
        validation: the result of `validate`.
        evaluation: the output.

    Raises:
        Refused: a file does not match its digest, the inputs do not belong together, the positive class is unknown, or
            the task cannot score this data set.
    """
    task, page = plugins.load(tasks, base.task), plugins.load(pages, base.task)
    about, lineage = _about(holdout)
    if not about["preprocessing"].get("horizon"):
        task.check(about["facts"])
    kind = plugins.load(kinds, about["facts"]["kind"])
    found = candidates.read(models)
    for each in found:
        candidates.fit_holdout(each, about, lineage)
    checks = _checks(validation, lineage)
    inputs = {"holdout": holdout, "validation": validation, **{f"models/{name}": models[name] for name in models}}
    with provenance.writing("evaluate", base, section, evaluation, inputs=inputs) as [folder]:
        best, chosen = choice.choose(found, task, section, base.seed)
        provenance.write_json(folder / "choice.json", chosen)
        card = best.card | task.chosen(best.labels, best.outputs, best.card, section)
        provenance.write_json(folder / "card.json", card)

        opened = _enter(holdout, card)
        predictions, arrays, draw = _predict(best.folder, card, holdout, task, section)
        predictions.frame().to_parquet(folder / "predictions.parquet", index=False)
        metrics = {
            **_metrics(predictions, task, section, base.seed),
            "architectures": chosen["validation"],
            "leaks": {"regime": about["facts"]["leaks"], "pairs": about["facts"]["leak_pairs"]},
            **opened,
        }
        if floors := about.get("floors"):
            rivals = beside.rivals(floors, arrays, predictions, card, task, section)
            metrics |= _beside(rivals, predictions, task, section, base.seed)
        provenance.write_json(folder / "metrics.json", metrics)
        ranking = beside.ranking(about)
        if ranking:
            provenance.write_json(folder / "ranking.json", ranking)
        figures = _figures(page, predictions, card, found, ranking, task.GATE)
        (folder / "plots").mkdir()
        for name, svg in figures.items():
            (folder / "plots" / f"{name}.svg").write_text(svg)
        errors, examples = _pictures(page, predictions, draw, section)
        text = report.render(
            metrics,
            chosen,
            card,
            about,
            checks,
            predictions,
            page=page,
            kind=kind,
            plots=figures,
            errors=errors,
            packages=best.lineage["packages"],
            ranking=ranking,
            examples=examples,
        )
        (folder / "report.html").write_text(text)
    return metrics


def _about(holdout: Path) -> tuple[dict[str, Any], dict[str, Any]]:
    lineage = provenance.verify(holdout)
    return json.loads((holdout / "about.json").read_text()), lineage


def _checks(validation: Path, lineage: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Return the checks in `validation`; raise Refused unless they are those that the test set was made under."""
    samples = provenance.verify(validation)["inputs"]["samples"]
    if (lineage["inputs"]["samples"], lineage["inputs"]["validation"]) != (samples, provenance.digest(validation)):
        raise Refused(f"{validation} belongs to other samples than the test set: run `dvc repro`")
    result = json.loads((validation / "result.json").read_text())
    return list(result["checks"])


def _enter(holdout: Path, card: dict[str, Any]) -> dict[str, Any]:
    """Enter into the ledger that the model of `card` sees the samples of `holdout`, before a label is read."""
    index = pd.read_parquet(holdout / "test" / "index.parquet", columns=["sample_id", "content_sha256"])
    samples = index.drop_duplicates("sample_id")["content_sha256"]  # of which there may be many windows
    model = provenance.model_digest(card)
    return {"model_sha256": model, **ledger.opened(samples.tolist(), model)._asdict()}


def _predict(
    folder: Path, card: dict[str, Any], holdout: Path, task: ModuleType, section: params.Evaluate
) -> tuple[Predictions, np.ndarray, report.Draw]:
    """Return what the model in `folder` says of the test set, its inputs (N, ...), and what draws one of them."""
    if hasattr(task, "reduced"):  # it tells a map of each image, or boxes
        return _predict_drawn(folder, card, holdout, task, section)
    inputs = np.load(holdout / "test" / "inputs.npy", mmap_mode="r")
    index, labels = pd.read_parquet(holdout / "test" / "index.parquet"), np.load(holdout / "test" / "labels.npy")
    if hasattr(task, "fed"):  # it makes images
        found, page = study.read(folder).beside(inputs), plugins.load(pages, card["task"])
        said = task.predictions(index, labels, study.outputs(found, folder, inputs), card)
        return replace(said, study=found), inputs, lambda place, marks: page.picture(found, place, card)  # noqa: ARG005
    kind = plugins.load(kinds, card["kind"])

    def picture(place: int, marks: Mapping[str, float]) -> tuple[str, bytes]:
        found: tuple[str, bytes] = kind.picture(inputs[place], card, marks)
        return found

    outputs = Network(folder / "model.onnx").outputs(inputs)
    return task.predictions(index, labels, outputs, card), inputs, picture


def _predict_drawn(
    folder: Path, card: dict[str, Any], holdout: Path, task: ModuleType, section: params.Evaluate
) -> tuple[Predictions, np.ndarray, report.Draw]:
    """Do the same for a model that gives a map, or boxes, of which no more is held than those of one image."""
    network, page = Network(folder / "model.onnx"), plugins.load(pages, card["task"])
    drawn: ModuleType = {"map": maps, "boxes": boxes}[task.GIVES]
    test = drawn.TestSet(holdout / "test")

    def overlay(place: int, marks: Mapping[str, float]) -> tuple[str, bytes]:  # noqa: ARG001
        picture: tuple[str, bytes] = page.overlay(*drawn.drawn(network, test, place, card))
        return picture

    return drawn.predicted(network, test, card, task, section), test.inputs, overlay


def _metrics(predictions: Predictions, task: ModuleType, section: params.Evaluate, seed: int) -> dict[str, Any]:
    """Return what metrics.json says of the predictions themselves."""
    metrics = {
        "gate": task.GATE,
        **({"lower_is_better": True} if getattr(task, "LOWER_IS_BETTER", False) else {}),
        "test": scores.scores(predictions, task, section, seed),
        "groups": scores.by_group(predictions, task, section, seed),
        "n": predictions.counts(),
        "resamples": section.resamples,
        "confidence": section.confidence,
    }
    if hasattr(task, "more"):
        metrics |= task.more(predictions)
    if labels := scores.by_label(predictions, task, section, seed):
        metrics["labels"] = labels
    return metrics


def _figures(
    page: ModuleType,
    predictions: Predictions,
    card: Mapping[str, Any],
    found: list[candidates.Candidate],
    ranking: Mapping[str, Any] | None,
    gate: str,
) -> dict[str, str]:
    """Return each figure of the report as SVG, by name."""
    histories = {each.architecture: pd.read_parquet(each.folder / "history.parquet") for each in found}

    def of_task() -> dict[str, Any]:
        return page.figures(predictions, card) | ({"ranking": plots.ranking(ranking)} if ranking else {})

    return plots.draw(of_task, histories, gate)


def _pictures(
    page: ModuleType, predictions: Predictions, draw: report.Draw, section: params.Evaluate
) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """Return the worst errors with their pictures, and of a page that has them all its examples."""
    samples = page.names(predictions) if hasattr(page, "names") else _named(predictions.table)
    few = page.examples(predictions) if hasattr(page, "examples") else ()
    errors = report.worst_errors(page.worst(predictions), draw, section.worst_errors, samples=samples)
    return errors, report.worst_errors(few, draw, len(samples), samples=samples)


def _named(table: pd.DataFrame) -> list[str]:
    """Return what each input is called: its sample, and of a window where it begins."""
    names = table["sample_id"].tolist()
    if "start" not in table:
        return names
    return [f"{name} at {start}" for name, start in zip(names, table["start"], strict=True)]


def _beside(
    rivals: Mapping[str, Predictions], predictions: Predictions, task: ModuleType, section: params.Evaluate, seed: int
) -> dict[str, Any]:
    """Return the metrics of what the network must beat on the same test data, and how far it is beyond."""
    return {
        "floors": {name: scores.scores(each, task, section, seed) for name, each in rivals.items()},
        "beyond": {name: beside.beyond(predictions, each, task, section, seed) for name, each in rivals.items()},
    }
