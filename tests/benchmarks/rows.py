"""Rows of the table of results: trains through the whole loop, once per seed, and appends what the test set said.

    python tests/benchmarks/rows.py breastmnist resnet --leaks report --seeds 0 1 2

A row that is in tests/benchmarks/results.csv already is skipped, so that a run that was cut off goes on where it was.
Each run opens the test set: settle everything on validation data before. `openings` is what the ledger of this machine
(`$MEDLOOP_STATE`, else .medloop here) says of the test set, this opening among them.
"""

import argparse
import csv
import json
import os
import platform
import shlex
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from support import ROOT, Project

RESULTS = Path(__file__).with_name("results.csv")
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
METRICS = ("auc", "accuracy", "balanced_accuracy")


def main() -> None:
    """Run what is asked for and not there yet."""
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("profile")
    options.add_argument("architecture")
    options.add_argument("--leaks", default="drop", choices=["drop", "report"])
    options.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    options.add_argument("--set", action="append", default=[], help="KEY=VALUE, for an ablation")
    asked = options.parse_args()
    for seed in asked.seeds:
        settings = [
            f"train.architectures=[{asked.architecture}]",
            f"ingest.leaks={asked.leaks}",
            f"base.seed={seed}",
            *asked.set,
        ]
        given = " ".join(f"-S {shlex.quote(setting)}" for setting in settings)
        command = f"medloop repro -p {asked.profile} {given}"
        if command in {row["command"] for row in rows()}:
            print(f"is there: {command}")
        else:
            append(command, seed)


def rows() -> list[dict[str, str]]:
    """Return the rows that are there."""
    if not RESULTS.exists():
        return []
    with RESULTS.open(newline="") as file:
        return list(csv.DictReader(file))


def append(command: str, seed: int) -> None:
    """Run a command in a copy of this project, and add a row for each metric, all at once."""
    with tempfile.TemporaryDirectory() as folder:
        project = Project(Path(folder))
        state = Path(os.environ.get("MEDLOOP_STATE") or ROOT / ".medloop").absolute()
        project.env |= {"MEDLOOP_STATE": str(state), "MEDLOOP_DATA": os.environ.get("MEDLOOP_DATA", _shared())}
        begin = time.perf_counter()
        project.run(*shlex.split(command), timeout=6 * 3600)
        seconds = time.perf_counter() - begin
        found = project.folder / "artifacts/evaluation"
        metrics, card = (json.loads((found / name).read_text()) for name in ("metrics.json", "card.json"))
    about = {
        "dataset": card["dataset"],
        "task": card["task"],
        "architecture": card["architecture"],
        "seed": seed,
        "leaks": metrics["leaks"]["regime"],
        "test_samples": metrics["n"]["samples"],
        "openings": metrics["openings"],
        "command": command,
        "seconds": round(seconds),
        "hardware": _hardware(),
    }
    added = [about | {"metric": name} | _rounded(metrics["test"][name]) for name in METRICS]
    new = not RESULTS.exists()
    with RESULTS.open("a", newline="") as file:
        writer = csv.DictWriter(file, COLUMNS, lineterminator="\n")
        if new:
            writer.writeheader()
        writer.writerows(added)
    for row in added:
        print(*(f"{key} {row[key]}" for key in COLUMNS[:9]), sep=", ", flush=True)


def _rounded(score: dict[str, Any]) -> dict[str, float]:
    return {key: round(score[key], 4) for key in ("value", "low", "high")}


def _shared() -> str:
    return str(ROOT.parent / "shared" / "data")


def _hardware() -> str:
    lines = Path("/proc/cpuinfo").read_text().splitlines()
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return f"{os.cpu_count()} cores, {names[0] if names else platform.machine()}"


if __name__ == "__main__":
    main()
