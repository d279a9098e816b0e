"""Pascal VOC annotations: boxes, the blood cells of BCCD, and one message for everything that cannot be."""

import json
import shutil

import cv2
import numpy as np
import pytest

from medloop import decoding, manifest, params, privacy, provenance
from medloop.errors import Refused
from medloop.stages.ingest import ingest, ingest_part

COUNT = 20


def xml(*objects: tuple, height: int = 40, width: int = 50) -> str:
    """Return annotations of (name, xmin, ymin, xmax, ymax)."""
    found = "".join(
        f"<object><name>{name}</name><bndbox><xmin>{x0}</xmin><ymin>{y0}</ymin><xmax>{x1}</xmax><ymax>{y1}</ymax>"
        "</bndbox></object>"
        for name, x0, y0, x1, y1 in objects
    )
    size = f"<size><width>{width}</width><height>{height}</height><depth>3</depth></size>"
    return f"<annotation><path>/home/Canary/x.jpg</path>{size}{found}</annotation>"


@pytest.fixture
def root(tmp_path):
    folder = tmp_path / "data"
    for name in ("Annotations", "JPEGImages"):
        (folder / name).mkdir(parents=True)
    for index in range(COUNT):
        pixels = np.kron(np.random.default_rng(index).integers(0, 255, (8, 10)), np.ones((5, 5))).astype(np.uint8)
        assert cv2.imwrite(str(folder / f"JPEGImages/Canary {index}.jpg"), pixels)
        objects = [("RBC", 5, 6, 15, 18), ("WBC", 20, 3, 50, 40)][: index % 3]
        (folder / f"Annotations/Canary {index}.xml").write_text(xml(*objects))
    return folder


def section(root, max_rejected=0.0, **options) -> params.Ingest:
    content = {"classes": ["RBC", "WBC"], **options}
    return params.Ingest(source="voc", root=root, options={"voc": content}, max_rejected=max_rejected, workers=1)


def run(root, max_rejected=0.0, **options):
    folder = root.parent / "samples"
    wanted = section(root, max_rejected, **options)
    report = ingest(params.Base(dataset="c"), wanted, samples=folder, previous=folder)
    table, facts = manifest.read(folder)
    pseudonyms = privacy.Pseudonyms.load()
    names = {pseudonyms.of("sample", f"JPEGImages/Canary {index}.jpg"): index for index in range(COUNT)}
    return report, facts, {names[row.sample_id]: row for row in table.itertuples()}


def test_boxes_come_with_their_classes_and_an_image_may_have_none(root):
    report, facts, rows = run(root)
    assert (facts.masks, facts.boxes, facts.classes) == (False, True, ("RBC", "WBC"))
    assert (report["rejected"], report["flawed"], len(rows)) == ([], [], COUNT)
    for index, row in rows.items():
        assert [list(box) for box in row.boxes] == [[5, 6, 15, 18], [20, 3, 50, 40]][: index % 3]
        assert list(row.box_labels) == ["RBC", "WBC"][: index % 3]
        assert row.split == decoding.side(f"Canary {index}", params.Split())
    for path in (root.parent / "samples").rglob("*"):
        assert path.is_dir() or b"Canary" not in path.read_bytes()


def test_pixels_counted_from_one_as_in_the_challenges(root):
    _, _, rows = run(root, inclusive=True)
    assert [list(box) for box in rows[2].boxes] == [[4, 5, 15, 18], [19, 2, 50, 40]]


def test_lists_say_the_official_split(root):
    (root / "sets").mkdir()
    sides = {"train": range(12), "val": range(12, 15), "test": range(15, COUNT)}
    names = sorted(path.stem.replace(" ", "_") for path in (root / "Annotations").iterdir())
    for folder in ("Annotations", "JPEGImages"):
        for path in (root / folder).iterdir():
            path.rename(path.with_name(path.name.replace(" ", "_")))
    for split, places in sides.items():
        (root / f"sets/{split}.txt").write_text("\n".join(names[place] for place in places))
    ingest(params.Base(dataset="c"), section(root, sets="sets"), samples=root.parent / "samples")
    table, facts = manifest.read(root.parent / "samples")
    assert facts.official_split
    assert table["split"].value_counts().to_dict() == {"train": 12, "val": 3, "test": 5}
    (root / "sets/val.txt").write_text("\n".join([names[0], names[12], "other"]))
    wanted = "2 of 20 images stand in none, 1 in several, 1 names have no image"
    with pytest.raises(Refused, match=wanted):
        ingest(params.Base(dataset="c"), section(root, sets="sets"), samples=root.parent / "samples")
    (root / "sets/val.txt").unlink()
    with pytest.raises(Refused, match=r"no readable val\.txt"):
        ingest(params.Base(dataset="c"), section(root, sets="sets"), samples=root.parent / "samples")


def test_a_comment_ahead_and_a_size_in_decimals_are_read(root):
    text = xml(("WBC", 1, 1, 9, 9)).replace("<width>50<", "<width>50.0<")
    (root / "Annotations/Canary 4.xml").write_text(f"<!-- Canary made it -->{text}")
    assert [list(box) for box in run(root)[2][4].boxes] == [[1, 1, 9, 9]]


def test_annotations_decide_what_is_read_again_and_shards_change_no_byte(root, tmp_path):
    run(root)
    (root / "Annotations/Canary 4.xml").write_text(xml(("WBC", 1, 1, 9, 9)))
    assert run(root)[0]["taken_over"] == COUNT - 1
    parts = [tmp_path / f"part{number}" for number in range(3)]
    for number, part in enumerate(parts):
        ingest_part(params.Base(dataset="c"), section(root), part=part, shard=number, shards=3)
    ingest(params.Base(dataset="c"), section(root), samples=tmp_path / "joined", parts=parts)
    assert provenance.digest(tmp_path / "joined") == provenance.digest(tmp_path / "samples")


BOMB = '<!DOCTYPE a [<!ENTITY b "Canary">]><annotation><object><name>&b;</name></object></annotation>'


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("", "1 x its annotation file is empty\n"),
        ("<annotation>", "1 x its annotations are no XML\n"),
        ("<Canary/>", "1 x its annotations must be one <annotation>, as Pascal VOC has them\n"),
        (BOMB, "1 x its annotations must be XML without a document type\n"),
        (BOMB.encode("utf-16"), "1 x its annotations must be XML without a document type\n"),
        (xml(("Canary", 1, 2, 3, 4)), "1 x its annotations name an object that is none of RBC, WBC\n"),
        (
            xml(("RBC", 1, 2, 3, "Canary")),
            "1 x an object of its annotations lacks a number for xmin, ymin, xmax, ymax\n",
        ),
        (xml(height=41), r"1 x its annotations are of an image of another size than \(40, 50\)\n"),
        (None, "1 of 20 files have no label"),
    ],
)
def test_one_message_for_what_cannot_be(root, content, message):
    path = root / "Annotations/Canary 7.xml"
    path.unlink() if content is None else path.write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises(Refused, match=message) as caught:
        run(root)
    assert "Canary" not in str(caught.value)
    if content is not None:
        report, _, rows = run(root, max_rejected=0.1)
        assert (len(rows), len(report["rejected"])) == (COUNT - 1, 1)


def test_the_blood_cells_of_bccd(tmp_path, shared_data):
    """Published: 4,155 RBC, 372 WBC and 361 platelets; 205, 87 and 72 images; two boxes of no size."""
    options = {"classes": ["RBC", "WBC", "Platelets"], "sets": "ImageSets/Main"}
    wanted = params.Ingest(
        source="voc", root=shared_data / "bccd/BCCD", options={"voc": options}, leaks="report", workers=2
    )
    ingest(params.Base(dataset="bccd"), wanted, samples=tmp_path / "samples")
    table, facts = manifest.read(tmp_path / "samples")
    report = json.loads((tmp_path / "samples/ingest.json").read_text())
    assert (len(table), facts.classes, report["rejected"]) == (364, ("RBC", "WBC", "Platelets"), [])
    assert table["split"].value_counts().to_dict() == {"train": 205, "val": 87, "test": 72}
    counts = table["box_labels"].explode().value_counts().to_dict()
    pseudonyms = privacy.Pseudonyms.load()
    flawed = {flaw["pseudonym"] for flaw in report["flawed"] if "no size" in flaw["reason"]}
    assert flawed == {pseudonyms.of("item", f"JPEGImages/BloodImage_00{name}.jpg") for name in (338, 343)}
    assert sum(counts.values()) == 4155 + 372 + 361 - 2
    assert counts["WBC"] == 372
    kept = table[
        table["sample_id"].isin([pseudonyms.of("sample", f"JPEGImages/BloodImage_00{n}.jpg") for n in (338, 343)])
    ]
    assert len(kept) == 2
    assert (kept["boxes"].map(len) > 0).all()


def test_a_folder_without_images_is_refused(root):
    shutil.rmtree(root / "JPEGImages")
    with pytest.raises(Refused, match="20 of 20 rows have no file"):
        run(root)
