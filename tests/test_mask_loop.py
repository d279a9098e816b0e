"""Images with masks go through every stage, become champion, and predict masks of their own size."""

import base64
import csv
import json
from io import StringIO
from types import SimpleNamespace

import cv2
import numpy as np
import pandas as pd
import pydicom
import pytest

import maps
import support
from loops import Loop
from medloop import manifest, overlap, params, privacy
from medloop.errors import Refused
from medloop.evaluation.maps import TestSet
from medloop.operations import scoring
from medloop.operations.predict import predict
from medloop.tasks import segmentation as task

pytestmark = pytest.mark.usefixtures("at_store")

BASE = params.Base(task="segmentation", dataset="discs")
SIZE = (48, 40)  # of the images; the networks take less
SPLITS = ["train"] * 30 + ["val"] * 10 + ["test"] * 20
PREPROCESS = params.Preprocess(size_px=(24, 24))
SLIDE = params.Preprocess(size_px=(32, 32), larger="slide")
RULE = params.Promote(floor=0.4, min_samples=5, min_per_class=2, resamples=200)
EVALUATE = params.Evaluate(resamples=200, worst_errors=3)


def section(epochs=25, **changed):
    hyper = {"unet": {"filters": [6, 12]}}
    return params.Train(
        architectures=("unet",), epochs=epochs, batch_size=6, learning_rate=0.01, patience=50, hyper=hyper, **changed
    )


def write_source(root):
    """Write images and masks of numbered discs, in files that carry a name."""
    pixels, _, objects = maps.images(1, SIZE, len(SPLITS), 3)
    rows = []
    for number, split in enumerate(SPLITS):
        name = f"Canarybird {number}.png"
        for folder, array in (("images", pixels[number]), ("masks", objects[number].astype(np.uint8))):
            (root / folder).mkdir(parents=True, exist_ok=True)
            cv2.imwrite(str(root / folder / name), array)
        rows.append((f"images/{name}", f"Canarybird-{number // 2}", split))
    with (root / "patients.csv").open("w", newline="") as file:
        csv.writer(file).writerows([("path", "patient_id", "split"), *rows])


@pytest.fixture(scope="module")
def loop(store):
    """The folder of a loop up to the evaluation, its metrics, and its version, which is champion."""
    write_source(store / "source")
    options, made = {"masks": {"classes": ["disc"], "numbered": True, "patients": "patients.csv"}}, Loop(store, BASE)
    source = params.Ingest(source="masks", root=store / "source", options=options)
    made.checked(source, params.Validate(min_samples_per_class=2))
    made.prepared("resize", PREPROCESS)
    made.trained("resize", section())
    metrics, version = made.judged("resize", EVALUATE, "unet")
    made.promoted(RULE, version)
    return SimpleNamespace(folder=store, metrics=metrics, version=version)


@pytest.fixture(scope="module")
def sliding(loop):
    """A challenger that takes images in windows."""
    made = Loop(loop.folder, BASE)
    about = made.prepared("slide", SLIDE)
    made.trained("slide", section(8))
    metrics, version = made.judged("slide", EVALUATE, "unet")
    return SimpleNamespace(folder=loop.folder, about=about, metrics=metrics, version=version)


def truths(folder, split="test"):
    table, _ = manifest.read(folder / "samples")
    rows = table[table["split"] == split]
    values = manifest.Values(folder / "samples")
    return rows, [values[row] for row in rows.itertuples()], [values.mask(row) for row in rows.itertuples()]


def mask_of(content):
    return cv2.imdecode(np.frombuffer(content, np.uint8), cv2.IMREAD_UNCHANGED)


def test_it_finds_the_discs_and_says_so_with_intervals(loop):
    test = loop.metrics["test"]
    assert test["dice"]["value"] > 0.6
    assert test["dice"]["low"] < test["dice"]["value"] < test["dice"]["high"]
    assert {"dice", "iou", "hd95_px", "nsd_px", "average_precision_objects", "dice_pooled"} <= set(test)
    assert loop.metrics["gate"] == "dice"
    assert loop.metrics["n"]["samples"] == 20
    table = pd.read_parquet(loop.folder / "resize/evaluation/predictions.parquet")
    rows, _, _ = truths(loop.folder)
    assert table["sample_id"].tolist() == rows["sample_id"].tolist()
    again = task.read(table, json.loads((loop.folder / "resize/evaluation/card.json").read_text()))
    assert again.metrics()["dice"][0] == pytest.approx(test["dice"]["value"])


def test_the_report_shows_edges_and_sizes_and_nothing_that_identifies(loop):
    page = (loop.folder / "resize/evaluation/report.html").read_text()
    assert page.count('<figure><img src="data:image/png') == 6 + 3
    assert "Objects by size" in page
    assert "its mask comes back at its own size" in page
    assert "Canarybird" not in page
    written = (path for path in loop.folder.rglob("*") if path.is_file() and "source" not in path.parts)
    named = [path for path in written if "state" not in path.parts and b"Canarybird" in path.read_bytes()]
    assert named == []


def test_the_served_model_returns_masks_of_the_size_of_each_image(loop):
    from mlflow.pyfunc.scoring_server import predictions_to_json

    from medloop.tracking import registry

    served = registry.load(f"models:/{BASE.model_name}/{loop.version}")
    names = {column.name: column.type.name for column in served.metadata.signature.outputs.inputs}
    assert names == {"mask": "binary", "area_disc": "double"}
    _, pixels, masks = truths(loop.folder)
    sizes = [(48, 40), (96, 80), (24, 24), (30, 100)]
    images = [cv2.resize(pixels[1], size[::-1]) for size in sizes]
    cells = [cv2.imencode(".png", each)[1].tobytes() for each in images]
    table = served.predict(pd.DataFrame({"image": cells}))
    found = [mask_of(content) for content in table["mask"]]
    assert [mask.shape for mask in found] == sizes
    assert table["area_disc"].tolist() == [float((mask == 1).sum()) for mask in found]
    assert overlap.dice(*overlap.counts(masks[1], found[0], 1))[0] > 0.5
    answered = StringIO()
    predictions_to_json(table, answered)  # as a model server does
    [first, *_] = json.loads(answered.getvalue())["predictions"]
    assert base64.b64decode(first["mask"]) == table["mask"][0]
    with pytest.raises(ValueError, match="image 1: neither DICOM nor PNG, JPEG or TIFF"):
        served.predict(pd.DataFrame({"image": [cells[0], b"nothing"]}))


def test_predict_writes_a_row_and_a_mask_for_each_image(loop, tmp_path):
    source = tmp_path / "images"
    source.mkdir()
    _, pixels, _ = truths(loop.folder)
    for number in range(3):
        cv2.imwrite(str(source / f"Canarybird {number}.png"), pixels[number])
    said = predict(BASE, source=source, output=tmp_path / "out.csv")
    assert said.startswith("3 images predicted by models:/medloop-segmentation-discs/")
    table = pd.read_csv(tmp_path / "out.csv")
    assert table.columns.tolist() == ["sample_id", "area_disc", "error"]
    files = sorted((tmp_path / "out_masks").glob("*.png"))
    assert {path.stem for path in files} >= set(table["sample_id"])
    assert len(files) == 6
    overlay = cv2.imread(str(tmp_path / "out_masks" / f"{table['sample_id'][0]}_overlay.png"))
    assert overlay.shape == (*SIZE, 3)
    for _, row in table.iterrows():
        mask = mask_of((tmp_path / "out_masks" / f"{row['sample_id']}.png").read_bytes())
        assert mask.shape == SIZE
        assert (mask == 1).sum() == row["area_disc"]
    assert "Canarybird" not in " ".join(map(str, tmp_path.glob("out_masks/*")))


def test_a_dicom_file_gets_a_segmentation_that_refers_to_it_and_names_nobody(loop, tmp_path):
    pytest.importorskip("highdicom")
    folder = tmp_path / "files"
    folder.mkdir()
    written = []
    for number in range(3):
        ds = support.dicom(number, finding=True, name=support.CANARY)
        ds.Rows, ds.Columns = SIZE
        pixels = cv2.resize(truths(loop.folder)[1][1 + number], SIZE[::-1])
        ds.PixelData = (16 * pixels.astype(np.uint16)).tobytes()
        if number < 2:
            ds.SeriesInstanceUID = pydicom.uid.generate_uid()
            written.append(ds.SOPInstanceUID)
        ds.save_as(folder / f"{support.CANARY} {number}.dcm", enforce_file_format=True)
    support.enhance(ds, 2)
    ds.SOPInstanceUID = ds.file_meta.MediaStorageSOPInstanceUID = pydicom.uid.generate_uid()
    ds.file_meta.MediaStorageSOPClassUID = ds.SOPClassUID
    ds.SeriesInstanceUID, ds.PixelData = pydicom.uid.generate_uid(), ds.PixelData * 2
    written += [ds.SOPInstanceUID] * 2
    ds.save_as(folder / f"{support.CANARY} 3.dcm", enforce_file_format=True)
    said = predict(BASE, source=folder, output=tmp_path / "out.parquet")
    assert "without a DICOM segmentation: the image lacks SeriesInstanceUID" in said
    assert said.endswith("must refer (1)")
    (folder / "empty.png").touch()
    with pytest.raises(
        Refused, match=r"1 of 6 images could not .*out2_masks; without a DICOM segmentation: the image lacks"
    ):
        predict(BASE, source=folder, output=tmp_path / "out2.parquet")
    table = pd.read_parquet(tmp_path / "out.parquet")
    found = {path.stem: pydicom.dcmread(path) for path in (tmp_path / "out_masks").glob("*.dcm")}
    refers = [ds.ReferencedSeriesSequence[0].ReferencedInstanceSequence[0] for ds in found.values()]
    assert sorted(each.ReferencedSOPInstanceUID for each in refers) == sorted(written)
    of = privacy.Pseudonyms.load().of
    whom = {of("patient", f"{support.CANARY}-{number:04}") for number in range(3)}
    assert {str(ds.PatientID) for ds in found.values()} == whom  # two frames and two images, of three people
    for path in (tmp_path / "out_masks").iterdir():
        assert support.CANARY.encode() not in path.read_bytes()
    for name, ds in found.items():
        [sample] = table[table["sample_id"] == name].itertuples()
        assert ds.SegmentSequence[0].SegmentLabel == "disc"
        assert int(ds.pixel_array.sum()) == sample.area_disc


def test_one_bad_image_costs_the_others_nothing(loop, tmp_path):
    source = tmp_path / "images"
    source.mkdir()
    _, pixels, _ = truths(loop.folder)
    cv2.imwrite(str(source / "a.png"), pixels[0])
    (source / "b.png").write_bytes(b"\x89PNG\r\n\x1a\n broken")
    with pytest.raises(Refused, match="1 of 2 images could not be predicted: truncated or damaged"):
        predict(BASE, source=source, output=tmp_path / "out.parquet")
    table = pd.read_parquet(tmp_path / "out.parquet")
    assert table["error"].isna().tolist() == [True, False]
    assert (tmp_path / "out_masks" / f"{table['sample_id'][0]}.png").exists()
    kept = tmp_path / "kept_masks"
    kept.mkdir()
    (kept / "notes.txt").write_text("mine")
    with pytest.raises(Refused, match="is not a folder of masks of an earlier prediction"):
        predict(BASE, source=source, output=tmp_path / "kept.csv")
    assert (kept / "notes.txt").read_text() == "mine"


def test_windows_are_joined_before_an_image_is_judged(sliding):
    index = pd.read_parquet(sliding.folder / "slide/holdout/test/index.parquet")
    assert len(index) == 4 * 20
    assert sliding.about["counts"]["test"] == {"all": 20}
    test = TestSet(sliding.folder / "slide/holdout/test")
    rows, pixels, masks = truths(sliding.folder)
    assert [image.size for image in test.images] == [SIZE] * 20
    for image, wanted, mask in zip(test.images, pixels, masks, strict=True):
        np.testing.assert_array_equal(test.whole(test.inputs, image)[..., 0], wanted)
        np.testing.assert_array_equal(test.whole(test.masks, image), mask)
    assert test.table["sample_id"].tolist() == rows["sample_id"].tolist()
    assert sliding.metrics["n"]["samples"] == 20


def test_what_was_evaluated_in_windows_is_what_the_served_model_says(sliding):
    from medloop.tracking import registry
    from medloop.tracking.connection import server

    with server() as client:
        version = registry.get(client, BASE.model_name, sliding.version)
    test = scoring.today(sliding.folder / "samples", "discs")
    said, labels = scoring.score(version, test, task), test.labels(task)
    table = pd.read_parquet(sliding.folder / "slide/evaluation/predictions.parquet")
    np.testing.assert_array_equal(labels[:, 0], table["label_0"])
    np.testing.assert_allclose(said, table[task.stored(["disc"])], atol=2)
    assert task.score(labels, said) == pytest.approx(sliding.metrics["test"]["dice"]["value"], abs=2e-3)
    assert scoring.logged(version, test, task) is None


def test_a_challenger_is_compared_with_the_champion_on_masks_of_the_images_own_size(sliding):
    from medloop.operations.promote import promote

    decision = promote(BASE, RULE, version=sliding.version, samples=sliding.folder / "samples", move=False)
    assert "against champion version" in decision.reason
    assert "dice" in decision.reason
    again = promote(BASE, RULE, version=sliding.version, samples=sliding.folder / "samples", move=False)
    assert again.reason == decision.reason
    strict = RULE.model_copy(update={"min_per_class": 1000})
    refused = promote(BASE, strict, version=sliding.version, samples=sliding.folder / "samples", move=False)
    assert "test samples of class disc are fewer than promote.min_per_class 1000" in refused.reason


def test_windows_are_refused_where_there_are_no_masks():
    from medloop.kinds import image

    facts = manifest.Facts(("a", "b"), "folder")
    with pytest.raises(Refused, match="larger: slide is for masks and boxes, of which these samples have none"):
        image.form(pd.DataFrame(), None, facts, SLIDE)
