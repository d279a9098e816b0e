"""Checks what `make repro` left behind: `first`, or `second LOG` after a run with nothing changed."""

import json
import re
import sys
from pathlib import Path

import mlflow

STAGES = ("ingest", "validate", "preprocess", "evaluate", "register", "train-cnn", "train-lstm", "train-attention")
FILES = (
    "samples/manifest.parquet",
    "validation/data_docs/index.html",
    "evaluation/report.html",
    "evaluation/predictions.parquet",
)


def check_first() -> None:
    """The outputs are there, the metrics have intervals, and one version is the challenger."""
    artifacts = Path("artifacts")
    missing = [name for name in FILES if not (artifacts / name).exists()]
    missing += [name for name in STAGES if not (artifacts / "runs" / name / "run.json").exists()]
    assert not missing, f"missing: {missing}"
    auc = json.loads((artifacts / "evaluation/metrics.json").read_text())["test"]["auc"]
    assert 0.8 < auc["low"] < auc["value"] < auc["high"] < 1, auc
    assert "Simulated" in (artifacts / "evaluation/report.html").read_text()
    client = mlflow.MlflowClient("sqlite:///mlflow.db")
    versions = client.search_model_versions("name='medloop-classification-phantom'")
    assert [version.version for version in versions] == [1] or [version.version for version in versions] == ["1"]
    assert str(client.get_model_version_by_alias("medloop-classification-phantom", "challenger").version) == "1"


def check_second(log: str) -> None:
    """No stage ran but the registry check, which made no new version."""
    ran = re.findall(r"Running stage '([^']+)'", log)
    assert ran == ["register"], f"these stages ran again: {ran}"
    check_first()


if __name__ == "__main__":
    check_first() if sys.argv[1] == "first" else check_second(Path(sys.argv[2]).read_text())
    print("outputs as they should be")
