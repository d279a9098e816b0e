"""Grades, and several labels at once, go through every stage, become champion, and predict."""

import csv
from types import SimpleNamespace

import cv2
import numpy as np
import pandas as pd
import pytest

from medloop import evidence, kubeflow, manifest, params, plugins, tasks
from medloop.errors import Refused
from medloop.stages.evaluate import evaluate
from medloop.stages.ingest import ingest
from medloop.stages.preprocess import preprocess
from medloop.stages.register import register
from medloop.stages.train import train
from medloop.stages.validate import validate

GRADES = ("none", "mild", "severe")
FINDINGS = ("left", "rare", "right")  # of the second validation data have none
TRAIN = params.Train(
    architectures=("cnn",),
    epochs=4,
    learning_rate=0.01,
    mixup=0.1,
    hyper={"cnn": {"filters": [8]}},
)
RULE = params.Promote(floor=0.1, min_samples=5, min_per_class=2, resamples=200)


def write(folder, task, count=150):
    """Write images with a bright part for each finding, or a square as bright as their grade, and a table of labels."""
    random = np.random.default_rng(0)
    rows = []
    for i in range(count):
        image, grade = random.integers(0, 90, (16, 16)), i % 3
        found = [bool(i % 2), i % 25 in (0, 4), bool(i // 2 % 2)]
        if task == "ordinal":
            image[4:12, 4:12] += round(70 * grade + random.normal(0, 25))
            label = GRADES[grade]
        else:
            image[4:12, 1:7] += 8 * found[0]
            image[:3] += 60 * found[1]
            image[4:12, 9:15] += 8 * found[2]
            label = " | ".join(name for name, yes in zip(FINDINGS, found, strict=True) if yes)
        folder.mkdir(parents=True, exist_ok=True)
        cv2.imwrite(str(folder / f"{i:03}.png"), image.clip(0, 255).astype(np.uint8))
        split = ("train", "train", "train", "val", "test")[i % 5]
        rows.append((f"{i:03}.png", label, f"Canarybird-{i}", split))
    with (folder / "labels.csv").open("w", newline="") as file:
        csv.writer(file).writerows([("path", "label", "patient_id", "split"), *rows])


def ingested(base, folder, **changes):
    several = base.task == "multilabel"
    section = params.Ingest(
        source="folder",
        root=str(folder / "data"),
        options={"folder": {"labels": "labels.csv", "several": several}},
        workers=1,
        **({} if several else {"order": GRADES}) | changes,
    )
    return ingest(base, section, samples=folder / "samples")


def prepared(base, folder):
    return preprocess(
        base,
        params.Preprocess(size_px=(16, 16)),
        **{name: folder / name for name in ("samples", "validation", "arrays", "holdout")},
    )


@pytest.fixture(scope="module", params=["multilabel", "ordinal"])
def loop(request, store):
    """The folder of a whole loop, up to the evaluation."""
    folder, base = store / request.param, params.Base(task=request.param, dataset="squares")
    write(folder / "data", request.param)
    ingested(base, folder)
    least = params.Validate(min_samples_per_class=0 if request.param == "multilabel" else 5)
    validate(base, least, samples=folder / "samples", validation=folder / "validation")
    prepared(base, folder)
    train(base, TRAIN, arrays=folder / "arrays", model=folder / "models/cnn")
    metrics = evaluate(
        base,
        params.Evaluate(resamples=200),
        models={"cnn": folder / "models/cnn"},
        **{name: folder / name for name in ("holdout", "validation", "evaluation")},
    )
    return SimpleNamespace(folder=folder, base=base, metrics=metrics, task=plugins.load(tasks, request.param))


@pytest.fixture
def champion(loop, at_store):
    """The loop's version, registered and promoted in the store of the loop."""
    from medloop.operations.promote import promote

    found = register(
        loop.base,
        params.Register(),
        models={"cnn": loop.folder / "models/cnn"},
        validation=loop.folder / "validation",
        evaluation=loop.folder / "evaluation",
    )
    decision = promote(loop.base, RULE, version=found["version"], samples=loop.folder / "samples")
    assert decision.ok, decision.reason
    return found


def test_it_learns_and_the_report_says_so(loop):
    found = loop.metrics["test"][loop.task.GATE]
    assert found["value"] > 0.6
    assert found["low"] < found["value"] < found["high"]
    page = (loop.folder / "evaluation/report.html").read_text()
    assert "Canarybird" not in page
    if loop.base.task == "ordinal":
        assert "none &lt; mild &lt; severe" in page
        assert manifest.read(loop.folder / "samples")[1].classes == GRADES
    else:
        assert "By label" in page
        assert list(loop.metrics["labels"]) == list(FINDINGS)
        left = loop.metrics["labels"]["left"]["metrics"]["auc"]["value"]
        assert evidence.flat(loop.metrics)["label.left.auc"] == left
        assert np.load(loop.folder / "arrays/train/labels.npy").sum(axis=0)[1] == 6
        assert np.load(loop.folder / "arrays/val/labels.npy").sum(axis=0)[1] == 0
        assert "The probabilities of rare are not calibrated" in page
        assert "where it is likelier than not: rare" in page


def test_what_is_served_is_what_was_evaluated(loop, champion):
    from medloop.operations import scoring
    from medloop.tracking import registry
    from medloop.tracking.connection import server

    with server() as client:
        version = registry.get(client, loop.base.model_name, "champion")
    test = scoring.today(loop.folder / "samples", "squares")
    table = pd.read_parquet(loop.folder / "evaluation/predictions.parquet")
    columns = loop.task.stored(test.classes)
    np.testing.assert_allclose(scoring.score(version, test, loop.task), table[columns], atol=1e-6)


def test_every_link_of_its_chain_holds_those_of_each_label_too(loop, champion):
    from medloop.operations.verify import verify

    lines = "\n".join(verify(loop.base, "champion", artifacts=loop.folder))
    assert f"test {loop.task.GATE} from predictions.parquet" in lines
    if loop.base.task == "multilabel":
        assert all(f"test metrics of label {name} from predictions.parquet" in lines for name in FINDINGS)


def test_files_are_predicted(loop, champion, tmp_path):
    from medloop.operations.predict import predict

    predict(loop.base, source=loop.folder / "data", output=tmp_path / "out.parquet")
    found = pd.read_parquet(tmp_path / "out.parquet")
    assert len(found[found["error"].isna()]) == 150
    named = {name for decision in found["decision"].dropna() for name in decision.split("|")}
    assert named <= {"", *FINDINGS} if loop.base.task == "multilabel" else named <= set(GRADES)


def test_two_trainings_give_the_same_bytes(loop, tmp_path):
    train(loop.base, TRAIN, arrays=loop.folder / "arrays", model=tmp_path / "cnn")
    for name in ("model.onnx", "card.json", "validation.parquet"):
        assert (tmp_path / "cnn" / name).read_bytes() == (loop.folder / "models/cnn" / name).read_bytes(), name


def test_kubeflow_shows_the_curves_that_there_are(loop):
    assert not kubeflow.has_roc_curve(loop.folder / "evaluation")
    assert kubeflow.has_confusion_matrix(loop.folder / "evaluation") == (loop.base.task == "ordinal")


def test_another_task_is_refused_with_the_one_that_fits(loop, tmp_path):
    for name in ("samples", "validation"):
        (tmp_path / name).symlink_to(loop.folder / name)
    other, said = {
        "multilabel": ("classification", "several: take task multilabel"),
        "ordinal": ("multilabel", "take task classification or ordinal"),
    }[loop.base.task]
    with pytest.raises(Refused, match=said):
        prepared(params.Base(task=other, dataset="squares"), tmp_path)


def test_an_order_that_names_other_classes_is_refused(tmp_path):
    base = params.Base(task="ordinal", dataset="squares")
    write(tmp_path / "data", "ordinal", 30)
    with pytest.raises(Refused, match="the classes are mild, none, severe, it names none, severe"):
        ingested(base, tmp_path, order=("none", "severe"))
