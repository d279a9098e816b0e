"""Images with masks in folders: what comes of them, and one message for everything that cannot be."""

import csv
import json
import shutil
from pathlib import Path

import cv2
import numpy as np
import pytest

from medloop import decoding, manifest, params, privacy, provenance
from medloop.errors import Refused
from medloop.stages.ingest import ingest, ingest_part

ROOT = Path(__file__).resolve().parents[2]
COUNT = 24


def picture(seed: int) -> tuple[np.ndarray, list[np.ndarray]]:
    """Return an image and its objects, each (H, W) bool; image 0 has none, those of others do not touch."""
    rng = np.random.default_rng(seed)
    pixels = np.kron(rng.integers(0, 255, (8, 9)), np.ones((5, 5))).astype(np.uint8)
    objects = []
    for number in range(seed % 4):
        there = np.zeros(pixels.shape, bool)
        there[4 + 3 * (seed % 3) : 20, 3 + 10 * number : 10 + 10 * number] = True
        objects.append(there)
    return pixels, objects


def write(path: Path, pixels: np.ndarray) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    assert cv2.imwrite(str(path), pixels)


def pairs(root: Path, value: int = 255) -> Path:
    for seed in range(COUNT):
        pixels, objects = picture(seed)
        write(root / f"images/Canary {seed}.png", pixels)
        write(root / f"masks/Canary {seed}.png", value * np.any([np.zeros(pixels.shape), *objects], 0).astype(np.uint8))
    return root


def separate(root: Path) -> Path:
    """Write a file for every object, as the Data Science Bowl had them."""
    for seed in range(COUNT):
        pixels, objects = picture(seed)
        write(root / f"Canary {seed}/images/Canary {seed}.png", pixels)
        for number, there in enumerate(objects):
            write(root / f"Canary {seed}/masks/{number}.png", 255 * there.astype(np.uint8))
    return root


def section(root: Path, max_rejected: float = 0.0, **options) -> params.Ingest:
    return params.Ingest(
        source="masks",
        root=root,
        options={"masks": {"classes": ["cell"], **options}},
        max_rejected=max_rejected,
        workers=1,
    )


def run(wanted: params.Ingest, folder: Path):
    report = ingest(params.Base(dataset="cells"), wanted, samples=folder / "samples", previous=folder / "samples")
    table, facts = manifest.read(folder / "samples")
    return report, table, facts, manifest.Values(folder / "samples")


def by_seed(table) -> dict[int, object]:
    pseudonyms = privacy.Pseudonyms.load()
    rows = {row.sample_id: row for row in table.itertuples()}
    names = {}
    for seed in range(COUNT):
        for key in (f"images/Canary {seed}.png", f"Canary {seed}/images/Canary {seed}.png"):
            if found := rows.get(pseudonyms.of("sample", key)):
                names[seed] = found
    return names


def test_a_mask_a_file(tmp_path):
    report, table, facts, values = run(section(pairs(tmp_path / "data"), values=[255]), tmp_path)
    assert (facts.masks, facts.boxes, facts.classes, facts.has_patients) == (True, False, ("cell",), False)
    assert (len(table), report["rejected"], report["flawed"]) == (COUNT, [], [])
    for seed, row in by_seed(table).items():
        pixels, objects = picture(seed)
        np.testing.assert_array_equal(values[row], pixels)
        np.testing.assert_array_equal(values.mask(row), np.any([np.zeros(pixels.shape), *objects], 0))
        assert row.split == decoding.side(f"Canary {seed}", params.Split())
    for path in (tmp_path / "samples").rglob("*"):
        assert path.is_dir() or b"Canary" not in path.read_bytes()


def test_a_file_an_object(tmp_path):
    _, table, facts, values = run(section(separate(tmp_path / "data"), layout="objects"), tmp_path)
    assert (facts.masks, facts.boxes, len(by_seed(table))) == (True, True, COUNT)
    for seed, row in by_seed(table).items():
        _, objects = picture(seed)
        instances = values.instances(row)
        assert instances.max() == len(objects)
        for number, there in enumerate(objects, 1):
            np.testing.assert_array_equal(instances == number, there)
            assert list(row.boxes[number - 1]) == [3 + 10 * number - 10, 4 + 3 * (seed % 3), 10 * number, 20]
        assert list(row.box_labels) == ["cell"] * len(objects)
        np.testing.assert_array_equal(values.mask(row), instances > 0)


def test_numbers_of_objects_in_sixteen_bits(tmp_path):
    for seed in range(COUNT):
        pixels, objects = picture(seed)
        write(tmp_path / f"data/images/{seed}_img.tif", pixels)
        numbers = sum((300 * n * there for n, there in enumerate(objects, 1)), np.zeros(pixels.shape)).astype(np.uint16)
        write(tmp_path / f"data/images/{seed}_cells.png", numbers)
    wanted = section(
        tmp_path / "data", masks="images", image_suffix="_img.tif", mask_suffix="_cells.png", numbered=True
    )
    _, table, _, values = run(wanted, tmp_path)
    assert sorted({n for row in table.itertuples() for n in np.unique(values.instances(row))}) == [0, 300, 600, 900]


def test_several_classes_by_their_values_and_by_the_indices_of_a_palette(tmp_path):
    from PIL import Image

    for bits, top in ((8, 200), (4, 12)):
        root = tmp_path / f"{bits} bits"
        for seed in range(COUNT):
            pixels, objects = picture(seed)
            classes = sum((v * there for v, there in zip((3, top), objects, strict=False)), np.zeros(pixels.shape, int))
            write(root / f"images/{seed}.png", pixels)
            mask = Image.fromarray(classes.astype(np.uint8), mode="P")
            mask.putpalette([seed % 256 for seed in range(3 * (top + 1))])
            (root / "masks").mkdir(exist_ok=True)
            mask.save(root / f"masks/{seed}.png", bits=bits)
        wanted = section(root, classes=["nucleus", "cell"], values=[3, top])
        _, table, facts, values = run(wanted, tmp_path / f"{bits}")
        assert facts.classes == ("nucleus", "cell")
        seen = [set(np.unique(values.mask(row))) for row in table.itertuples()]
        assert {frozenset(each) for each in seen} == {frozenset(each) for each in ({0}, {0, 1}, {0, 1, 2})}


def test_boxes_tell_the_objects_of_one_mask_apart(tmp_path):
    root = pairs(tmp_path / "data")
    write(root / "images/touch.png", np.arange(800, dtype=np.uint16).reshape(20, 40))
    touching = np.zeros((20, 40), np.uint8)
    touching[5:15, 4:32] = 255  # two cells, side by side, with boxes that overlap by four columns
    write(root / "masks/touch.png", touching)
    rows = [("touch.png", 4, 5, 20, 15), ("touch.png", 16, 5, 32, 15)]
    for seed in range(COUNT):
        for there in picture(seed)[1]:
            y, x = np.nonzero(there)
            rows.append((f"Canary {seed}.png", x.min(), y.min(), x.max() + 1, y.max() + 1))
    with (root / "boxes.csv").open("w", newline="") as file:
        csv.writer(file).writerows([("image", "xmin", "ymin", "xmax", "ymax"), *rows])
    report, table, _, values = run(section(root, values=[255], boxes="boxes.csv"), tmp_path)
    assert any("approximate" in note for note in report["notes"])
    for seed, row in by_seed(table).items():
        for number, there in enumerate(picture(seed)[1], 1):
            np.testing.assert_array_equal(values.instances(row) == number, there)
    row = next(row for row in table.itertuples() if list(row.shape) == [20, 40])
    wanted = np.zeros((20, 40), int)
    wanted[5:15, 4:18], wanted[5:15, 18:32] = 1, 2  # the border runs halfway between the centres
    np.testing.assert_array_equal(values.instances(row), wanted)
    with (root / "boxes.csv").open("a", newline="") as file:
        file.write("touch.png,20,0,20,9\ntouch.png,30,5,90,15\n")
    report, *_ = run(section(root, values=[255], boxes="boxes.csv"), tmp_path)
    assert sorted(flaw["reason"] for flaw in report["flawed"]) == [
        "1 boxes of no size were left out",
        "1 boxes reach beyond the image and were cut",
    ]


def test_patients_decide_the_side_where_they_are_known(tmp_path):
    root = pairs(tmp_path / "data")
    lines = [f"images/Canary {seed}.png,Canary-{seed // 2},north,{40 + seed}" for seed in range(COUNT)]
    (root / "patients.csv").write_text("\n".join(["path,patient_id,site,age_years", *lines]))
    _, table, facts, _ = run(section(root, values=[255], patients="patients.csv"), tmp_path)
    assert facts.has_patients
    assert table["label"].isna().all()
    for seed, row in by_seed(table).items():
        assert row.split == decoding.side(f"Canary-{seed // 2}", params.Split())
        assert (row.site, row.age_years) == ("north", 40 + seed)


def test_only_what_changed_is_read_again_an_object_too(tmp_path):
    root = separate(tmp_path / "data")
    wanted = section(root, layout="objects")
    assert run(wanted, tmp_path)[0]["taken_over"] == 0
    assert run(wanted, tmp_path)[0]["taken_over"] == COUNT
    write(root / "Canary 3/masks/0.png", picture(1)[1][0] * np.uint8(255))
    (root / "Canary 6/masks/1.png").unlink()
    assert run(wanted, tmp_path)[0]["taken_over"] == COUNT - 2
    again = provenance.digest(tmp_path / "samples")
    ingest(params.Base(dataset="cells"), wanted, samples=tmp_path / "fresh")
    assert provenance.digest(tmp_path / "fresh") == again


@pytest.mark.parametrize("layout", ["pairs", "objects"])
def test_shards_change_no_byte_and_fetch_masks_with_their_images(tmp_path, layout):
    root = {"pairs": pairs, "objects": separate}[layout](tmp_path / "data")
    wanted, base = section(root, layout=layout, values=[255] if layout == "pairs" else None), params.Base(dataset="c")
    ingest(base, wanted, samples=tmp_path / "one")
    parts = [tmp_path / f"part{number}" for number in range(3)]
    for number, part in enumerate(parts):
        ingest_part(base, wanted, part=part, shard=number, shards=3)
    ingest(base, wanted, samples=tmp_path / "three", parts=parts)
    assert provenance.digest(tmp_path / "three") == provenance.digest(tmp_path / "one")
    report = ingest(base, wanted, samples=tmp_path / "again", previous=tmp_path / "one")
    assert report["taken_over"] == COUNT


def alter(root: Path, fault: str) -> None:
    image, mask = root / "images/Canary 5.png", root / "masks/Canary 5.png"
    if fault == "size":
        write(mask, np.zeros((40, 44), np.uint8))
    elif fault == "value":
        write(mask, np.full((40, 45), 7, np.uint8))
    elif fault == "empty":
        mask.write_bytes(b"")
    elif fault == "colour":
        write(mask, np.random.default_rng(0).integers(0, 255, (40, 45, 3), np.uint8))
    elif fault == "truncated":
        mask.write_bytes(mask.read_bytes()[:60])
    elif fault == "no mask":
        mask.unlink()
    elif fault == "no image":
        image.unlink()
    elif fault == "stray":
        (root / "masks/readme.txt").write_text("Canary")


@pytest.mark.parametrize(
    ("fault", "message"),
    [
        ("size", r"1 x mask must be \(40, 45\) like its image, got \(40, 44\)\n"),
        ("value", "1 x its mask holds 7, which is no class: known are 0, 255 \\(option values\\)\n"),
        ("empty", "1 x its mask file is empty\n"),
        ("colour", "1 x its mask is in colour: it must hold one value a pixel\n"),
        ("truncated", "1 x its mask: truncated or damaged PNG, JPEG or TIFF\n"),
        ("no mask", "of 24 images: 1 x image without a mask "),
        ("no image", "of 23 images: 1 x mask without an image "),
        ("stray", "of 24 images: 1 x has neither the name of an image nor that of a mask "),
    ],
)
def test_one_message_for_what_cannot_be(tmp_path, fault, message):
    root = pairs(tmp_path / "data")
    alter(root, fault)
    with pytest.raises(Refused, match=message) as caught:
        run(section(root, values=[255]), tmp_path)
    assert "Canary" not in str(caught.value)
    if "x image without" in message or "x mask without" in message or "neither" in message:
        return
    report, table, *_ = run(section(root, values=[255], max_rejected=0.1), tmp_path)
    assert (len(table), len(report["rejected"])) == (COUNT - 1, 1)  # the others stay


def test_overlapping_objects_are_refused_or_go_to_the_smaller_one(tmp_path):
    root = separate(tmp_path / "data")
    small = np.zeros((40, 45), np.uint8)
    small[18:22, 8:10] = 255  # two of its rows lie on the first object, 16 x 7
    write(root / "Canary 3/masks/9.png", small)
    with pytest.raises(Refused, match="1 x 4 of its pixels belong to several objects at once"):
        run(section(root, layout="objects"), tmp_path)
    report, table, _, values = run(section(root, layout="objects", overlap="smaller"), tmp_path)
    np.testing.assert_array_equal(values.instances(by_seed(table)[3]) == 4, small > 0)
    given = "4 pixels of several objects were given to the smaller one"
    assert [flaw["reason"] for flaw in report["flawed"]] == [given]
    (root / "Canary 3/masks/8.png").write_bytes((root / "Canary 3/masks/0.png").read_bytes())
    report, *_ = run(section(root, layout="objects", overlap="smaller"), tmp_path)
    covered = "1 objects have no pixel left, others cover them"
    assert covered in [flaw["reason"] for flaw in report["flawed"]]


def test_a_pixel_in_no_box_is_refused(tmp_path):
    root = pairs(tmp_path / "data")
    (root / "boxes.csv").write_text("image,xmin,ymin,xmax,ymax\n")
    with pytest.raises(Refused, match=r"pixels of its mask lie in none of its 0 boxes"):
        run(section(root, values=[255], boxes="boxes.csv"), tmp_path)
    (root / "boxes.csv").write_text("")
    with pytest.raises(Refused, match="must have the columns image, xmin, ymin, xmax and ymax, its first line has no"):
        run(section(root, values=[255], boxes="boxes.csv"), tmp_path)
    (root / "boxes.csv").write_text("image,xmin,ymin,xmax,ymax\nother.png,1,2,3,4\n")
    with pytest.raises(Refused, match=r"boxes.csv, line 2: there is no such image"):
        run(section(root, values=[255], boxes="boxes.csv"), tmp_path)


@pytest.mark.parametrize(
    "options",
    [
        {"classes": ["a", "b"], "layout": "objects"},
        {"numbered": True, "values": [1]},
        {"values": [1, 2]},
        {"values": [0]},
        {"masks": "images"},
        {"layout": "objects", "boxes": "boxes.csv"},
    ],
)
def test_options_that_do_not_fit_together_are_refused(tmp_path, options):
    with pytest.raises(Refused, match=r"ingest\.options\.masks"):
        run(section(pairs(tmp_path / "data"), **options), tmp_path)


def test_the_nuclei_of_the_data_science_bowl(tmp_path, shared_data):
    """Published: 334 images of 256 x 256 and 9,543 nuclei; the test list is that of profiles/dsb2018.test.txt."""
    profile = params.Params.model_validate(params.overlaid(ROOT / "params.yaml", ROOT / "profiles/dsb2018.yaml"))
    wanted = profile.ingest.model_copy(update={"root": str(shared_data / "dsb2018_256_packed")})
    ingest(profile.base, wanted, samples=tmp_path / "samples")
    report = json.loads((tmp_path / "samples/ingest.json").read_text())
    table, facts = manifest.read(tmp_path / "samples")
    assert (len(table), facts.classes, report["rejected"], report["flawed"]) == (334, ("nucleus",), [], [])
    listed = (ROOT / "profiles/dsb2018.test.txt").read_text().split()
    pseudonyms = privacy.Pseudonyms.load()
    in_test = set(table.loc[table["split"] == "test", "sample_id"])
    assert in_test == {pseudonyms.of("sample", f"images/{name}.png") for name in listed}
    assert table["split"].value_counts().to_dict() == {"train": 238, "test": 64, "val": 32}
    values = manifest.Values(tmp_path / "samples")
    assert sum(len(np.unique(values.instances(row))) - 1 for row in table.itertuples()) == 9543
    for row in table.itertuples():
        np.testing.assert_array_equal(values.instances(row) > 0, values.mask(row) > 0)


def test_a_folder_of_another_shape_is_refused(tmp_path):
    shutil.move(pairs(tmp_path / "data") / "masks", tmp_path / "elsewhere")
    with pytest.raises(Refused, match="24 x image without a mask"):
        run(section(tmp_path / "data"), tmp_path)
