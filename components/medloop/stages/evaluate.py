"""Choose on validation data, enter the opening into the ledger, then open the test set and report."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow.parquet as pq

from medloop import params, plugins, provenance, tasks
from medloop.errors import Refused
from medloop.evaluation import candidates, choice, ledger, plots, report, scores
from medloop.inference import Network, decide, probabilities


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
    task = plugins.load(tasks, base.task)
    about, lineage = _about(holdout)
    task.check(about["facts"])
    found = candidates.read(models)
    for each in found:
        candidates.fit_holdout(each, about, lineage)
    checks = _checks(validation, lineage)
    inputs = {"holdout": holdout, "validation": validation, **{f"models/{name}": models[name] for name in models}}
    with provenance.writing("evaluate", base, section, evaluation, inputs=inputs) as [folder]:
        best, chosen = choice.choose(found, task, section, base.seed)
        provenance.write_json(folder / "choice.json", chosen)
        card = best.card | {key: chosen[key] for key in CHOSEN}
        provenance.write_json(folder / "card.json", card)

        opened = _enter(holdout, card)
        predictions, images = _predict(best.folder, card, holdout)
        predictions.frame().to_parquet(folder / "predictions.parquet", index=False)
        metrics = {
            "gate": task.GATE,
            "test": scores.scores(predictions, task, section, base.seed),
            "groups": scores.by_group(predictions, task, section, base.seed),
            "architectures": chosen["validation"],
            "n": scores.counts(predictions),
            "leaks": {"regime": about["facts"]["leaks"], "pairs": about["facts"]["leak_pairs"]},
            "resamples": section.resamples,
            "confidence": section.confidence,
            **opened,
        }
        provenance.write_json(folder / "metrics.json", metrics)
        histories = {each.architecture: pd.read_parquet(each.folder / "history.parquet") for each in found}
        figures = plots.draw(predictions, histories, task.GATE)
        (folder / "plots").mkdir()
        for name, svg in figures.items():
            (folder / "plots" / f"{name}.svg").write_text(svg)
        page = report.render(
            metrics,
            chosen,
            card,
            about,
            checks,
            predictions,
            plots=figures,
            errors=report.worst_errors(predictions, images, section.worst_errors),
            packages=best.lineage["packages"],
        )
        (folder / "report.html").write_text(page)
    return metrics


CHOSEN = ("temperature", "calibrated", "threshold", "positive_class", "operating_point")


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
    """Enter into the ledger that the model of `card` sees the images of `holdout`, before a label is read."""
    images = pq.read_table(holdout / "test" / "index.parquet", columns=["content_sha256"])["content_sha256"]
    model = provenance.model_digest(card)
    return {"model_sha256": model, **ledger.opened(images.to_pylist(), model)._asdict()}


def _predict(folder: Path, card: dict[str, Any], holdout: Path) -> tuple[scores.Predictions, np.ndarray]:
    """Return what the model in `folder` says of the test set, and the images (N, H, W, C) uint8."""
    images = np.load(holdout / "test" / "images.npy", mmap_mode="r")
    probability = probabilities(Network(folder / "model.onnx").logits(images), card["temperature"])
    positive = choice.positive_index(card["classes"], card["positive_class"])
    predictions = scores.Predictions(
        pd.read_parquet(holdout / "test" / "index.parquet"),
        np.load(holdout / "test" / "labels.npy").astype(np.int64),
        probability,
        decide(probability, card["threshold"], positive),
        list(card["classes"]),
        positive,
    )
    return predictions, images
