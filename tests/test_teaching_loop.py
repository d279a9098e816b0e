"""A toy set goes through every stage, its model becomes champion, and makes marked images that train alone may hold."""

import csv
import json
from types import SimpleNamespace

import cv2
import numpy as np
import pandas as pd
import pydicom
import pytest

from medloop import imaging, manifest, marks, params, study
from medloop.answers import generation as answers
from medloop.errors import Refused
from medloop.operations import scoring
from medloop.operations.generate import generate
from medloop.operations.predict import predict
from medloop.stages.evaluate import evaluate
from medloop.stages.ingest import ingest
from medloop.stages.preprocess import preprocess
from medloop.stages.register import register
from medloop.stages.train import train
from medloop.stages.validate import validate
from medloop.tasks import generation as task

BASE = params.Base(task="generation", dataset="toys")
RULE = params.Promote(max_kid_ratio=100, max_near=1, margin=0.5, min_samples=5, min_per_class=2, resamples=200)
HYPER = {"vae": {"filters": [8], "latent": 4}, "diffusion": {"filters": [8, 16]}}
COUNTS = {"train": 40, "val": 16, "test": 20}


def toy(label, random):
    """A bright disc, or a bright bar, somewhere on a dark ground."""
    rows, columns = np.mgrid[:28, :28]
    y, x = random.uniform(9, 19, 2)
    disc = (rows - y) ** 2 + (columns - x) ** 2 < 30
    shape = disc if label == "disc" else abs(rows - y) < 3
    return (random.normal(50, 12, (28, 28)) + 130 * shape).clip(0, 255).astype(np.uint8)


def write_source(root):
    random = np.random.default_rng(0)
    for split, count in COUNTS.items():
        for number in range(count):
            label = ("disc", "bar")[number % 2]
            folder = root / split / label
            folder.mkdir(parents=True, exist_ok=True)
            cv2.imwrite(str(folder / f"Canarybird {number}.png"), toy(label, random))


def at_home(patch, folder):
    patch.setenv("MEDLOOP_KEY_FILE", str(folder / "key"))
    patch.setenv("MEDLOOP_STATE", str(folder / "state"))
    patch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{folder}/mlflow.db")


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    return tmp_path_factory.mktemp("loop")


@pytest.fixture(autouse=True)
def _same_store(store, own_state, monkeypatch):
    at_home(monkeypatch, store)


def section(architecture, epochs=8, **changed):
    return params.Train(
        architectures=(architecture,), epochs=epochs, batch_size=8, learning_rate=0.005, hyper=HYPER, ema=0.9, **changed
    )


def ingested(root, samples, **changed):
    options = {"folder": {"split_folders": True}}
    return ingest(BASE, params.Ingest(source="folder", root=root, options=options, **changed), samples=samples)


@pytest.fixture(scope="module")
def loop(store):
    """The folder of a loop with both architectures up to the evaluation, and its version, which is champion."""
    from medloop.operations.promote import promote

    with pytest.MonkeyPatch.context() as patch:
        at_home(patch, store)
        write_source(store / "source")
        ingested(store / "source", store / "samples")
        checked = validate(BASE, params.Validate(), samples=store / "samples", validation=store / "validation")
        assert checked["success"], checked
        paths = {"samples": store / "samples", "validation": store / "validation"}
        wanted = params.Preprocess(size_px=(28, 28))
        preprocess(BASE, wanted, **paths, arrays=store / "arrays", holdout=store / "holdout")
        models = {name: store / "models" / name for name in HYPER}
        scores = {name: train(BASE, section(name), arrays=store / "arrays", model=models[name]) for name in models}
        metrics, version = judged(store, models)
        decision = promote(BASE, RULE, version=version, samples=store / "samples")
        assert decision.ok, decision.reason
    return SimpleNamespace(folder=store, models=models, scores=scores, metrics=metrics, version=version)


def judged(folder, models, name="evaluation"):
    made = {"validation": folder / "validation", "evaluation": folder / name}
    section = params.Evaluate(resamples=200, worst_errors=3)
    metrics = evaluate(BASE, section, models=models, holdout=folder / "holdout", **made)
    return metrics, register(BASE, params.Register(), models=models, **made)["version"]


def test_all_of_it_is_measured_with_intervals(loop):
    test, near = loop.metrics["test"], loop.metrics["memorisation"]
    assert set(test) == set(task.METRICS)
    assert test["kid"]["low"] < test["kid"]["value"] < test["kid"]["high"]
    assert test["auc_real"]["value"] > 0.9
    assert near["images"] == COUNTS["train"]
    assert 0 < near["nearest_train"]
    assert {"near_train", "near_test", "limit"} <= set(near)
