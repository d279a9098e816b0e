"""A COCO file and its images: masks, boxes, and one message for everything that cannot be."""

import json

import cv2
import numpy as np
import pytest

from medloop import decoding, manifest, params, privacy, provenance
from medloop.errors import Refused
from medloop.stages.ingest import ingest, ingest_part

COUNT = 30
CATEGORIES = [{"id": 7, "name": "vessel"}, {"id": 2, "name": "nodule"}]  # in the order of their ids: nodule, vessel


def square(x: float, y: float, side: float) -> list[float]:
    return [x, y, x + side, y, x + side, y + side, x, y + side]


def annotation(image: int, category: int, x: float, y: float, side: float, **more) -> dict:
    found = {"image_id": image, "category_id": category, "bbox": [x, y, side, side]}
    return found | {"segmentation": [square(x, y, side)], "iscrowd": 0} | more


def runs(there: np.ndarray) -> dict:
    """Return uncompressed run lengths of (H, W) bool."""
    flat = there.T.ravel()
    ends = np.flatnonzero(np.diff(flat.astype(int))) + 1
    counts = np.diff([0, *ends, flat.size]).tolist()
    return {"size": list(there.shape), "counts": [0, *counts] if flat[0] else counts}


@pytest.fixture
def root(tmp_path):
    """Thirty images of 40 x 50: every third is empty, the others show a nodule and a vessel."""
    folder = tmp_path / "data"
    (folder / "images").mkdir(parents=True)
    images, annotations = [], []
    for index in range(COUNT):
        pixels = np.kron(np.random.default_rng(index).integers(0, 255, (8, 10)), np.ones((5, 5))).astype(np.uint8)
        assert cv2.imwrite(str(folder / f"images/Canary {index}.png"), pixels)
        images.append({"id": 100 + index, "file_name": f"Canary {index}.png", "height": 40, "width": 50})
        if index % 3:
            annotations += [annotation(100 + index, 2, 5, 6, 8)]
            there = np.zeros((40, 50), bool)
            there[20:25, 30:35] = True
            annotations += [annotation(100 + index, 7, 30, 20, 5, segmentation=runs(there))]
    write(folder, {"images": images, "annotations": annotations, "categories": CATEGORIES})
    return folder


def read(root) -> dict:
    return json.loads((root / "annotations.json").read_text())


def write(root, content) -> None:
    (root / "annotations.json").write_text(content if isinstance(content, str) else json.dumps(content))


def section(root, max_rejected=0.0, **options) -> params.Ingest:
    return params.Ingest(source="coco", root=root, options={"coco": options}, max_rejected=max_rejected, workers=1)


def run(root, max_rejected=0.0, **options):
    folder = root.parent / "samples"
    report = ingest(params.Base(dataset="c"), section(root, max_rejected, **options), samples=folder, previous=folder)
    table, facts = manifest.read(folder)
    values = manifest.Values(folder)
    pseudonyms = privacy.Pseudonyms.load()
    names = {pseudonyms.of("sample", f"images/Canary {index}.png"): index for index in range(COUNT)}
    return report, facts, values, {names[row.sample_id]: row for row in table.itertuples()}


def test_polygons_and_run_lengths_become_masks_instances_and_boxes(root):
    report, facts, values, rows = run(root)
    assert (facts.masks, facts.boxes, facts.classes) == (True, True, ("nodule", "vessel"))
    assert (report["rejected"], report["flawed"], len(rows)) == ([], [], COUNT)
    for index, row in rows.items():
        wanted, numbers = np.zeros((40, 50), np.uint8), np.zeros((40, 50), np.uint16)
        if index % 3:
            wanted[6:14, 5:13], wanted[20:25, 30:35] = 1, 2
            numbers[6:14, 5:13], numbers[20:25, 30:35] = 1, 2
            assert [list(box) for box in row.boxes] == [[5, 6, 13, 14], [30, 20, 35, 25]]
            assert list(row.box_labels) == ["nodule", "vessel"]
        else:
            assert len(row.boxes) == len(row.box_labels) == 0
        np.testing.assert_array_equal(values.mask(row), wanted)
        np.testing.assert_array_equal(values.instances(row), numbers)
        assert row.split == decoding.side(f"Canary {index}", params.Split())
    for path in (root.parent / "samples").rglob("*"):
        assert path.is_dir() or b"Canary" not in path.read_bytes()


def test_classes_choose_and_order_the_categories_and_boxes_may_stand_alone(root):
    _, facts, values, rows = run(root, classes=["vessel"])
    assert facts.classes == ("vessel",)
    assert set(np.unique(values.mask(rows[1]))) == {0, 1}
    assert values.mask(rows[1]).sum() == 25
    content = read(root)
    for each in content["annotations"]:
        del each["segmentation"]
    write(root, content)
    _, facts, values, rows = run(root, masks=False)
    assert (facts.masks, facts.boxes) == (False, True)
    assert values.mask(rows[1]) is None
    assert [list(box) for box in rows[1].boxes] == [[5, 6, 13, 14], [30, 20, 35, 25]]


def test_boxes_are_kept_to_a_part_of_a_pixel(root):
    content = read(root)
    content["annotations"] += [annotation(101, 2, 30.25, 10.5, 3.25)]
    write(root, content)
    (root / "annotations.json").write_text("\ufeff" + (root / "annotations.json").read_text())
    _, _, _, rows = run(root, masks=False)
    assert list(rows[1].boxes[2]) == [30.25, 10.5, 33.5, 13.75]


def test_ids_of_categories_may_be_numbers_and_texts(root):
    content = read(root)
    content["categories"].append({"id": "1", "name": "third"})
    write(root, content)
    assert run(root)[1].classes == ("nodule", "vessel", "third")


@pytest.mark.parametrize("classes", [["vessel", "vessel"], ["vessel", " "]])
def test_classes_have_names_that_differ(root, classes):
    with pytest.raises(Refused, match="classes must have names that differ, none of them empty"):
        run(root, classes=classes)


def test_flaws_are_reported_and_the_image_kept(root):
    content = read(root)
    content["annotations"] += [
        annotation(101, 2, 40, 30, 5, bbox=[20, 20, 0, 3]),  # a box of no size
        annotation(102, 2, 45, 35, 20),  # reaches beyond the image
        annotation(104, 7, 40, 5, 3, iscrowd=1),
        annotation(105, 2, 60, 5, 3),  # lies outside
    ]
    write(root, content)
    report, _, values, rows = run(root)
    assert sorted(flaw["reason"] for flaw in report["flawed"]) == [
        "1 boxes of no size were left out",
        "1 boxes outside of the image were left out",
        "1 boxes reach beyond the image and were cut",
        "1 crowds count as one object each",
        "1 objects without a pixel were left out",
    ]
    assert len(rows) == COUNT
    assert list(rows[2].boxes[2]) == [45, 35, 50, 40]
    assert (values.mask(rows[2])[35:, 45:] == 1).all()


def test_boxes_of_crowds_and_what_is_no_box_are_left_out_and_told(root):
    content = read(root)
    content["annotations"] += [
        annotation(101, 2, 0, 0, 50, iscrowd=1),
        annotation(102, 2, 45, 35, 20, bbox=[20, 20, float("nan"), 3]),
        annotation(103, 2, 45, 35, 20, bbox=[20, 20, -4, 3]),
        content["annotations"][0] | {"id": 104},
    ]
    for each in content["images"]:
        each["id"] = float(each["id"])  # as pandas writes them
    write(root, content)
    report, _, _, rows = run(root, masks=False)
    assert sorted(flaw["reason"] for flaw in report["flawed"]) == [
        "1 boxes stood there twice and count once",
        "1 boxes that end before they begin were left out",
        "1 boxes whose corners are no numbers were left out",
        "1 crowds were left out: what is found there counts as false, COCO would ignore it",
    ]
    assert [list(box) for box in rows[2].boxes] == [[5, 6, 13, 14], [30, 20, 35, 25]]


def test_only_images_whose_annotations_changed_are_read_again_and_shards_change_no_byte(root, tmp_path):
    run(root)
    content = read(root)
    content["annotations"][0]["bbox"][0] += 1
    write(root, content)
    assert run(root)[0]["taken_over"] == COUNT - 1
    parts = [tmp_path / f"part{number}" for number in range(3)]
    for number, part in enumerate(parts):
        ingest_part(params.Base(dataset="c"), section(root), part=part, shard=number, shards=3)
    ingest(params.Base(dataset="c"), section(root), samples=tmp_path / "joined", parts=parts)
    assert provenance.digest(tmp_path / "joined") == provenance.digest(tmp_path / "samples")


FAULTS = {
    "category": lambda content: content["annotations"][0].update(category_id="Canary"),
    "image": lambda content: content["annotations"][0].update(image_id=99),
    "twice": lambda content: content["images"][1].update(id=100),
    "unlisted": lambda content: content["images"].pop(0),
    "size": lambda content: content["images"][1].update(height="Canary"),
    "no segmentation": lambda content: content["annotations"][0].pop("segmentation"),
    "polygon": lambda content: content["annotations"][0].update(segmentation=[[1, 2]]),
    "runs": lambda content: content["annotations"][0].update(segmentation={"size": [50, 40], "counts": [2000]}),
    "bbox": lambda content: content["annotations"][0].update(bbox="Canary"),
    "overlap": lambda content: content["annotations"].append(annotation(101, 7, 10, 10, 8)),
    "no lists": lambda content: content.pop("categories"),
}


def broken(root, fault: str) -> None:
    if fault == "absent":
        (root / "images/Canary 0.png").unlink()
    elif fault in FAULTS:
        content = read(root)
        FAULTS[fault](content)
        write(root, content)
    else:
        write(root, {"empty": "", "no json": "{Canary", "deep": "[" * 200_000}[fault])


@pytest.mark.parametrize(
    ("fault", "message"),
    [
        ("empty", r"annotations\.json is empty: it must be a COCO file with images, annotations and categories"),
        ("no json", r"is no readable JSON in UTF-8 \(JSONDecodeError\)"),
        ("deep", r"is no readable JSON in UTF-8 \(RecursionError\)"),
        ("no lists", "must hold lists named images, annotations, categories"),
        ("category", "an annotation is of a category that `categories` do not list"),
        ("image", "annotations are of 1 images that `images` do not list"),
        ("twice", "two images have one id or one file_name"),
        ("unlisted", "1 of 30 files have no label"),
        ("absent", "1 of 30 rows have no file"),
        ("size", r"1 x the annotations are of an image of another size than \(40, 50\)\n"),
        ("no segmentation", "1 x an annotation has no segmentation"),
        ("polygon", "1 x a polygon must have at least three corners"),
        ("runs", r"1 x run lengths must be of \[40, 50\] like their image"),
        ("bbox", "1 x a bbox must be four numbers: x, y, width and height"),
        ("overlap", "1 x 12 of its pixels belong to several objects at once"),
    ],
)
def test_one_message_for_what_cannot_be(root, fault, message):
    broken(root, fault)
    with pytest.raises(Refused, match=message) as caught:
        run(root)
    assert "Canary" not in str(caught.value)
    if "1 x" in message:
        report, _, _, rows = run(root, max_rejected=0.1)
        assert (len(rows), len(report["rejected"])) == (COUNT - 1, 1)
    if fault == "overlap":
        _, _, values, rows = run(root, overlap="smaller")
        assert (values.mask(rows[1])[10:14, 10:13] > 0).all()
