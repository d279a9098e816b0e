"""Rows of the table of results: trains through the whole loop, once per seed, and appends what the test set said.

    python tests/benchmarks/rows.py breastmnist resnet --leaks report --seeds 0 1 2

A row that is in tests/benchmarks/results.csv already is skipped, so that a run that was cut off goes on where it was.
Profiles read what lies in the folder data, and what is read by name below $MEDLOOP_DATA.
Each run opens the test set: settle everything on validation data before. `openings` is what the ledger of this machine
(`$MEDLOOP_STATE`, else .medloop here) says of the test set, this opening among them. Rivals that the task fits beside a
network (ridge regression, an elastic net, ...) have rows of their own, and so has what the network is beyond them.
After several seeds a row `mean` follows: the mean of the metric over them, with a 95% interval from a bootstrap over
patients in which every seed meets the same patients, or, of simulated ones, patients of its own; without one where the
test patients of two seeds overlap. What each run said of the test set is kept in .medloop/rows.
"""

import argparse
import csv
import hashlib
import json
import os
import platform
import shlex
import shutil
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from medloop import plugins, tasks
from medloop.evaluation import bootstrap
from medloop.predictions import drawn_together
from support import ROOT, Project

RESULTS = Path(__file__).with_name("results.csv")
KEPT = ROOT / ".medloop/rows"
RESAMPLES = 2000
COLUMNS = [
    "dataset",
    "task",
    "architecture",
    "seed",
    "leaks",
    "metric",
    "value",
    "low",
    "high",
    "test_samples",
    "openings",
    "command",
    "seconds",
    "hardware",
]
METRICS = (
    "auc",
    "accuracy",
    "balanced_accuracy",
    "kappa",
    "f1",
    "mae",
    "rmse",
    "r2",
    "dice",
    "iou",
    "dice_pooled",
    "hd95_px",
    "hd95_mm",
    "nsd_px",
    "nsd_mm",
    "average_precision_objects",
    "map_50",
    "map",
    "froc",
    "kid",
    "kid_ratio",
    "auc_synthetic",
    "auc_real",
)  # those that a task has


def main() -> None:
    """Run what is asked for and not there yet."""
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("profile")
    options.add_argument("architecture")
    options.add_argument("--leaks", default="drop", choices=["drop", "report"])
    options.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    options.add_argument("--set", action="append", default=[], help="KEY=VALUE, for an ablation")
    options.add_argument("--hardware", default=_hardware(), help="where another machine trained part of the way")
    asked = options.parse_args()
    commands = [command(asked, seed) for seed in asked.seeds]
    for seed, each in zip(asked.seeds, commands, strict=True):
        if each in {row["command"] for row in rows()}:
            print(f"is there: {each}")
        else:
            append(_run(each, seed, asked.hardware))
    together = command(asked, ",".join(map(str, asked.seeds)))
    if len(commands) > 1 and together not in {row["command"] for row in rows()}:
        if lacking := [each for each in commands if not (_kept(each) / "about.json").exists()]:
            sys.exit(
                f"no mean: what {len(lacking)} of them said of the test set is not in {KEPT}, e.g. of {lacking[0]}"
            )
        append(_mean([_kept(each) for each in commands], together))


def command(asked: argparse.Namespace, seed: int | str) -> str:
    """Return the command that makes a row."""
    settings = [f"train.architectures=[{asked.architecture}]", f"ingest.leaks={asked.leaks}", f"base.seed={seed}"]
    given = " ".join(f"-S {shlex.quote(setting)}" for setting in [*settings, *asked.set])
    return f"medloop repro -p {asked.profile} {given}"


def rows() -> list[dict[str, str]]:
    """Return the rows that are there."""
    if not RESULTS.exists():
        return []
    with RESULTS.open(newline="") as file:
        return list(csv.DictReader(file))


def append(added: list[dict[str, Any]]) -> None:
    """Add rows, all at once."""
    new = not RESULTS.exists()
    with RESULTS.open("a", newline="") as file:
        writer = csv.DictWriter(file, COLUMNS, lineterminator="\n")
        if new:
            writer.writeheader()
        writer.writerows(added)
    for row in added:
        print(*(f"{key} {row[key]}" for key in COLUMNS[:9]), sep=", ", flush=True)


def _run(command: str, seed: int, hardware: str) -> list[dict[str, Any]]:
    """Run a command in a copy of this project, keep what it said of the test set, and return its rows."""
    kept = _kept(command)
    with tempfile.TemporaryDirectory() as folder:
        project = Project(Path(folder))
        state = Path(os.environ.get("MEDLOOP_STATE") or ROOT / ".medloop").absolute()
        project.env |= {"MEDLOOP_STATE": str(state), "MEDLOOP_DATA": os.environ.get("MEDLOOP_DATA", _shared())}
        project.env |= {name: os.environ[name] for name in ("MEDLOOP_KEY_FILE",) if name in os.environ}
        for found in (ROOT / "data").iterdir():
            if not (project.folder / "data" / found.name).exists():
                (project.folder / "data" / found.name).symlink_to(found.resolve())
        begin = time.perf_counter()
        project.run(*shlex.split(command), timeout=6 * 3600)
        seconds = time.perf_counter() - begin
        kept.mkdir(parents=True, exist_ok=True)
        for name in ("metrics.json", "card.json", "predictions.parquet"):
            shutil.copy(project.folder / "artifacts/evaluation" / name, kept)
        for study in project.folder.glob("artifacts/models/*/study.npz"):  # of models that make images
            shutil.copy(study, kept)
    metrics, card = (json.loads((kept / name).read_text()) for name in ("metrics.json", "card.json"))
    about = {
        "dataset": card["dataset"],
        "task": card["task"],
        "seed": seed,
        "leaks": metrics["leaks"]["regime"],
        "test_samples": metrics["n"]["samples"],
        "openings": metrics["openings"],
        "command": command,
        "seconds": round(seconds),
        "hardware": hardware,
    }
    found = _said(about, card["architecture"], metrics)
    (kept / "about.json").write_text(json.dumps(found[0]))
    return found


def _said(about: dict[str, Any], architecture: str, metrics: dict[str, Any]) -> list[dict[str, Any]]:
    """Return rows of a network, of the rivals beside it, and of how much the network is beyond each of them."""
    less = {f"{architecture} less {rival}": scores for rival, scores in metrics.get("beyond", {}).items()}
    said = {architecture: metrics["test"], **metrics.get("floors", {}), **less}
    return [
        about | {"architecture": who, "metric": name} | _rounded(scores[name])
        for who, scores in said.items()
        for name in METRICS
        if name in scores
    ]


def _mean(runs: list[Path], command: str) -> list[dict[str, Any]]:
    """Return rows of the mean over runs that differ in their seed alone."""
    abouts = [json.loads((run / "about.json").read_text()) for run in runs]
    cards = [json.loads((run / "card.json").read_text()) for run in runs]
    task = plugins.load(tasks, abouts[0]["task"])
    said = [
        task.read(pd.read_parquet(run / "predictions.parquet"), card) for run, card in zip(runs, cards, strict=True)
    ]  # under keys of their own, and so under other pseudonyms: their rows are in the order of the source
    alike = all(np.array_equal(each.labels, said[0].labels) for each in said)
    groups = [bootstrap.clusters(drawn_together(each.table)) for each in said]
    drawn = [
        bootstrap.draw(each.metrics, own, RESAMPLES, seed=0 if alike else number)
        for number, (each, own) in enumerate(zip(said, groups, strict=True))
        if alike or all(card["simulated"] for card in cards)  # each seed simulates patients of its own
    ]
    values = [each.metrics() for each in said]
    size = min(task.rarest(each.labels, own) for each, own in zip(said, groups, strict=True))
    about = abouts[0] | {"seed": "mean", "command": command}
    about["openings"] = max(each["openings"] for each in abouts)
    about["seconds"] = round(sum(each["seconds"] for each in abouts) / len(abouts))
    found = []
    for name in METRICS:
        if name in values[0]:
            value = sum(float(each[name][0]) for each in values) / len(runs)
            interval: dict[str, Any] = {"value": value, "low": None, "high": None}
            if drawn:
                resampled = sum(each[name] for each in drawn) / len(runs)
                interval = bootstrap.interval(value, resampled, 0.95, size=size, centred=name in task.CENTRED)
            found.append(about | {"metric": name} | _rounded(interval))
    return found


def _kept(command: str) -> Path:
    return KEPT / hashlib.sha256(command.encode()).hexdigest()[:16]


def _rounded(score: dict[str, Any]) -> dict[str, float | None]:
    return {key: None if score[key] is None else round(score[key], 4) for key in ("value", "low", "high")}


def _shared() -> str:
    return str(ROOT.parent / "shared" / "data")


def _hardware() -> str:
    lines = Path("/proc/cpuinfo").read_text().splitlines()
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return f"{os.cpu_count()} cores, {names[0] if names else platform.machine()}"


if __name__ == "__main__":
    main()
