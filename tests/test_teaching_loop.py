"""A toy set goes through every stage, its model becomes champion, and makes marked images that train alone may hold."""

import csv
import json
from types import SimpleNamespace

import cv2
import numpy as np
import pandas as pd
import pydicom
import pytest

from loops import Loop
from medloop import imaging, kubeflow, marks, models, params, plugins, study
from medloop.answers import generation as answers
from medloop.errors import Refused
from medloop.inference import Network
from medloop.operations import scoring
from medloop.operations.generate import generate
from medloop.operations.predict import predict
from medloop.stages.ingest import ingest
from medloop.tasks import generation as task

pytestmark = pytest.mark.usefixtures("at_store")

BASE = params.Base(task="generation", dataset="toys")
RULE = params.Promote(max_kid_ratio=100, max_near=1, margin=0.5, min_samples=5, min_per_class=2, resamples=200)
HYPER = {"vae": {"filters": [8], "latent": 4}, "diffusion": {"filters": [8, 8]}}
EVALUATE = params.Evaluate(resamples=200, worst_errors=3)
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


def section(architecture, epochs=5, **changed):
    return params.Train(
        architectures=(architecture,), epochs=epochs, batch_size=8, learning_rate=0.005, hyper=HYPER, ema=0.9, **changed
    )


def source(root, **changed):
    return params.Ingest(source="folder", root=root, options={"folder": {"split_folders": True}}, **changed)


@pytest.fixture(scope="module")
def loop(store):
    """The folder of a loop with both architectures up to the evaluation, and its version, which is champion."""
    write_source(store / "source")
    made = Loop(store, BASE)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(study, "EPOCHS", 6)
        made.checked(source(store / "source"), params.Validate())
        made.prepared("", params.Preprocess(size_px=(28, 28)))
        scores = {name: made.trained("", section(name)) for name in HYPER}
        metrics, version = made.judged("", EVALUATE, *HYPER)
        made.promoted(RULE, version)
    models = {name: made.model("", name) for name in HYPER}
    return SimpleNamespace(folder=store, models=models, scores=scores, metrics=metrics, version=version)


def test_all_of_it_is_measured_with_intervals(loop):
    test, near = loop.metrics["test"], loop.metrics["memorisation"]
    assert set(test) == set(task.METRICS)
    assert test["kid"]["low"] < test["kid"]["value"] < test["kid"]["high"]
    assert test["auc_real"]["value"] > 0.9
    assert near["images"] == COUNTS["train"]
    assert near["nearest_train"] > 0
    assert {"near_train", "near_test", "limit"} <= set(near)
    assert loop.metrics["gate"] == "kid"
    assert loop.metrics["lower_is_better"]
    kids = {name: loop.scores[name]["kid"] for name in HYPER}
    choice = json.loads((loop.folder / "evaluation/choice.json").read_text())
    assert choice["architecture"] == min(kids, key=kids.get)
    table = pd.read_parquet(loop.folder / "evaluation/predictions.parquet")
    card = json.loads((loop.folder / "evaluation/card.json").read_text())
    again = {name: value[0] for name, value in task.read(table, card).metrics().items()}
    assert again["kid"] == pytest.approx(test["kid"]["value"])
    assert again["auc_real"] == test["auc_real"]["value"]
    assert "never for diagnosis" in card["use"]
    assert not kubeflow.has_confusion_matrix(loop.folder / "evaluation")
    assert card["steps"] == {"vae": 1, "diffusion": 40}[card["architecture"]]


def test_images_begin_with_the_noise_whose_images_are_nearest_to_validation_images(loop):
    folder = loop.models["diffusion"]
    card, found = json.loads((folder / "card.json").read_text()), study.read(folder)
    assert json.loads((loop.models["vae"] / "card.json").read_text())["noise"] == 1
    images, labels = (np.load(loop.folder / f"arrays/val/{name}.npy") for name in ("inputs", "labels"))
    judge, run = (Network(folder / name).outputs for name in ("study/judge.onnx", "model.onnx"))
    of_val, kids = judge(images)[:, -task.FEATURES :], {}
    for noise in plugins.load(models, "diffusion").NOISE:
        made = answers.pictures(run, found.labels.tolist(), found.seeds.tolist(), card | {"noise": noise})
        said = study.said(of_val, judge(made)[:, -task.FEATURES :], found.train_features, near=0)
        kids[noise] = task.score(labels, said)
        assert (noise == card["noise"]) == np.array_equal(made, found.images)
    assert card["noise"] == min(kids, key=kids.get)
    assert loop.scores["diffusion"]["kid"] == pytest.approx(min(kids.values()))


def test_the_study_holds_what_the_figures_are_made_of(loop):
    found = study.read(loop.models["diffusion"])
    assert found.images.shape == (40, 28, 28, 1)
    train_images, labels = (np.load(loop.folder / f"arrays/train/{name}.npy") for name in ("inputs", "labels"))
    assert np.bincount(found.labels).tolist() == np.bincount(labels).tolist()
    far = np.sqrt(((found.images[3].astype(float) - train_images) ** 2).mean(axis=(1, 2, 3)))
    assert found.distance[3] == pytest.approx(far.min())
    pixels = {each.tobytes() for each in train_images}
    assert all(each.tobytes() in pixels for each in [*found.paired, *found.shown.reshape(-1, 28, 28, 1)])
    logged = np.load(loop.models["diffusion"] / "study/study.npz")
    assert set(logged.files) == {"labels", "seeds", "train_features", "near"}  # no image leaves the model's folder


def test_the_report_shows_classes_and_nearest_pairs_and_nothing_that_identifies(loop):
    page = (loop.folder / "evaluation/report.html").read_text()
    assert page.count('<figure><img src="data:image/png') == 2 + 3
    assert "Memorisation" in page
    assert "<h2>Nearest pairs</h2>" in page
    assert "Worst errors" not in page
    assert "never for diagnosis" in page
    assert "Canarybird" not in page
    written = (path for path in loop.folder.rglob("*") if path.is_file() and "source" not in path.parts)
    assert [path for path in written if "state" not in path.parts and b"Canarybird" in path.read_bytes()] == []


def test_the_served_model_makes_the_same_marked_images_and_refuses_what_it_cannot_make(loop):
    from medloop.tracking import registry

    served = registry.load(f"models:/{BASE.model_name}/{loop.version}")
    names = {column.name: column.type.name for column in served.metadata.signature.inputs.inputs}
    assert names == {"label": "string", "seed": "long"}
    asked = pd.DataFrame({"label": ["disc", "bar", "disc"], "seed": [5, 5, 6]})
    found = served.predict(asked)["image"].tolist()
    assert served.predict(asked)["image"].tolist() == found
    assert len(set(found)) == 3
    for content in found:
        assert marks.in_file(content)
        assert marks.in_pixels(imaging.decode(content)[0])
    with pytest.raises(ValueError, match="row 1: label must be one of bar, disc, got 'bone'"):
        served.predict(pd.DataFrame({"label": ["disc", "bone"], "seed": [0, 0]}))
    with pytest.raises(ValueError, match="row 0: seed must be a whole number from 0"):
        served.predict(pd.DataFrame({"label": ["disc"], "seed": [-1]}))


def test_generate_writes_marked_files_and_a_table_of_them(loop, tmp_path):
    said = generate(BASE, folder=tmp_path / "out", count=2, seed=3, dicom=True)
    assert said.startswith(f"4 synthetic images by version {loop.version} of medloop-generation-toys")
    with (tmp_path / "out/images.csv").open() as file:
        rows = list(csv.DictReader(file))
    pairs = list(zip(rows[::2], rows[1::2], strict=True))
    wanted = [("bar", "3"), ("bar", "4"), ("disc", "3"), ("disc", "4")]
    assert [[(row["label"], row["seed"]) for row in pair] for pair in pairs] == [[each, each] for each in wanted]
    assert {row["version"] for row in rows} == {loop.version}
    assert {row["file"] for row in rows} == {each.name for each in (tmp_path / "out").iterdir()} - {"images.csv"}
    for pair in pairs:
        contents = [(tmp_path / "out" / row["file"]).read_bytes() for row in pair]
        np.testing.assert_array_equal(*(imaging.decode(content)[0] for content in contents))
        assert all(map(marks.in_file, contents))
    ds = pydicom.dcmread(tmp_path / "out" / rows[1]["file"])
    assert f"version {loop.version}" in ds.DerivationDescription
    generate(BASE, folder=tmp_path / "one", count=1, labels=["disc"], seed=4)
    [one] = (tmp_path / "one").glob("*.png")
    assert one.read_bytes() == (tmp_path / "out" / rows[6]["file"]).read_bytes()


@pytest.mark.parametrize(
    ("asked", "message"),
    [
        ({"count": 0}, "count must be 1 to 100000 images of each label, got 0"),
        ({"seed": -1}, "seed must be 0 to"),
        ({"labels": ["bone"]}, "label must be one of bar, disc, got 'bone'"),
        ({"model": "99"}, "99"),
    ],
)
def test_generate_refuses_by_name_what_it_cannot_make(loop, tmp_path, asked, message):
    with pytest.raises(Refused, match=message):
        generate(BASE, folder=tmp_path / "out", **asked)
    assert not (tmp_path / "out").exists()


def test_generate_leaves_a_folder_in_use_alone_and_predict_says_where_to_go(loop, tmp_path):
    (tmp_path / "mine.txt").write_text("mine")
    with pytest.raises(Refused, match="must be a new or an empty folder"):
        generate(BASE, folder=tmp_path)
    with pytest.raises(Refused, match="makes images and says nothing of any: see medloop generate"):
        predict(BASE, source=loop.folder / "samples", output=tmp_path / "out.csv")
    assert [path.name for path in tmp_path.iterdir()] == ["mine.txt"]


def test_what_was_generated_cannot_become_test_data(loop, tmp_path):
    generate(BASE, folder=tmp_path / "out", count=1, labels=["disc"])
    root = tmp_path / "source"
    write_source(root)
    (root / "test/disc/real, surely.png").write_bytes(next((tmp_path / "out").glob("*.png")).read_bytes())
    with pytest.raises(Refused, match=r"synthetic images may stand in train alone.*1 of 77"):
        ingest(BASE, source(root, workers=1), samples=tmp_path / "samples")


def test_what_was_evaluated_is_what_the_served_model_makes(loop):
    from medloop.tracking import registry
    from medloop.tracking.connection import server

    with server() as client:
        version = registry.get(client, BASE.model_name, loop.version)
    test = scoring.today(loop.folder / "samples", "toys")
    said, logged = scoring.score(version, test, task), scoring.logged(version, test, task)
    np.testing.assert_allclose(said, logged, rtol=1e-3, atol=1e-3)


def test_a_challenger_is_compared_with_the_champion_by_one_judge(loop):
    from medloop.operations.promote import promote

    other = max(HYPER, key=lambda name: loop.scores[name]["kid"])
    metrics, version = Loop(loop.folder, BASE).judged("", EVALUATE, other, name="other")
    decision = promote(BASE, RULE, version=version, samples=loop.folder / "samples", move=False)
    assert f"better (lower) than champion version {loop.version}" in decision.reason
    assert "one-sided 95% lower bound" in decision.reason
    strict = RULE.model_copy(update={"margin": 0.0})
    refused = promote(BASE, strict, version=version, samples=loop.folder / "samples", move=False)
    assert not refused.ok
    assert metrics["test"]["kid"]["value"] is not None


def test_a_killed_training_goes_on_and_ends_with_the_same_weights(loop, monkeypatch):
    from medloop.stages import train as stage
    from medloop.training import backend, data, export, fitting

    arrays, wanted = data.read(loop.folder / "arrays"), section("vae")
    saved, calls = fitting.Checkpoint.save, []

    def dies(self, *state):
        saved(self, *state)
        calls.append(1)
        if len(calls) == 2:
            raise KeyboardInterrupt

    def fitted():
        backend.start("tensorflow", BASE.seed)
        spec, kept = stage._spec(BASE, wanted, arrays, arrays), fitting.Checkpoint("killed")
        more = {"seed": BASE.seed, "checkpoint": kept, "log": SimpleNamespace(log=lambda metrics, step: None)}
        return fitting.fit(spec, arrays, task, wanted, **more)

    monkeypatch.setattr(fitting.Checkpoint, "save", dies)
    with pytest.raises(KeyboardInterrupt):
        fitted()
    network, state = fitted()
    assert (len(calls), state.epoch) == (5, 5)
    card = json.loads((loop.models["vae"] / "card.json").read_text())
    assert export.weights_sha256(network) == card["weights_sha256"]


@pytest.mark.parametrize(
    ("task_name", "architecture", "message"),
    [
        ("generation", "cnn", r"generation needs networks that give images, .*cnn does not.*diffusion, vae"),
        ("classification", "vae", r"classification needs networks that give a few numbers .*vae does not"),
        ("segmentation", "diffusion", r"segmentation needs networks that give a map .*diffusion does not"),
    ],
)
def test_a_task_and_an_architecture_that_do_not_fit_are_refused(task_name, architecture, message):
    from medloop import pairing

    with pytest.raises(Refused, match=message):
        pairing.check(task_name, "image", [architecture])
