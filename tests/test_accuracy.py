"""What the chosen model reaches on public data; the floors are extremely randomised trees on pixels."""

import json

import pytest

from support import Project


@pytest.mark.parametrize(
    ("profile", "leaks", "floor", "epochs"),
    [("breastmnist", "report", 0.858, 40), ("breastmnist", "drop", 0.777, 40), ("pneumoniamnist", "drop", 0.947, 10)],
)
def test_the_chosen_model_is_better_than_trees(shared_data, tmp_path, profile, leaks, floor, epochs):
    project = Project(tmp_path)
    project.env["MEDLOOP_DATA"] = str(shared_data)
    settings = (f"ingest.leaks={leaks}", "train.architectures=[cnn]", f"train.epochs={epochs}")
    words = [word for setting in settings for word in ("-S", setting)]
    project.run("medloop", "repro", "-p", profile, *words, timeout=1200)
    metrics = json.loads((project.folder / "artifacts/evaluation/metrics.json").read_text())
    assert metrics["test"]["auc"]["value"] >= floor
    report = (project.folder / "artifacts/evaluation/report.html").read_text()
    if leaks == "report":
        limits = report.index("Limits")
        assert "copy" in report[: limits + 1500]
        said = project.run("medloop", "promote", "-p", profile, fails=True)
        assert "leak" in said
