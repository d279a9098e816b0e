"""Masks and instance maps on their way from a source to arrays: ingest, validate, preprocess, at once and in shards."""

import json
import sys
from pathlib import Path

import cv2
import numpy as np
import pandas as pd
import pytest

from medloop import imaging, manifest, params, provenance, sources, tasks
from medloop.errors import Refused
from medloop.stages.ingest import ingest, ingest_part
from medloop.stages.preprocess import preprocess, preprocess_part
from medloop.stages.validate import validate

BASE = params.Base(task="maps", dataset="drawn")
SECTION = params.Preprocess(size_px=(24, 32))
COUNT = 30
TASK = """
GIVES, KINDS, NUMBERS = "map", ("image",), False

def check(facts):
    pass
"""
SOURCE = """
from functools import partial
import numpy as np
from medloop import params
from medloop.sources import Item, Sample

class Options(params.Section):
    instances: bool = True
    masks: bool = True
    boxes: bool = False
    fault: str = ""

def facts(root, options):
    return {"masks": options.masks, "boxes": options.boxes, "classes": ("disc", "bar")}

def items(root, options, *, seed):
    for index in range(30):
        yield Item(f"image {index}", partial(sample, index, options))

def sample(index, options):
    from stages.test_masks_through import drawn
    pixels, mask, objects = drawn(index)
    fault = options.fault if index == 3 else ""
    if fault == "value":
        mask = np.where(mask == 2, 3, mask).astype(np.uint8)
    if fault == "elsewhere":
        objects = np.roll(objects, 1, axis=1)
    if fault == "size":
        mask = mask[:-1]
    if fault == "absent":
        mask = None
    if options.fault == "empty" and index % 3:
        mask, objects = np.zeros_like(mask), np.zeros_like(objects)
    box = (2, 2, 8, 200 if fault == "box" else 9)
    return [Sample(f"image {index}", pixels, 8, None, f"patient {index}", spacing_mm=None if index % 3 else (0.5, 0.25),
        mask=mask if options.masks else None, instances=objects if options.instances and mask is not None else None,
        boxes=(box,) if options.boxes else None, box_labels=("blob" if fault == "name" else "bar",),
        flaws=("a box of no size was left out",) if index == 5 else ())]
"""


def drawn(index: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return an image of a disc and a bar as bright as their class, its mask and its instance map; image 0 is empty."""
    rng = np.random.default_rng(index)
    height, width = 40 + index, 50
    mask, objects = np.zeros((height, width), np.uint8), np.zeros((height, width), np.uint16)
    if index:
        for layer, values in ((mask, (1, 2)), (objects, (7, 300))):
            place = np.random.default_rng(index).integers(12, 28, 2)
            cv2.circle(layer, [int(side) for side in place], 8, values[0], -1)
            layer[-6:, 10 : 14 + index] = values[1]
    pixels = (mask * 100 + rng.integers(0, 20, mask.shape)).astype(np.uint8)
    return pixels, mask, objects


def centre(weights: np.ndarray) -> list[float]:
    """Return the row and the column of the centre of mass."""
    return [float(np.average(axis, weights=weights)) for axis in np.indices(weights.shape)]


@pytest.fixture(autouse=True)
def plugins(tmp_path, monkeypatch):
    """A source and a task, each added as one new file."""
    folder = tmp_path / "plugins"
    folder.mkdir()
    (folder / "drawn_source.py").write_text(SOURCE)
    (folder / "drawn.py").write_text("from drawn_source import Options, facts, items")
    (folder / "maps.py").write_text(TASK)
    monkeypatch.syspath_prepend(folder)
    monkeypatch.syspath_prepend(Path(__file__).parents[1])
    for package in (sources, tasks):
        monkeypatch.setattr(package, "__path__", [*package.__path__, str(folder)])
    yield
    for name in ("medloop.sources.drawn", "drawn_source", "medloop.tasks.maps"):
        sys.modules.pop(name, None)


def section(**options) -> params.Ingest:
    return params.Ingest.model_validate({"source": "drawn", "options": {"drawn": options}, "workers": 1})


def judged(folder: Path, **options) -> dict:
    ingest(BASE, section(**options), samples=folder / "samples")
    return validate(
        BASE, params.Validate(min_samples_per_class=0), samples=folder / "samples", validation=folder / "validation"
    )


def arrays(folder: Path, **parts) -> dict:
    inputs = {name: folder / name for name in ("samples", "validation")}
    return preprocess(BASE, SECTION, **inputs, arrays=folder / "arrays", holdout=folder / "holdout", **parts)


def test_maps_stand_under_exactly_the_pixels_that_they_stood_under(tmp_path):
    judged(tmp_path)
    about = arrays(tmp_path)
    table, facts = manifest.read(tmp_path / "samples")
    assert (facts.masks, facts.classes, table["label"].isna().all()) == (True, ("disc", "bar"), True)
    assert {split: counts["all"] for split, counts in about["counts"].items()} == table[
        "split"
    ].value_counts().to_dict()
    off = []
    number = {40 + index: index for index in range(COUNT)}
    for split, name in (("train", "arrays"), ("val", "arrays"), ("test", "holdout")):
        folder = tmp_path / name / split
        labels, index = np.load(folder / "labels.npy", mmap_mode="r"), pd.read_parquet(folder / "index.parquet")
        inputs = np.load(folder / "inputs.npy", mmap_mode="r")
        assert (labels.shape, labels.dtype) == ((len(index), 24, 32), np.uint8)
        assert (folder / "instances.npy").exists() == (split != "train")
        for place, row in enumerate(index.itertuples()):
            _, mask, objects = drawn(number[row.height])
            as_image = imaging.fit((mask * 100).astype(np.uint8), 8, size_px=(24, 32), channels=1)[..., 0]
            assert np.abs(inputs[place, ..., 0].astype(int) - as_image).max() <= 20
            for value in set(np.unique(mask)) - {0}:
                alone = imaging.fit((mask == value) * np.uint8(200), 8, size_px=(24, 32), channels=1)[..., 0]
                off.append(np.subtract(centre(labels[place] == value), centre(alone)))
                assert ((labels[place] == value) != (alone > 100)).mean() < 0.03  # along its edge
            if split != "train":
                instances = np.load(folder / "instances.npy")[place]
                assert instances.dtype == np.uint16
                np.testing.assert_array_equal(instances > 0, labels[place] > 0)
                assert set(np.unique(instances)) == set(np.unique(objects))
    assert np.abs(off).max() < 0.6  # of a pixel of the array, into which up to three of the image went
    assert np.abs(np.mean(off, axis=0)).max() < 0.06  # no half pixel to one side


def test_the_index_says_the_size_before_and_the_millimetres_of_a_pixel_of_the_array(tmp_path):
    judged(tmp_path)
    arrays(tmp_path)
    index = pd.read_parquet(tmp_path / "arrays/train/index.parquet")
    assert (index["width"] == 50).all()
    assert index["spacing_y_mm"].isna().sum() == index["spacing_x_mm"].isna().sum() > 0
    for row in index[index["spacing_y_mm"].notna()].itertuples():
        rows, columns = max(row.height, round(50 * 24 / 32)), max(50, round(row.height * 32 / 24))  # as it is padded
        assert (row.spacing_y_mm, row.spacing_x_mm) == pytest.approx((0.5 * rows / 24, 0.25 * columns / 32))


def test_shards_change_no_byte(tmp_path):
    judged(tmp_path)
    arrays(tmp_path)
    wanted = {name: provenance.digest(tmp_path / name) for name in ("samples", "arrays", "holdout")}
    for number in range(3):
        ingest_part(BASE, section(), part=tmp_path / f"part{number}", shard=number, shards=3)
    ingest(BASE, section(), samples=tmp_path / "joined", parts=[tmp_path / f"part{number}" for number in range(3)])
    assert provenance.digest(tmp_path / "joined") == wanted["samples"]
    inputs = {name: tmp_path / name for name in ("samples", "validation")}
    for number in range(3):
        outputs = {name: tmp_path / f"{name}{number}" for name in ("arrays", "holdout")}
        preprocess_part(BASE, SECTION, **inputs, **outputs, shard=number, shards=3)
    parts = {f"{name}_parts": [tmp_path / f"{name}{number}" for number in range(3)] for name in ("arrays", "holdout")}
    arrays(tmp_path, **parts)
    assert {name: provenance.digest(tmp_path / name) for name in wanted} == wanted


def test_a_flaw_is_reported_and_the_sample_kept(tmp_path):
    ingest(BASE, section(), samples=tmp_path / "samples")
    report = json.loads((tmp_path / "samples/ingest.json").read_text())
    assert [flaw["reason"] for flaw in report["flawed"]] == ["a box of no size was left out"]
    assert len(manifest.read(tmp_path / "samples")[0]) == COUNT
    assert any(note.startswith("1 items have flaws and were taken all the same: ") for note in report["notes"])
    assert "1 of 30 images show no object: their masks are empty, and count." in report["notes"]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"fault": "value"}, "mask values are classes"),
        ({"fault": "elsewhere"}, "objects are where the mask is"),
        ({"boxes": True, "fault": "box"}, "boxes within their image"),
    ],
)
def test_what_was_drawn_wrongly_fails_validation(tmp_path, options, message):
    with pytest.raises(Refused, match=message) as caught:
        judged(tmp_path, **options)
    assert str(caught.value).count("ingest.root") == 1  # one check, with its remedy


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"fault": "size"}, r"mask must be \(43, 50\) like its image, got \(42, 50\)"),
        ({"fault": "absent"}, "every sample must have a mask, 1 of 30 have none"),
        ({"boxes": True, "fault": "name"}, "boxes must be of disc, bar, got blob"),
    ],
)
def test_what_cannot_be_is_refused_when_it_is_read(tmp_path, options, message):
    with pytest.raises(Refused, match=message):
        ingest(BASE, section(**options), samples=tmp_path / "samples")


def test_many_empty_masks_are_noted_and_pass(tmp_path):
    result = judged(tmp_path, fault="empty")
    failed = [check["name"] for check in result["checks"] if not check["success"]]
    assert result["success"]
    assert "images with an object" in failed


def test_a_class_that_no_image_of_a_side_shows_is_refused(tmp_path):
    ingest(BASE, section(), samples=tmp_path / "samples")
    with pytest.raises(Refused, match="every class in every split"):
        validate(
            BASE,
            params.Validate(min_samples_per_class=25),
            samples=tmp_path / "samples",
            validation=tmp_path / "validation",
        )


def test_a_task_that_wants_labels_refuses_masks_alone(tmp_path):
    judged(tmp_path)
    inputs = {name: tmp_path / name for name in ("samples", "validation")}
    outputs = {name: tmp_path / name for name in ("arrays", "holdout")}
    with pytest.raises(
        Refused, match=r"the samples have masks and no labels, task classification wants labels: .* segmentation"
    ):
        preprocess(params.Base(), SECTION, **inputs, **outputs)


def test_without_instances_there_is_no_file_of_them(tmp_path):
    judged(tmp_path, instances=False)
    arrays(tmp_path)
    assert not list(tmp_path.rglob("instances.npy"))
