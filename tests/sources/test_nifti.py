import json

import numpy as np
import pytest
from scipy.ndimage import gaussian_filter

import scans
from medloop import manifest, params
from medloop.errors import Refused
from medloop.stages.ingest import ingest


def run(folder, *, max_rejected=0.0, **options):
    section = params.Ingest(
        source="nifti", root=str(folder / "scans"), options={"nifti": options}, workers=2, max_rejected=max_rejected
    )
    report = ingest(params.Base(kind="volume", dataset="mine"), section, samples=folder / "samples")
    return report, *manifest.read(folder / "samples")


def test_a_label_table_says_patient_site_and_side(tmp_path):
    scans.folder(tmp_path / "scans", patients=12)
    _, table, facts = run(tmp_path, labels="labels.csv", modality="MR")
    assert (len(table), facts.classes, facts.kind) == (12, ("ball", "rod"), "volume")
    assert facts.official_split
    assert facts.has_patients
    assert set(table["site"]) == {"A", "B"}
    assert set(table["modality"]) == {"MR"}
    assert table["split"].value_counts().to_dict() == {"train": 6, "val": 2, "test": 4}
    for row, values in zip(table.itertuples(), manifest.Values(tmp_path / "samples").each(table), strict=True):
        assert list(row.spacing_mm) == [1, 1, 1]
        assert values.shape == (scans.SIDE,) * 3


def test_class_folders_without_a_table_leave_the_sides_to_the_content(tmp_path):
    scans.folder(tmp_path / "scans", patients=24)
    (tmp_path / "scans/labels.csv").unlink()
    _, table, facts = run(tmp_path)
    assert table["label"].value_counts().to_dict() == {"ball": 12, "rod": 12}
    assert not facts.official_split
    assert not facts.has_patients


def test_a_missing_spacing_is_null_and_an_unequal_one_is_kept(tmp_path):
    scans.folder(tmp_path / "scans", patients=12)
    scans.write(tmp_path / "scans/rod/p1.nii", scans.volume("rod", 1), unit=None)
    scans.write(tmp_path / "scans/rod/p5.nii", scans.volume("rod", 5), spacing=(0.5, 0.75, 2), axes="LPS")
    _, table, _ = run(tmp_path, labels="labels.csv")
    spacing = [None if each is None else tuple(each) for each in table["spacing_mm"]]
    assert spacing.count(None) == 1
    assert (2.0, 0.75, 0.5) in spacing


def test_files_that_are_no_volumes_are_listed_with_their_reasons_and_the_rest_goes_on(tmp_path):
    scans.folder(tmp_path / "scans", patients=24)
    good = (tmp_path / "scans/ball/p6.nii.gz").read_bytes()
    (tmp_path / "scans/ball/p6.nii.gz").write_bytes(good[: len(good) // 2])
    scans.write(tmp_path / "scans/rod/p1.nii", np.stack([scans.volume("rod", 1)] * 2, axis=-1))
    scans.write(tmp_path / "scans/rod/p5.nii", np.full((8, 8, 8), 3, np.int16))
    with pytest.raises(Refused, match="3 of 24 items could not be read") as refused:
        run(tmp_path, labels="labels.csv")
    for said in ("truncated gzip file", "this has 4 dimensions", "all voxels have the same value"):
        assert f"1 x {said}" in str(refused.value) or said in str(refused.value)
    assert "p6" not in str(refused.value)
    report, table, _ = run(tmp_path, labels="labels.csv", max_rejected=0.2)
    assert (len(report["rejected"]), len(table)) == (3, 21)


def test_a_copy_on_another_side_is_found_though_it_is_moved_and_mirrored(tmp_path):
    scans.folder(tmp_path / "scans", patients=24)
    voxels = (2000 * gaussian_filter(np.random.default_rng(5).normal(size=(24, 24, 24)), 1.5)).astype(np.int16)
    scans.write(tmp_path / "scans/rod/p1.nii", voxels)  # train
    scans.write(tmp_path / "scans/ball/p8.nii", np.roll(voxels, 1, 0)[:, ::-1], axes="LPS")  # test
    lines = (tmp_path / "scans/labels.csv").read_text().splitlines()
    assert lines[2].endswith("train")
    assert lines[9].endswith("test")
    with pytest.raises(Refused, match=r"no volume may stand on two sides, got 1 pairs: 1 near between test and train"):
        run(tmp_path, labels="labels.csv")


@pytest.mark.parametrize(
    ("spoil", "options", "said"),
    [
        (lambda root: (root / "readme.txt").write_text("x"), {"labels": "labels.csv"}, "must be NIfTI volumes"),
        (lambda root: None, {}, r"labels\.csv|must be NIfTI volumes .*, 1 of 13 are not"),
        (lambda root: (root / "rod/p1.nii").unlink(), {"labels": "labels.csv"}, "1 of 12 rows have no file"),
    ],
)
def test_a_folder_that_does_not_fit_is_refused_before_anything_is_read(tmp_path, spoil, options, said):
    scans.folder(tmp_path / "scans", patients=12)
    spoil(tmp_path / "scans")
    with pytest.raises(Refused, match=said):
        run(tmp_path, **options)
    assert not (tmp_path / "samples").exists()


def test_no_name_of_a_file_gets_into_the_samples(tmp_path):
    scans.folder(tmp_path / "scans", patients=12)
    (tmp_path / "scans/ball/p0.nii.gz").rename(tmp_path / "scans/ball/Canarybird.nii.gz")
    table = (tmp_path / "scans/labels.csv").read_text().replace("ball/p0.nii.gz", "ball/Canarybird.nii.gz")
    (tmp_path / "scans/labels.csv").write_text(table.replace("p0,", "Canarybird,"))
    report, *_ = run(tmp_path, labels="labels.csv")
    written = b"".join(path.read_bytes() for path in (tmp_path / "samples").rglob("*") if path.is_file())
    assert b"Canarybird" not in written
    assert "Canarybird" not in json.dumps(report)
