"""ECG5000 in two folds, ten times over: a network through the whole loop against MiniROCKET on the same beats.

    python tests/benchmarks/ecg5000.py [--architecture resnet1d] [--repeats 10] [--set KEY=VALUE ...]

Each half of the 500 beats trains once and is the test set once, in each of ten stratified shuffles. The rival is
MiniRocketClassifier of the package aeon, as it comes, in an environment of its own that `uv` makes. Results are
appended to ecg5000.csv, so that a run that was cut off goes on where it was. The beats are of one patient, and
near-identical ones stand on both sides: leaks are reported, for the network and for the rival alike.

The interval of the mean difference is that of Nadeau and Bengio, Inference for the generalization error, 2003: results
on resampled data are not independent, so that their variance is multiplied by 1/n + test size / train size.
"""

import argparse
import csv
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import yaml
from scipy import stats
from sklearn import metrics
from sklearn.model_selection import StratifiedKFold

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from medloop import workspace
from support import ROOT, Project

RESULTS = Path(__file__).with_name("ecg5000.csv")
BEATS = ROOT.parent / "shared/data/ecg5000/ECG5000_TRAIN.txt.gz"
RIVAL = "minirocket"
AEON = "aeon==1.6.0"
SCORES = ("accuracy", "macro_f1", "balanced_accuracy")
KEY = ("method", "settings", "repeat", "fold")
SETTINGS = ("ingest.leaks=report", "validate.min_samples_per_class=1", "validate.min_class_share=0.0")

FIT = """
import sys
import numpy as np
from aeon.classification.convolution_based import MiniRocketClassifier
train, test = (np.loadtxt(path) for path in sys.argv[1:3])
model = MiniRocketClassifier(random_state=0, n_jobs=1).fit(train[:, None, 1:], train[:, 0])
np.savetxt(sys.argv[3], model.predict(test[:, None, 1:]))
"""


def main() -> None:
    """Run what is not there yet, and say how the two compare."""
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--architecture", default="resnet1d")
    options.add_argument("--repeats", type=int, default=10)
    options.add_argument("--set", nargs="*", default=[], help="KEY=VALUE, laid over the profile ecg5000")
    asked = options.parse_args()
    beats = np.loadtxt(BEATS)
    merged = yaml.safe_load((ROOT / "profiles/ecg5000.yaml").read_text())["ingest"]["options"]["ucr"]["classes"]
    names = sorted(set(merged.values()))
    beats[:, 0] = [names.index(merged[f"{number:g}"]) for number in beats[:, 0]]  # as the profile has them
    settings = " ".join(asked.set)
    for repeat, fold, train, test in _halves(beats, asked.repeats):
        for method, given in ((RIVAL, ""), (asked.architecture, settings)):
            key = (method, given, str(repeat), str(fold))
            if key not in {tuple(row[name] for name in KEY) for row in _rows()}:
                begin = time.perf_counter()
                truth, said = (
                    _rival(train, test) if method == RIVAL else _product(method, asked.set, train, test, names)
                )
                _append(dict(zip(KEY, key, strict=True)) | _scores(truth, said) | _seconds(begin))
    _compare(asked.architecture, settings, asked.repeats)


def _halves(beats: np.ndarray, repeats: int) -> Iterator[tuple[int, int, np.ndarray, np.ndarray]]:
    for repeat in range(repeats):
        halves = StratifiedKFold(2, shuffle=True, random_state=repeat).split(beats, beats[:, 0])
        for fold, (train, test) in enumerate(halves):
            yield repeat, fold, beats[train], beats[test]


def _rival(train: np.ndarray, test: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    with tempfile.TemporaryDirectory() as folder:
        files = [Path(folder) / name for name in ("train", "test", "said")]
        np.savetxt(files[0], train)
        np.savetxt(files[1], test)
        uv = ["uv", "run", "--quiet", "--no-project", "--python", sys.executable, "--with", AEON, "python", "-c", FIT]
        subprocess.run([*uv, *map(str, files)], check=True, cwd=folder)
        return test[:, 0], np.loadtxt(files[2])


def _product(
    architecture: str, settings: list[str], train: np.ndarray, test: np.ndarray, names: list[str]
) -> tuple[np.ndarray, np.ndarray]:
    with tempfile.TemporaryDirectory() as folder:
        project, data = Project(Path(folder)), Path(folder) / "data"
        data.mkdir()
        np.savetxt(data / "ECG5000_TRAIN.txt", train)
        np.savetxt(data / "ECG5000_TEST.txt", test)
        project.env |= {"MEDLOOP_DATA": str(data), "MEDLOOP_STATE": str(Path(folder) / "state")}
        project.env |= {name: os.environ[name] for name in ("MEDLOOP_STATE", "MEDLOOP_KEY_FILE") if name in os.environ}
        classes = {str(number): name for number, name in enumerate(names)}
        given = [*SETTINGS, f"train.architectures=[{architecture}]", f"ingest.options.ucr.classes={classes}", *settings]
        _split(project, given)
        words = [word for setting in given for word in ("-S", setting)]
        project.run("medloop", "repro", "-p", "ecg5000", *words, timeout=3600)
        said = pd.read_parquet(project.folder / "artifacts/evaluation/predictions.parquet")
    return said["label"].to_numpy(), said["decision"].to_numpy()


def _split(project: Project, given: list[str]) -> None:
    """Add to `given` the least share of validation data that holds every class; the folds then go over all of train."""
    for share in (0.2, 0.3, 0.4, 0.5):
        more = [*given, f"ingest.options.ucr.val={share}"]
        (project.folder / "params.yaml").write_text(yaml.safe_dump(workspace.effective("ecg5000", more)))
        project.run("medloop", "ingest", timeout=3600)
        table = pd.read_parquet(project.folder / "artifacts/samples/manifest.parquet", columns=["split", "label"])
        if table.groupby("split")["label"].nunique().eq(table["label"].nunique()).all():
            given.append(more[-1])
            return
    raise RuntimeError("no share of validation data holds every class")


def _scores(truth: np.ndarray, said: np.ndarray) -> dict[str, Any]:
    found = {
        "accuracy": metrics.accuracy_score(truth, said),
        "macro_f1": metrics.f1_score(truth, said, average="macro"),
        "balanced_accuracy": metrics.balanced_accuracy_score(truth, said),
    }
    return {"beats": len(truth)} | {name: round(value, 4) for name, value in found.items()}


def _seconds(begin: float) -> dict[str, int]:
    return {"seconds": round(time.perf_counter() - begin)}


def _rows() -> list[dict[str, str]]:
    if not RESULTS.exists():
        return []
    with RESULTS.open(newline="") as file:
        return list(csv.DictReader(file))


def _append(row: dict[str, Any]) -> None:
    new = not RESULTS.exists()
    with RESULTS.open("a", newline="") as file:
        writer = csv.DictWriter(file, row, lineterminator="\n")
        if new:
            writer.writeheader()
        writer.writerow(row)
    print(*(f"{name} {value}" for name, value in row.items()), sep=", ", flush=True)


def _compare(architecture: str, settings: str, repeats: int) -> None:
    table = pd.DataFrame(_rows()).astype(dict.fromkeys(SCORES, float) | {"repeat": int, "fold": int})
    table = table[table["repeat"] < repeats].set_index(["repeat", "fold"]).sort_index()
    ours = table[(table["method"] == architecture) & (table["settings"] == settings)]
    other = table[table["method"] == RIVAL]
    n = len(ours)
    for name in SCORES:
        difference = ours[name] - other[name]
        error = np.sqrt(difference.var(ddof=1) * (1 / n + 1))  # as many beats test as train
        margin = stats.t.ppf(0.975, n - 1) * error
        middle = difference.mean()
        print(
            f"{name:18} {architecture} {ours[name].mean():.4f}, {RIVAL} {other[name].mean():.4f}, "
            f"difference {middle:+.4f} [{middle - margin:+.4f}, {middle + margin:+.4f}] of {n} pairs"
        )


if __name__ == "__main__":
    main()
