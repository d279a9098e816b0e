"""The mark of a synthetic image: found however the file was encoded again, and kept out of validation and test data."""

import csv
import json

import cv2
import numpy as np
import pandas as pd
import pydicom
import pytest

import support
from medloop import (
    decoding,
    drawing,
    imaging,
    manifest,
    marks,
    packing,
    params,
    plugins,
    privacy,
    reading,
    sources,
)
from medloop.answers import generation as answers
from medloop.errors import Refused
from medloop.kinds import image
from medloop.stages.ingest import ingest

RANDOM = np.random.default_rng(0)
READ_FILES = ["coco", "dicom", "dicom_seg", "folder", "masks", "voc"]  # sources of image files


def picture(shape=(28, 28, 1), seed=0):
    smooth = cv2.resize(np.random.default_rng(seed).integers(0, 255, (6, 6, shape[2]), np.uint8), shape[1::-1])
    return smooth.reshape(shape)


def made(seed=0):
    return answers.marked(picture(seed=seed), {"label": "a", "seed": seed})


def shown(content):
    return imaging.decode(content)[0]


@pytest.mark.parametrize("shape", [(28, 28, 1), (32, 48, 3), (300, 200, 1)])
def test_a_marked_picture_carries_both_marks_and_its_own_values(shape):
    pixels = picture(shape)
    content = answers.marked(pixels, {"label": "a", "seed": 7})
    np.testing.assert_array_equal(answers.unmarked(content, shape), pixels)
    assert marks.in_file(content)
    assert marks.in_pixels(shown(content))
    start = content.index(answers.KEY.encode()) + len(answers.KEY) + 1
    said = json.loads(content[start : content.index(b"}", start) + 1])
    assert said == {"notice": answers.NOTICE, "label": "a", "seed": 7}
    assert min(shown(content).shape[:2]) >= answers.SHORTEST_PX


def beside_a_letter(pixels):
    """A strip above the picture, as a screenshot of a viewer has it, with a letter and a stray pixel in it."""
    wide = np.pad(pixels, ((60, 20), (20, 20)))
    cv2.putText(wide, "L", (30, 40), cv2.FONT_HERSHEY_SIMPLEX, 1, 255, 2)
    wide[5, -5] = 255
    return wide


def as_dicom(pixels, bits=12):
    return image.file_of(pixels.astype(np.uint16) * (2**bits // 256), bits)


AGAIN = {
    "JPEG": lambda p: cv2.imencode(".jpg", p, [cv2.IMWRITE_JPEG_QUALITY, 30])[1].tobytes(),
    "16-bit PNG": lambda p: cv2.imencode(".png", p.astype(np.uint16) * 257)[1].tobytes(),
    "TIFF": lambda p: cv2.imencode(".tif", p)[1].tobytes(),
    "RGB": lambda p: cv2.imencode(".png", np.repeat(p[..., None], 3, axis=-1))[1].tobytes(),
    "DICOM by our own writer": as_dicom,
    "28 pixels": lambda p: cv2.imencode(".png", cv2.resize(p, (28, 28), interpolation=cv2.INTER_AREA))[1].tobytes(),
    "stretched": lambda p: cv2.imencode(".png", cv2.resize(p, (500, 180)))[1].tobytes(),
    "inverted": lambda p: cv2.imencode(".png", 255 - p)[1].tobytes(),
    "mirrored": lambda p: cv2.imencode(".png", np.ascontiguousarray(p[:, ::-1]))[1].tobytes(),
    "turned": lambda p: cv2.imencode(".png", np.ascontiguousarray(np.rot90(p)))[1].tobytes(),
    "framed": lambda p: cv2.imencode(".png", np.pad(p, ((30, 50), (90, 20)), constant_values=128))[1].tobytes(),
    "letterboxed JPEG": lambda p: cv2.imencode(".jpg", np.pad(p, ((0, 0), (80, 80))))[1].tobytes(),
    "beside a letter": lambda p: cv2.imencode(".png", beside_a_letter(p))[1].tobytes(),
    "beside a letter, JPEG": lambda p: cv2.imencode(".jpg", beside_a_letter(p))[1].tobytes(),
    "coloured": lambda p: cv2.imencode(".png", cv2.applyColorMap(p, cv2.COLORMAP_JET))[1].tobytes(),
    "noisy": lambda p: cv2.imencode(".png", (p * 0.6 + RANDOM.uniform(0, 90, p.shape)).astype(np.uint8))[1].tobytes(),
}


@pytest.mark.parametrize("how", AGAIN)
def test_the_frame_is_found_in_a_picture_that_was_encoded_again(how):
    content = AGAIN[how](shown(made()))
    assert not marks.in_file(content)
    assert image.synthetic(shown(content))


def test_the_text_is_found_where_the_frame_was_cut_off():
    content = made()
    inner = answers._with_text(cv2.imencode(".png", shown(content)[40:200, 40:200])[1].tobytes(), answers.NOTICE)
    assert not marks.in_pixels(shown(inner))
    assert marks.in_file(inner)


def test_other_images_are_not_taken_for_synthetic_ones():
    noise = RANDOM.integers(0, 255, (2000, 24, 24), np.uint8)
    checker = (np.add.outer(np.arange(240) // 10, np.arange(240) // 10) % 2 * 255).astype(np.uint8)
    assert not any(map(marks.in_pixels, [*noise, checker, np.zeros((64, 64), np.uint8), picture((90, 80, 3))]))
    assert not marks.in_pixels(np.zeros((20, 300), np.uint8))


def test_real_images_are_not_taken_for_synthetic_ones(shared_data):
    [path] = (shared_data / "breastmnist").glob("**/*.npz")
    with np.load(path) as arrays:
        assert not any(marks.in_pixels(each) for each in arrays["train_images"])


def test_a_dicom_file_carries_both_marks_and_names_nobody():
    about = {"label": "a", "seed": 7, "model": "medloop-generation-toys", "version": "1"}
    content = marks.dicom(made(), about)
    assert content == marks.dicom(made(), about)
    ds = pydicom.dcmread(pydicom.filebase.DicomBytesIO(content))
    assert (str(ds.PatientName), str(ds.PatientID)) == ("", "")
    assert list(ds.ImageType) == ["DERIVED", "SECONDARY", "SYNTHETIC"]
    assert "shows no patient" in ds.DerivationDescription
    assert "seed 7" in ds.DerivationDescription
    np.testing.assert_array_equal(shown(content), shown(made()))
    assert marks.in_file(content)
    other = pydicom.dcmread(pydicom.filebase.DicomBytesIO(marks.dicom(made(), about | {"seed": 8})))
    assert other.SOPInstanceUID != ds.SOPInstanceUID


@pytest.mark.parametrize("name", plugins.names(sources))
def test_every_source_that_reads_image_files_looks_for_the_text(name):
    text = (support.ROOT / f"components/medloop/sources/{name}.py").read_text()
    decodes = "imaging.decode_" in text and name != "phantom"  # which reads no file
    assert ("marks.in_file(content)" in text) == decodes
    assert (decodes or "drawing.opened(" in text) == (name in READ_FILES)


def test_what_opens_images_that_were_drawn_on_looks_for_the_text_and_refuses_dicom(tmp_path):
    path = tmp_path / "image"
    path.write_bytes(made())
    pixels, bits, synthetic = drawing.opened(path)
    np.testing.assert_array_equal(pixels, shown(made()))
    assert (bits, synthetic) == (8, True)
    path.write_bytes(cv2.imencode(".png", picture())[1].tobytes())
    assert not drawing.opened(path)[2]
    path.write_bytes(marks.dicom(made(), {"label": "a", "seed": 7, "model": "m", "version": "1"}))
    with pytest.raises(imaging.Unreadable, match="its header may name people, use the source dicom_seg"):
        drawing.opened(path)


def tree(root, splits=(20, 8, 8)):
    for split, count in zip(manifest.SPLITS, splits, strict=True):
        for number in range(count):
            folder = root / split / "ab"[number % 2]
            folder.mkdir(parents=True, exist_ok=True)
            pixels = np.random.default_rng([count, number, len(split)]).integers(0, 255, (28, 28), np.uint8)
            cv2.imwrite(str(folder / f"Canarybird {number}.png"), pixels)
    return root


def taken(root, samples, source="folder", **options):
    section = params.Ingest(source=source, root=root, options={source: options}, workers=1)
    ingest(params.Base(), section, samples=samples)
    return manifest.read(samples)[0]


@pytest.mark.parametrize("split", ["val", "test"])
@pytest.mark.parametrize("how", ["as it is", "JPEG", "the text alone"])
def test_a_synthetic_image_under_another_name_is_refused_in_validation_and_test_data(tmp_path, split, how):
    root = tree(tmp_path / "source")
    content = {
        "as it is": made(),
        "JPEG": AGAIN["JPEG"](shown(made())),
        "the text alone": answers._with_text(cv2.imencode(".png", picture()[..., 0])[1].tobytes(), "x"),
    }[how]
    (root / split / "a" / "Canarybird 99.png").write_bytes(content)
    with pytest.raises(Refused, match="synthetic images may stand in train alone") as refused:
        taken(root, tmp_path / "samples", split_folders=True)
    assert "1 of 37 samples carry the mark" in str(refused.value)
    assert "Canarybird" not in str(refused.value)
    assert not (tmp_path / "samples").exists()


def test_train_takes_synthetic_images_and_the_manifest_says_which(tmp_path):
    root = tree(tmp_path / "source")
    (root / "train/a/x.png").write_bytes(made())
    table = taken(root, tmp_path / "samples", split_folders=True)
    assert table["synthetic"].eq(True).sum() == 1
    assert table["synthetic"].isna().sum() == len(table) - 1
    assert table.loc[table["synthetic"].eq(True), "split"].tolist() == ["train"]
    notes = json.loads((tmp_path / "samples/ingest.json").read_text())["notes"]
    assert f"1 of {len(table)} images are synthetic; all of them stand in train." in notes


def listed(root, rows):
    """Write images with a label table: (name, content, patient)."""
    root.mkdir()
    for name, content, _ in rows:
        (root / name).write_bytes(content)
    with (root / "labels.csv").open("w", newline="") as file:
        table = [(name, "ab"[i % 2], patient) for i, (name, _, patient) in enumerate(rows)]
        csv.writer(file).writerows([("path", "label", "patient_id"), *table])
    return root


def real(seed):
    return cv2.imencode(".png", np.random.default_rng([9, seed]).integers(0, 255, (28, 28), np.uint8))[1].tobytes()


def test_without_a_split_and_a_patient_synthetic_images_go_to_train(tmp_path):
    rows = [(f"r{i}.png", real(i), f"p{i}") for i in range(24)] + [(f"s{i}.png", made(i), "") for i in range(16)]
    table = taken(listed(tmp_path / "source", rows), tmp_path / "samples", labels="labels.csv")
    synthetic = table["synthetic"].eq(True)
    assert synthetic.sum() == 16
    assert set(table.loc[synthetic, "split"]) == {"train"}
    assert set(table.loc[~synthetic, "split"]) == set(manifest.SPLITS)


def test_a_synthetic_image_of_a_patient_of_test_data_is_refused(tmp_path):
    rows = [(f"r{i}.png", real(i), f"p{i}") for i in range(24)]
    table = taken(listed(tmp_path / "plain", rows), tmp_path / "samples", labels="labels.csv")
    [name] = [f"p{i}" for i in range(24) if table["split"][i] == "test"][:1]
    rows.append(("s.png", made(), name))
    with pytest.raises(Refused, match="belong to no patient of validation or test data: 1 of 25"):
        taken(listed(tmp_path / "source", rows), tmp_path / "more", labels="labels.csv")


@pytest.mark.parametrize("encode", [lambda c: marks.dicom(c, {"seed": 0}), lambda c: as_dicom(shown(c))])
def test_a_dicom_tree_cannot_bring_a_synthetic_image_into_test_data(tmp_path, encode):
    root = support.dicom_tree(tmp_path / "source", 12)
    (root / "s.dcm").write_bytes(encode(made()))
    rows = list(csv.DictReader((root / "labels.csv").read_text().splitlines()))
    splits = [*(["train"] * 6 + ["val"] * 3 + ["test"] * 3), "test"]
    with (root / "labels.csv").open("w", newline="") as file:
        found = [(row["path"], row["label"]) for row in rows] + [("s.dcm", "normal")]
        table = [(*each, split) for each, split in zip(found, splits, strict=True)]
        csv.writer(file).writerows([("path", "label", "split"), *table])
    with pytest.raises(Refused, match="synthetic images may stand in train alone"):
        taken(root, tmp_path / "samples", source="dicom")


def test_a_patient_on_both_sides_counts_where_the_source_has_a_split_of_its_own():
    table = pd.DataFrame(
        {
            "split": ["train", "train", "test", "val", "train"],
            "patient_id": ["a", "b", "b", None, None],
            "synthetic": [True, True, None, None, True],
        }
    )
    assert marks.aside(table).tolist() == [False, True, False, False, False]


def test_a_synthetic_image_whose_source_has_no_patients_goes_to_train():
    decode = decoding.Decoding(params.Ingest(), privacy.Pseudonyms(b"k" * 32))
    entry = packing.Entry("item", 0, None, "a.png")

    def sides(**known):
        for i in range(40):
            sample = sources.Sample(str(i), np.zeros((30, 30), np.uint8), 8, **{k: f"{v}{i}" for k, v in known.items()})
            yield decode._row(reading.Digested(sample, str(i), None, synthetic=True), entry).columns["split"]

    assert set(sides(group="image ")) == set(sides()) == {"train"}
    assert set(sides(patient_id="p")) == set(manifest.SPLITS)
