"""Images with boxes go through every stage, become champion, and predict boxes in their own pixels."""

import json
from types import SimpleNamespace

import cv2
import numpy as np
import pandas as pd
import pydicom
import pytest

import box_images
import support
from box_images import CLASSES
from loops import Loop
from medloop import manifest, params, privacy
from medloop.answers import detection as answers
from medloop.errors import Refused
from medloop.evaluation.boxes import TestSet
from medloop.operations import scoring
from medloop.operations.predict import predict
from medloop.stages.preprocess import preprocess
from medloop.stages.train import train
from medloop.tasks import detection as task

pytestmark = pytest.mark.usefixtures("at_store")

BASE = params.Base(task="detection", dataset="shapes")
SIZE = (48, 40)  # of the images
SPLITS = ["train"] * 40 + ["val"] * 10 + ["test"] * 20
PREPROCESS = params.Preprocess(size_px=(40, 40))
SLIDE = params.Preprocess(size_px=(40, 32), larger="slide")
RULE = params.Promote(floor=0.3, min_samples=5, min_per_class=2, resamples=200)
EVALUATE = params.Evaluate(resamples=200, worst_errors=3)


def section(epochs=10, architecture="fcos", **changed):
    hyper = {architecture: {"filters": [8, 12, 16], "finest": 4, "width": 16, "depth": 1}}
    recipe = {"batch_size": 8, "learning_rate": 0.01, "schedule": "cosine", "patience": 50}
    return params.Train(architectures=(architecture,), epochs=epochs, hyper=hyper, **recipe | changed)


WINDOWED = section(3, "retinanet")


@pytest.fixture(scope="module")
def loop(store):
    """The folder of a loop up to the evaluation, its metrics, and its version, which is champion."""
    box_images.write(store / "source", SIZE, SPLITS, 3)
    options, made = {"coco": {"masks": False, "patients": "patients.csv"}}, Loop(store, BASE)
    source = params.Ingest(source="coco", root=store / "source", options=options)
    made.checked(source, params.Validate(min_samples_per_class=2))
    about = made.prepared("resize", PREPROCESS)
    made.trained("resize", section())
    metrics, version = made.judged("resize", EVALUATE, "fcos")
    made.promoted(RULE, version)
    return SimpleNamespace(folder=store, about=about, metrics=metrics, version=version)


@pytest.fixture(scope="module")
def sliding(loop):
    """A challenger that takes images in windows."""
    made = Loop(loop.folder, BASE)
    about = made.prepared("slide", SLIDE)
    made.trained("slide", WINDOWED)
    metrics, version = made.judged("slide", EVALUATE, "retinanet")
    return SimpleNamespace(folder=loop.folder, about=about, metrics=metrics, version=version)


def truths(folder, split="test"):
    table, _ = manifest.read(folder / "samples")
    rows = table[table["split"] == split]
    values = manifest.Values(folder / "samples")
    boxes = [
        np.array([(*box, 1 + CLASSES.index(name)) for box, name in zip(*pair, strict=True)], float).reshape(-1, 5)
        for pair in zip(rows["boxes"], rows["box_labels"], strict=True)
    ]
    return rows, [values[row] for row in rows.itertuples()], boxes


def png(pixels):
    return cv2.imencode(".png", pixels)[1].tobytes()


def test_it_finds_the_shapes_and_says_so_with_intervals(loop):
    test = loop.metrics["test"]
    assert test["map_50"]["value"] > 0.5
    assert test["map"]["low"] < test["map"]["value"] < test["map"]["high"]
    assert {"map_50", "map", "map_small", "froc", "sensitivity", "ppv", "f1", "false_positives"} <= set(test)
    assert "map_large" not in test  # there is none
    assert (loop.metrics["gate"], loop.metrics["n"]["samples"], loop.metrics["n"]["patients"]) == ("map_50", 20, 10)
    assert set(loop.metrics["labels"]) == set(CLASSES)
    table = pd.read_parquet(loop.folder / "resize/evaluation/predictions.parquet")
    rows, _, boxes = truths(loop.folder)
    assert table["sample_id"].tolist() == rows["sample_id"].tolist()
    assert table["label_0"].tolist() == [(each[:, 4] == 1).sum() for each in boxes]
    again = task.read(table, json.loads((loop.folder / "resize/evaluation/card.json").read_text()))
    assert again.metrics()["map_50"][0] == pytest.approx(test["map_50"]["value"])


@pytest.mark.parametrize("name", ["resize", "slide"])
def test_a_model_is_judged_by_the_boxes_that_were_drawn(sliding, loop, name):
    test = TestSet(loop.folder / name / "holdout/test")
    _, _, boxes = truths(loop.folder)
    for image, wanted in zip(test.images, boxes, strict=True):
        np.testing.assert_array_equal(test.truth(image), wanted)
    assert np.any(np.concatenate(boxes) % 1 == 1 - box_images.PART)


def test_boxes_stand_under_the_images_that_were_fitted(loop):
    inputs, boxes = (np.load(loop.folder / f"resize/arrays/train/{name}.npy") for name in ("inputs", "labels"))
    assert (boxes.dtype, boxes.shape) == (np.float32, (40, 3, 5))
    assert (boxes == 0).all(axis=(1, 2)).sum() == 8
    for image, own in zip(inputs, boxes, strict=True):
        for x0, y0, x1, y1, _ in own[own[:, 4] == 2]:
            inside = image[round(y0) + 2 : round(y1) - 2, round(x0) + 2 : round(x1) - 2].astype(float)
            assert abs(inside - 100).min() > 30
    assert loop.about["counts"]["test"] == {"all": 20}


def test_the_same_data_and_parameters_give_the_same_bytes(sliding, tmp_path):
    train(BASE, WINDOWED, arrays=sliding.folder / "slide/arrays", model=tmp_path / "retinanet")
    for name in ("model.keras", "model.onnx", "validation.parquet", "card.json"):
        assert (tmp_path / "retinanet" / name).read_bytes() == (
            sliding.folder / "slide/models/retinanet" / name
        ).read_bytes(), name


def test_the_report_shows_boxes_and_sizes_and_nothing_that_identifies(loop):
    page = (loop.folder / "resize/evaluation/report.html").read_text()
    assert page.count('<figure><img src="data:image/png') == 6 + 3
    assert "Objects by size" in page
    assert "FROC" in page
    assert "its boxes come back in its own pixels" in page
    written = (path for path in loop.folder.rglob("*") if path.is_file() and "source" not in path.parts)
    named = [path for path in written if "state" not in path.parts and b"Canarybird" in path.read_bytes()]
    assert named == []


def test_the_served_model_returns_boxes_in_the_pixels_of_each_image(loop):
    from medloop.tracking import registry

    served = registry.load(f"models:/{BASE.model_name}/{loop.version}")
    names = {column.name: column.type.name for column in served.metadata.signature.outputs.inputs}
    assert names == {"boxes": "string", "count_disc": "double", "count_square": "double"}
    _, pixels, boxes = truths(loop.folder)
    sizes = [(48, 40), (96, 80), (24, 20), (48, 120)]
    images = [cv2.resize(pixels[1], size[::-1]) for size in sizes]
    table = served.predict(pd.DataFrame({"image": [png(each) for each in images]}))
    card = json.loads((loop.folder / "resize/evaluation/card.json").read_text())
    for content, size in zip(table["boxes"], sizes, strict=True):
        rows = answers.read(content, CLASSES)
        assert (rows[:, :4] >= 0).all()
        assert (rows[:, [2, 3]] <= size[::-1]).all()
    first, double = (answers.decided(answers.read(table["boxes"][i], CLASSES), card) for i in (0, 1))
    assert answers.overlaps(boxes[1][:, :4], first[:, :4]).max(axis=1).min() > 0.4
    assert answers.overlaps(first[:, :4], double[:, :4] / 2).max(axis=1).mean() > 0.7
    assert table["count_disc"][0] == (first[:, 5] == 1).sum()
    with pytest.raises(ValueError, match="image 1: neither DICOM nor PNG, JPEG or TIFF"):
        served.predict(pd.DataFrame({"image": [png(images[0]), b"nothing"]}))


@pytest.mark.parametrize("name", ["resize", "slide"])
def test_what_was_evaluated_is_what_the_served_model_says(sliding, loop, name):
    from medloop.tracking import registry
    from medloop.tracking.connection import server

    made = {"resize": loop, "slide": sliding}[name]
    with server() as client:
        version = registry.get(client, BASE.model_name, made.version)
    test = scoring.today(loop.folder / "samples", "shapes")
    said, labels = scoring.score(version, test, task), test.labels(task)
    table = pd.read_parquet(loop.folder / name / "evaluation/predictions.parquet")
    np.testing.assert_array_equal(labels, table[["label_0", "label_1"]])
    wanted = table[task.stored(CLASSES)].to_numpy(float)
    np.testing.assert_allclose(said[:, : 2 * task.MOST], wanted[:, : 2 * task.MOST], atol=1e-5)
    assert (said != wanted)[:, 2 * task.MOST :].sum() <= 3  # a corner is served to hundredths of a pixel
    assert task.score(labels, said) == pytest.approx(made.metrics["test"]["map_50"]["value"], abs=0.02)


def test_predict_writes_a_coco_file_and_an_overlay_for_each_image(loop, tmp_path):
    source = tmp_path / "images"
    source.mkdir()
    _, pixels, _ = truths(loop.folder)
    for number in range(3):
        cv2.imwrite(str(source / f"Canarybird {number}.png"), pixels[number])
    said = predict(BASE, source=source, output=tmp_path / "out.csv")
    assert said.startswith("3 images predicted by models:/medloop-detection-shapes/")
    table = pd.read_csv(tmp_path / "out.csv")
    assert table.columns.tolist() == ["sample_id", "count_disc", "count_square", "error"]
    found = json.loads((tmp_path / "out_boxes/boxes.json").read_text())
    assert [each["file_name"] for each in found["images"]] == table["sample_id"].tolist()
    assert [each["name"] for each in found["categories"]] == CLASSES
    predict(BASE, source=source, output=tmp_path / "named.csv", paths=True)
    named = json.loads((tmp_path / "named_boxes/boxes.json").read_text())
    assert [each["file_name"] for each in named["images"]] == [f"Canarybird {number}.png" for number in range(3)]
    counted = pd.DataFrame(found["annotations"]).groupby(["image_id", "category_id"]).size()
    for number, row in enumerate(table.itertuples(), 1):
        assert [counted.get((number, kind), 0) for kind in (1, 2)] == [row.count_disc, row.count_square]
        overlay = cv2.imread(str(tmp_path / "out_boxes" / f"{row.sample_id}_overlay.png"))
        assert overlay.shape == (*SIZE, 3)
    again = predict(BASE, source=source, output=tmp_path / "out.csv")
    assert again == said
    (tmp_path / "out_boxes/notes.txt").write_text("mine")
    with pytest.raises(Refused, match="is not a folder of boxes of an earlier prediction"):
        predict(BASE, source=source, output=tmp_path / "out.csv")


def test_a_dicom_file_gets_a_report_that_refers_to_it_and_names_nobody(loop, tmp_path):
    folder = tmp_path / "files"
    folder.mkdir()
    ds = support.dicom(0, finding=True, name=support.CANARY)
    ds.Rows, ds.Columns = SIZE
    ds.PixelData = (16 * truths(loop.folder)[1][1].astype(np.uint16)).tobytes()
    ds.SeriesInstanceUID, plain = pydicom.uid.generate_uid(), ds.SOPInstanceUID
    ds.save_as(folder / f"{support.CANARY}.dcm", enforce_file_format=True)
    support.enhance(ds, 2)
    ds.SOPInstanceUID = ds.file_meta.MediaStorageSOPInstanceUID = pydicom.uid.generate_uid()
    ds.file_meta.MediaStorageSOPClassUID, ds.PixelData = ds.SOPClassUID, ds.PixelData * 2
    ds.BurnedInAnnotation = "YES"
    ds.save_as(folder / f"{support.CANARY} in frames.dcm", enforce_file_format=True)
    said = predict(BASE, source=folder, output=tmp_path / "out.parquet")
    assert "without an overlay: BurnedInAnnotation is YES (2)" in said
    assert len([*(tmp_path / "out_boxes").glob("*_overlay.png")]) == 1
    table = pd.read_parquet(tmp_path / "out.parquet")
    assert {path.stem for path in (tmp_path / "out_boxes").glob("*.dcm")} == {*table["sample_id"]}
    whom = privacy.Pseudonyms.load().of("patient", ds.PatientID)
    assert all(support.CANARY.encode() not in each.read_bytes() for each in (tmp_path / "out_boxes").iterdir())
    from highdicom import sr

    referred = []
    for row in table.itertuples():
        found = sr.srread(tmp_path / f"out_boxes/{row.sample_id}.dcm")
        assert str(found.PatientID) == whom
        measured = found.content.get_planar_roi_measurement_groups()
        assert len(measured) == row.count_disc + row.count_square > 0
        for each in measured:
            assert each.reference_type.meaning == "Image Region"
            assert each.finding_type.meaning in CLASSES
        place = measured[0].roi.ContentSequence[0]
        referred.append((place.referenced_sop_instance_uid, place.referenced_frame_numbers))
    wanted = [(plain, None), (ds.SOPInstanceUID, [1]), (ds.SOPInstanceUID, [2])]
    assert sorted(referred, key=str) == sorted(wanted, key=str)


def test_windows_are_joined_before_an_image_is_judged(sliding):
    index = pd.read_parquet(sliding.folder / "slide/holdout/test/index.parquet")
    assert len(index) == 4 * 20
    assert sliding.about["counts"]["test"] == {"all": 20}
    test = TestSet(sliding.folder / "slide/holdout/test")
    _, pixels, boxes = truths(sliding.folder)
    for image, wanted, own in zip(test.images, pixels, boxes, strict=True):
        np.testing.assert_array_equal(test.whole(test.inputs, image)[..., 0], wanted)
        np.testing.assert_array_equal(test.truth(image), own)
    assert sliding.metrics["n"]["samples"] == 20
    assert sliding.metrics["test"]["map_50"]["value"] > 0.2


def test_a_challenger_is_compared_with_the_champion_on_boxes_in_the_images_own_pixels(sliding):
    from medloop.operations.promote import promote

    decision = promote(BASE, RULE, version=sliding.version, samples=sliding.folder / "samples", move=False)
    assert "against champion version" in decision.reason
    assert "map_50" in decision.reason
    strict = RULE.model_copy(update={"min_per_class": 1000})
    refused = promote(BASE, strict, version=sliding.version, samples=sliding.folder / "samples", move=False)
    assert "are fewer than promote.min_per_class 1000" in refused.reason


def test_what_boxes_do_not_go_with_is_refused(loop, tmp_path):
    arrays = loop.folder / "resize/arrays"
    for wanted, message in (
        (section(tta=params.Views(flip_horizontal=True)), r"train\.tta must be off where boxes are predicted"),
        (section(mixup=0.2), r"set train\.mixup: 0"),
        (
            params.Train(architectures=("unet",)),
            r"detection needs networks that give boxes of each image, .*unet does not; .* do: fcos, retinanet",
        ),
    ):
        with pytest.raises(Refused, match=message):
            train(BASE, wanted, arrays=arrays, model=tmp_path / "model")
    other = params.Base(task="classification", dataset="shapes")
    paths = {name: loop.folder / name for name in ("samples", "validation")}
    with pytest.raises(Refused, match=r"boxes and no labels, task classification wants labels: .* detection"):
        preprocess(other, PREPROCESS, **paths, arrays=tmp_path / "arrays", holdout=tmp_path / "holdout")
