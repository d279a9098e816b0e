"""A project on 80 DICOM files with two small networks, and what a pipeline run of it leaves."""

from pathlib import Path

import yaml

import support
from medloop import params
from support import CANARY, Project

SETTINGS = {
    "base": {"dataset": "wards"},
    "ingest": {"source": "dicom", "root": "data/wards", "split": {"val": 0.25, "test": 0.35}},
    "validate": {"min_samples_per_class": 2},
    "preprocess": {"size_px": [16, 16]},
    "train": {"architectures": ["cnn", "lstm"], "epochs": 1, "hyper": {"cnn": {"filters": [8, 16]}}},
    "evaluate": {"resamples": 100},
}
STAGES = ("ingest", "validate", "preprocess", "train", "train-2", "evaluate", "register")
SAME = {
    "ingest/samples": "samples",
    "preprocess/arrays": "arrays",
    "preprocess/holdout": "holdout",
    "train/model": "models/cnn",
    "train-2/model": "models/lstm",
    "evaluate/evaluation": "evaluation",
}


def project(folder: Path) -> Project:
    """Return a project in `folder` with its data and parameters."""
    made = Project(folder)
    support.dicom_tree(made.folder / "data/wards", 80, name=CANARY)
    content = params.merge(params.mapping(support.ROOT / "params.yaml"), SETTINGS)
    (made.folder / "params.yaml").write_text(yaml.safe_dump(content, sort_keys=False))
    return made
