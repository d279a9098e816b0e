"""What each part of the recipe is worth, by cross-validation inside train and validation data: no test set is opened.

    python tests/benchmarks/ablate.py breastmnist_resnet resnet --try train.mixup=0.2 "train.ema=0.99 train.mixup=1"

The first row is the profile as it is; each argument after `--try` is another, of settings laid over it. A row of
ablations.csv holds the gating metric of predictions that no network made of a patient that it had seen, and its
difference to the first row with a 95% interval: bootstrap over patients, paired, the mean over seeds in each resample.
`--ensemble` adds a row of the networks of all seeds as one model, against the mean of each by itself. Predictions are
kept in .medloop/ablations, so that a run that was cut off goes on where it was, all under the key that lies there.
"""

import argparse
import csv
import hashlib
import json
import os
import shutil
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import yaml

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from medloop import plugins, predictions, tasks, workspace
from medloop.evaluation import bootstrap
from support import ROOT, Project

RESULTS = Path(__file__).with_name("ablations.csv")
KEPT = ROOT / ".medloop/ablations"
RESAMPLES = 2000


def main() -> None:
    """Train what is asked for and not kept yet, and write its rows."""
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("profile")
    options.add_argument("architecture")
    options.add_argument("--folds", type=int, default=5)
    options.add_argument("--seeds", type=int, nargs="+", default=[0])
    options.add_argument("--over", nargs="*", default=[], help="KEY=VALUE, laid over the profile in every row")
    options.add_argument("--try", dest="tried", nargs="*", default=[], help='"KEY=VALUE KEY=VALUE", a row each')
    options.add_argument(
        "--ensemble", action="store_true", help="a row of all seeds together, as train.members has them"
    )
    asked = options.parse_args()
    plain = None
    for settings in ["", *asked.tried]:
        outcomes = [outcome(asked, settings, seed) for seed in asked.seeds]
        plain = plain or outcomes
        write(asked, settings, outcomes, plain)
    if asked.ensemble and plain:
        write(asked, f"train.members={len(asked.seeds)}", [together(plain)], plain)


def outcome(asked: argparse.Namespace, settings: str, seed: int) -> dict[str, Any]:
    """Return task, dataset, seconds and a table of what is said of each development sample, trained now or before."""
    given = [*asked.over, *settings.split(), f"train.folds={asked.folds}", f"base.seed={seed}"]
    given += [f"train.architectures=[{asked.architecture}]"]
    content = workspace.effective(asked.profile, given)
    name = hashlib.sha256(json.dumps([content, asked.profile], sort_keys=True).encode()).hexdigest()[:16]
    folder = KEPT / name
    if not (folder / "card.json").exists():
        _train(content, asked.architecture, folder)
    card = json.loads((folder / "card.json").read_text())
    return {"card": card, "table": pd.read_parquet(folder / "validation.parquet")}


def _train(content: dict[str, Any], architecture: str, folder: Path) -> None:
    project = Project(folder / "project")
    data = os.environ.get("MEDLOOP_DATA", str(ROOT.parent / "shared" / "data"))
    key = str(KEPT.absolute() / "pseudonym.key")  # one for all rows: they are paired by patient
    project.env |= {"MEDLOOP_DATA": data, "MEDLOOP_KEY_FILE": key}
    (project.folder / "params.yaml").write_text(yaml.safe_dump(content))
    for stage in ("ingest", "validate", "preprocess"):
        project.run("medloop", stage, timeout=3600)
    begin = time.perf_counter()
    project.run("medloop", "train", architecture, timeout=12 * 3600)
    seconds = time.perf_counter() - begin
    made = project.folder / "artifacts/models" / architecture
    shutil.copy(made / "validation.parquet", folder)
    card = json.loads((made / "card.json").read_text()) | {"seconds": round(seconds)}
    (folder / "card.json").write_text(json.dumps(card))
    shutil.rmtree(folder / "project")


def together(outcomes: list[dict[str, Any]]) -> dict[str, Any]:
    """Return the outcome of one model that gives the mean of what the networks of all seeds give.

    None of them saw the patient: each is of the fold without it.
    """
    tables = [each["table"].sort_values("sample_id").reset_index(drop=True) for each in outcomes]
    names = [name for name in tables[0] if str(name).startswith("output_")]
    seconds = sum(each["card"]["seconds"] for each in outcomes)
    mean = np.mean([table[names] for table in tables], axis=0)
    return {
        "card": outcomes[0]["card"] | {"seconds": seconds},
        "table": tables[0].assign(**dict(zip(names, mean.T, strict=True))),
    }


def write(
    asked: argparse.Namespace, settings: str, outcomes: list[dict[str, Any]], plain: list[dict[str, Any]]
) -> None:
    """Add or replace the row of these settings."""
    card = outcomes[0]["card"]
    task = plugins.load(tasks, card["task"])
    gate, other = _gates(outcomes, task), _gates(plain, task)
    row = {
        "dataset": card["dataset"],
        "architecture": asked.architecture,
        "over": " ".join(asked.over),
        "settings": settings or "as the profile has it",
        "folds": asked.folds,
        "seeds": " ".join(map(str, asked.seeds)),
        "metric": task.GATE,
        "value": round(gate[0], 4),
        "difference": round(gate[0] - other[0], 4),
        **dict(zip(("low", "high"), np.quantile(gate[1:] - other[1:], [0.025, 0.975]).round(4), strict=True)),
        "seconds": round(np.mean([each["card"]["seconds"] for each in outcomes])),
    }
    key = ("dataset", "architecture", "over", "settings", "folds", "seeds")
    RESULTS.touch()
    with RESULTS.open(newline="") as file:
        rows = [
            each for each in csv.DictReader(file) if [each[name] for name in key] != [str(row[name]) for name in key]
        ]
    with RESULTS.open("w", newline="") as file:
        writer = csv.DictWriter(file, row, lineterminator="\n")
        writer.writeheader()
        writer.writerows([*rows, row])
    print(*(f"{name} {value}" for name, value in row.items()), sep=", ", flush=True)


def _gates(outcomes: list[dict[str, Any]], task: Any) -> np.ndarray:
    """Return the gating metric (1 + RESAMPLES,), mean over the seeds: of all samples, then of each resample.

    Resamples of all rows meet the same patients, for their pseudonyms are the same.
    """
    found = []
    for each in outcomes:
        table = each["table"].sort_values("sample_id")
        outputs = table[[name for name in table if str(name).startswith("output_")]].to_numpy()
        labels, said = predictions.labels_of(table), task.said(outputs, each["card"])
        groups = bootstrap.clusters(table["patient_id"])

        def compute(weights: np.ndarray, labels: Any = labels, said: Any = said) -> dict[str, np.ndarray]:
            return {"gate": task.gate(labels, said, weights)}

        drawn = bootstrap.draw(compute, groups, RESAMPLES, seed=0)["gate"]
        found.append([task.score(labels, said), *drawn])
    return np.nanmean(found, axis=0)


if __name__ == "__main__":
    main()
