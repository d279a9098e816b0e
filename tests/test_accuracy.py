"""What the chosen model reaches on public data; the floors are extremely randomised trees on pixels."""

import json

import pytest

from medloop import params
from medloop.stages.evaluate import evaluate
from medloop.stages.ingest import ingest
from medloop.stages.preprocess import preprocess
from medloop.stages.train import train
from medloop.stages.validate import validate
from support import ROOT, Project


def test_a_model_that_has_seen_copies_of_test_images_is_better_than_trees_and_not_promoted(shared_data, tmp_path):
    project, profile = Project(tmp_path), ("-p", "breastmnist")
    project.env["MEDLOOP_DATA"] = str(shared_data)
    settings = ("-S", "ingest.leaks=report", "-S", "train.architectures=[cnn]")
    project.run("medloop", "repro", *profile, *settings, timeout=1200)
    metrics = json.loads((project.folder / "artifacts/evaluation/metrics.json").read_text())
    assert metrics["test"]["auc"]["value"] >= 0.858
    report = (project.folder / "artifacts/evaluation/report.html").read_text()
    limits = report.index("Limits")
    assert "copy" in report[: limits + 1500]
    said = project.run("medloop", "promote", *profile, fails=True)
    assert "leak" in said


@pytest.mark.parametrize(("profile", "floor", "epochs"), [("breastmnist", 0.777, 15), ("pneumoniamnist", 0.947, 5)])
def test_the_chosen_model_is_better_than_trees(shared_data, tmp_path, monkeypatch, profile, floor, epochs):
    """The stages of `medloop repro`, called one by one: Keras is imported already."""
    monkeypatch.setenv("MEDLOOP_DATA", str(shared_data))
    overlaid = params.overlaid(ROOT / "params.yaml", ROOT / f"profiles/{profile}.yaml")
    asked = params.check(params.merge(overlaid, {"train": {"epochs": epochs}}), where=profile)
    samples, validation, arrays, holdout, model = (
        tmp_path / name for name in ("samples", "validation", "arrays", "holdout", "models/cnn")
    )
    ingest(asked.base, asked.ingest, samples=samples)
    validate(asked.base, asked.validate, samples=samples, validation=validation)
    preprocess(asked.base, asked.preprocess, samples=samples, validation=validation, arrays=arrays, holdout=holdout)
    train(asked.base, asked.train.only("cnn"), arrays=arrays, model=model)
    metrics = evaluate(
        asked.base,
        asked.evaluate,
        models={"cnn": model},
        holdout=holdout,
        validation=validation,
        evaluation=tmp_path / "evaluation",
    )
    print(profile, metrics["test"]["auc"])
    assert metrics["test"]["auc"]["value"] >= floor
