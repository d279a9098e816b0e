"""Draws a figure of the report for each task of the README, of the test predictions that rows.py kept.

    python tests/benchmarks/pictures.py

Writes docs/results/DATASET.png, of models that make images some of these: DATASET_ARCHITECTURE.png. A data set of which
.medloop/rows holds nothing keeps the picture that it has.
"""

import json
import sys
from pathlib import Path

import matplotlib as mpl
import pandas as pd

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from rows import KEPT

from medloop import pages, plugins, study, tasks
from medloop.evaluation import plots
from support import ROOT

FIGURES = {
    "classification": "roc",
    "multilabel": "roc",
    "ordinal": "confusion",
    "regression": "predicted",
    "segmentation": "dice",
    "detection": "precision_recall",
}
OTHERWISE = {"pbmc68k": "confusion", "ecg5000": "confusion"}
DOTS_PER_INCH = 64


def main() -> None:
    """Draw the first row of each data set."""
    target = ROOT / "docs/results"
    target.mkdir(exist_ok=True)
    for name, folder in _first().items():
        card = json.loads((folder / "card.json").read_text())
        task, page = plugins.load(tasks, card["task"]), plugins.load(pages, card["task"])
        if card["task"] == "generation":
            (target / f"{name}.png").write_bytes(page.made(study.read(folder), len(card["classes"])))
            continue
        predictions = task.read(pd.read_parquet(folder / "predictions.parquet"), card)
        with mpl.rc_context(plots.STYLE):
            figure = page.figures(predictions, card)[OTHERWISE.get(name, FIGURES[card["task"]])]
            figure.savefig(target / f"{name}.png", dpi=DOTS_PER_INCH, metadata={"Software": None})
        print(f"docs/results/{name}.png: {card['architecture']}")


def _first() -> dict[str, Path]:
    """Return by name of picture the kept folder of the least seed of the first architecture in results.csv.

    A task that makes images has a picture for each architecture. Of another architecture none is drawn.
    """
    found: dict[str, tuple[int, Path]] = {}
    table = pd.read_csv(Path(__file__).with_name("results.csv"))
    first = table.drop_duplicates("dataset").set_index("dataset")["architecture"]
    for path in KEPT.glob("*/about.json"):
        about = json.loads(path.read_text())
        name, architecture = about["dataset"], about["architecture"]
        if about["task"] == "generation":
            name = f"{name}_{architecture}"
        elif architecture != first[name]:
            continue
        if name not in found or about["seed"] < found[name][0]:
            found[name] = about["seed"], path.parent
    return {name: folder for name, (_, folder) in sorted(found.items())}


if __name__ == "__main__":
    main()
