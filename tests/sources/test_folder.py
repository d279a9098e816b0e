from pathlib import Path

import cv2
import numpy as np
import pydicom.data
import pytest

from medloop import labels, manifest, params
from medloop.errors import Refused
from medloop.stages.ingest import ingest


def picture(seed, dtype=np.uint8, channels=1):
    pixels = np.random.default_rng(seed).integers(0, np.iinfo(dtype).max, (5, 6, channels))
    return np.kron(pixels, np.ones((4, 4, 1))).astype(dtype).squeeze()


def write(path, pixels):
    path.parent.mkdir(parents=True, exist_ok=True)
    assert cv2.imwrite(str(path), pixels)


def run(root, *, max_rejected=0.0, **options):
    section = params.Ingest(
        source="folder", root=root, options={"folder": options}, max_rejected=max_rejected, workers=2
    )
    report = ingest(params.Base(dataset="mine"), section, samples=root.parent / "samples")
    return report, *manifest.read(root.parent / "samples")


@pytest.fixture
def root(tmp_path):
    for seed in range(30):
        write(tmp_path / "data" / ("benign" if seed % 3 else "malign") / f"deep/Canary {seed}.png", picture(seed))
    return tmp_path / "data"


def test_the_folder_says_the_class(root):
    report, table, facts = run(root)
    assert facts.classes == ("benign", "malign")
    assert table["label"].value_counts().to_dict() == {"benign": 20, "malign": 10}
    assert not facts.has_patients
    assert any("no patient" in note for note in report["notes"])
    for path in (root.parent / "samples").rglob("*"):
        assert path.is_dir() or b"Canary" not in path.read_bytes()


def test_copies_of_one_image_share_a_side(root):
    for seed in range(30):
        copy = root / ("benign" if seed % 3 else "malign") / f"copy {seed}.png"
        copy.write_bytes((copy.parent / f"deep/Canary {seed}.png").read_bytes())
    _, table, _ = run(root)
    assert len(table) == 60
    assert (table.groupby("content_sha256")["split"].nunique() == 1).all()


def test_formats_and_depths_arrive_as_they_are(root):
    wanted = {}
    for name, dtype, channels in [("a.tif", np.uint16, 1), ("b.png", np.uint16, 3), ("c.tiff", np.uint8, 3)]:
        pixels = picture(100 + len(wanted), dtype, channels)
        write(root / "benign" / name, pixels)
        wanted[pixels.tobytes() if channels == 1 else pixels[..., ::-1].tobytes()] = (8 * pixels.itemsize, channels)
    write(root / "malign" / "d.jpg", picture(55))
    _, table, _ = run(root)
    store = manifest.Values(root.parent / "samples")
    came = {store[row].tobytes(): (row.bit_depth, [*row.shape, 1][2]) for row in table.itertuples()}
    assert wanted.items() <= came.items()
    assert len(table) == 34


def test_a_table_names_patients(root):
    lines = ["path,label,patient_id,site,sex,age_years"]
    files = sorted(path.relative_to(root).as_posix() for path in root.rglob("*.png"))
    lines += [f"./{file},{'ab'[i % 2]},Canary {i // 2},north,F,{60 + i}" for i, file in enumerate(files)]
    (root / "table.csv").write_text("\ufeff" + "\n".join(lines) + "\n")
    _, table, facts = run(root, labels="table.csv")
    assert facts.has_patients
    assert facts.classes == ("a", "b")
    assert table["patient_id"].nunique() == 15
    assert (table.groupby("patient_id")["split"].nunique() == 1).all()
    assert (table["sex"] == "F").all()
    assert table["age_years"].tolist() == [min(60 + i, 90) for i in range(30)]


def test_a_table_gives_the_split(root):
    files = sorted(path.relative_to(root).as_posix() for path in root.rglob("*.png"))
    lines = [f"{file},{'ab'[i % 2]},{manifest.SPLITS[i % 3]}" for i, file in enumerate(files)]
    (root / "labels.csv").write_text("path,label,split\n" + "\n".join(lines))
    _, table, facts = run(root, labels="labels.csv")
    assert facts.official_split
    assert table["split"].tolist() == [manifest.SPLITS[i % 3] for i in range(30)]


def test_split_folders(tmp_path):
    for seed in range(24):
        write(tmp_path / "data" / manifest.SPLITS[seed % 3] / "ab"[seed // 12] / f"{seed}.png", picture(seed))
    with pytest.raises(Refused, match="split_folders: true"):
        run(tmp_path / "data")
    _, table, facts = run(tmp_path / "data", split_folders=True)
    assert facts.classes == ("a", "b")
    assert table["split"].value_counts().to_dict() == {"train": 8, "val": 8, "test": 8}


def test_damaged_and_foreign_files_are_rejected(root):
    content = (root / "benign/deep/Canary 1.png").read_bytes()
    (root / "benign/deep/Canary 1.png").write_bytes(content[: len(content) // 2])
    (root / "benign/Canary.txt").write_text("Canary")
    (root / "malign/slice.png").write_bytes(Path(pydicom.data.get_testdata_file("MR_small.dcm")).read_bytes())
    with pytest.raises(Refused, match="3 of 32 items could not be read") as refused:
        run(root)
    assert refused.match("1 x truncated or damaged PNG, JPEG or TIFF")
    assert refused.match("1 x neither DICOM nor PNG, JPEG or TIFF")
    assert refused.match("1 x a DICOM file: its header may name people, use the source dicom")
    assert "Canary" not in str(refused.value)
    report, table, _ = run(root, max_rejected=0.1)
    assert len(table) == 29
    assert len(report["rejected"]) == 3


def test_an_image_outside_a_class_folder_is_refused(root):
    write(root / "Canary.png", picture(77))
    with pytest.raises(Refused, match="1 of 31 do not") as refused:
        run(root)
    assert "Canary" not in str(refused.value)


def test_one_class_only_is_refused(tmp_path):
    for seed in range(20):
        write(tmp_path / "data" / "benign" / f"{seed}.png", picture(seed))
    with pytest.raises(Refused, match="at least two classes, got only benign"):
        run(tmp_path / "data")


def test_rows_and_files_must_match(root):
    (root / "labels.csv").write_text("path,label\ngone.png,a\n")
    with pytest.raises(Refused, match="30 of 30 files have no label, 1 of 1 rows have no file"):
        run(root, labels="labels.csv")


def test_patients_are_not_taken_for_classes(tmp_path):
    for patient in ("Canary Ann", "Canary Bob", "Canary Cid"):
        for label in ("benign", "malign"):
            write(tmp_path / "data" / patient / label / "1.png", picture(1))
    with pytest.raises(Refused, match="must be classes") as caught:
        run(tmp_path / "data")
    assert "Canary" not in str(caught.value)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("path,label\na.png,normal, benign\n", "line 2: 3 cells, the first line has 2; a cell with a comma must stand"),
        ("path,label,patient_id\na.png,normal\n", "line 2: 2 cells, the first line has 3"),
        ("path;label\na.png;normal\n", "its first line has no path and label; separate with commas"),
        ("", "its first line has no path and label"),
        ('path,label\n"a.png,normal\n', "no readable CSV"),
        ("path,label,age_years\na.png,normal,-5\n", "line 2: age_years must lie within 0 to 130"),
        ("path,label,age_years\na.png,normal,inf\n", "line 2: age_years must lie within 0 to 130"),
        ("path,label,age_years\na.png,normal,nan\n", "line 2: age_years must lie within 0 to 130"),
    ],
)
def test_a_label_table_that_does_not_fit_is_refused_by_its_line(tmp_path, text, words):
    (tmp_path / "labels.csv").write_text(text)
    with pytest.raises(Refused, match=words):
        labels.read(tmp_path / "labels.csv", "path")
