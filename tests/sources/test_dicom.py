import csv
import os
from pathlib import Path

import numpy as np
import pydicom
import pydicom.data
import pytest
from pydicom.dataset import FileDataset, FileMetaDataset
from pydicom.uid import ExplicitVRLittleEndian, SecondaryCaptureImageStorage, generate_uid

from medloop import manifest, params, privacy
from medloop.errors import Refused
from medloop.sources import dicom
from medloop.stages.ingest import ingest

PATIENTS = 24


def write(path, seed, *, frames=1, **header):
    """A small valid DICOM file of patient number `seed`."""
    path.parent.mkdir(parents=True, exist_ok=True)
    meta = FileMetaDataset()
    meta.TransferSyntaxUID = ExplicitVRLittleEndian
    meta.MediaStorageSOPClassUID = SecondaryCaptureImageStorage
    meta.MediaStorageSOPInstanceUID = generate_uid(entropy_srcs=[str(path)])
    ds = FileDataset(str(path), {}, file_meta=meta, preamble=bytes(128))
    ds.SOPClassUID, ds.SOPInstanceUID = meta.MediaStorageSOPClassUID, meta.MediaStorageSOPInstanceUID
    ds.PatientID, ds.PatientName, ds.StudyInstanceUID = f"Canary {seed}", "Canary^Jane", f"1.2.{seed + 1}"
    ds.PatientSex, ds.PatientAge, ds.Modality, ds.InstitutionName = "FM"[seed % 2], f"{seed + 70:03}Y", "DX", "North"
    ds.StudyDescription, ds.PixelSpacing = "Canary", [0.2, 0.3]
    ds.add_new(0x00091010, "LO", "Canary Jane")
    pixels = np.kron(np.random.default_rng(seed).integers(0, 4096, (frames, 6, 6)), np.ones((5, 5))).astype(np.uint16)
    ds.SamplesPerPixel, ds.PhotometricInterpretation, ds.PixelRepresentation = 1, "MONOCHROME1", 0
    ds.Rows, ds.Columns = pixels.shape[1:]
    ds.BitsAllocated, ds.BitsStored, ds.HighBit = 16, 12, 11
    if frames > 1:
        ds.NumberOfFrames = frames
    ds.PixelData = pixels.tobytes()
    for keyword, value in header.items():
        setattr(ds, keyword, value)
    ds.save_as(path)
    return pixels


@pytest.fixture
def tree(tmp_path):
    """Files of 24 patients in folders named after them, one with three frames."""
    root = tmp_path / "data"
    for seed in range(PATIENTS):
        write(root / f"Canary {seed}" / "image.dcm", seed, frames=3 if seed == 5 else 1)
    label(root, "path", [(f"Canary {seed}/image.dcm", "ab"[seed % 2]) for seed in range(PATIENTS)])
    return root


def label(root, column, rows):
    with (root / "labels.csv").open("w", newline="") as file:
        csv.writer(file).writerows([(column, "label"), *rows])


def run(root, *, max_rejected=0.0, **options):
    section = params.Ingest(source="dicom", root=root, options={"dicom": options}, max_rejected=max_rejected, workers=2)
    report = ingest(params.Base(dataset="mine"), section, samples=root.parent / "samples")
    for path in (root.parent / "samples").rglob("*"):
        assert path.is_dir() or b"Canary" not in path.read_bytes()
    return report, *manifest.read(root.parent / "samples")


def test_frames_headers_and_labels_arrive(tree):
    _, table, facts = run(tree, site="InstitutionName")
    assert len(table) == PATIENTS + 2
    assert facts.has_patients
    assert facts.classes == ("a", "b")
    pseudonym = privacy.Pseudonyms.load().of("patient", "Canary 5")
    frames = table[table["patient_id"] == pseudonym]
    assert len(frames) == 3
    assert frames["split"].nunique() == 1
    assert frames["study_id"].nunique() == 1
    row = frames.iloc[0]
    assert (row.sex, row.age_years, row.modality, row.site, row.label) == ("M", 75, "DX", "North", "b")
    assert (*row["spacing_mm"], row["bit_depth"]) == (0.2, 0.3, 12)
    assert table["age_years"].max() == 90
    stored = write(tree.parent / "again.dcm", 5, frames=3)
    store = manifest.Values(tree.parent / "samples")
    for frame, pixels in zip(frames.itertuples(), stored, strict=True):
        np.testing.assert_array_equal(store[frame], 4095 - pixels)  # MONOCHROME1


@pytest.mark.parametrize(
    ("match", "identifier"),
    [
        ("study_uid", lambda seed: f"1.2.{seed + 1}"),
        ("patient_id", lambda seed: f"Canary {seed}"),
        ("sop_uid", lambda seed: None),
    ],
)
def test_labels_by_identifier(tree, match, identifier):
    by_path = run(tree)[1]
    files = [tree / f"Canary {seed}/image.dcm" for seed in range(PATIENTS)]
    names = [identifier(seed) or pydicom.dcmread(file).SOPInstanceUID for seed, file in enumerate(files)]
    label(tree, match, [(name, "ab"[seed % 2]) for seed, name in enumerate(names)])
    (tree / "damaged.dcm").write_bytes(files[0].read_bytes()[:200])
    report, table, _ = run(tree, match=match, max_rejected=0.1)
    assert table["label"].tolist() == by_path["label"].tolist()
    assert len(report["rejected"]) == 1


def test_files_that_cannot_be_read_are_rejected_among_good_ones(tree, capfd):
    good = (tree / "Canary 3/image.dcm").read_bytes()
    (tree / "Canary 3/image.dcm").write_bytes(good[: len(good) - 400])  # labelled, truncated
    (tree / "Canary 4/image.dcm").write_bytes(b"Canary Jane's holiday")  # labelled, no DICOM
    (tree / "Canary notes.txt").write_text("Canary")  # not labelled, no DICOM
    write(tree / "Canary 6/image.dcm", 6, BurnedInAnnotation="YES")
    with pytest.raises(Refused, match=r"4 of 25 items could not be read \(16.0%\)") as refused:
        run(tree)
    assert refused.match("2 x no DICOM file")
    assert refused.match(r"1 x could not be decoded \(ValueError\)")
    assert refused.match("1 x BurnedInAnnotation is YES")
    assert "Canary" not in str(refused.value)
    report, table, _ = run(tree, max_rejected=0.2)
    assert len(table) == PATIENTS - 3 + 2
    assert len(report["rejected"]) == 4
    assert "Canary" not in "".join(capfd.readouterr())
    private = (Path(os.environ["MEDLOOP_STATE"]) / "private" / "rejects.csv").read_text()
    for rejected in report["rejected"]:
        assert f"{rejected['pseudonym']}," in private
    assert "Canary notes.txt" in private


def test_burned_in_text_is_allowed_only_when_asked(tree):
    write(tree / "Canary 6/image.dcm", 6, BurnedInAnnotation="YES")
    report, table, _ = run(tree, allow_burned_in=True)
    assert len(table) == PATIENTS + 2
    assert any("burned-in annotations were allowed" in note for note in report["notes"])


def test_a_file_without_a_label_and_a_row_without_a_file_are_refused(tree):
    write(tree / "Canary Jane/new.dcm", 99)
    rows = [(f"Canary {seed}/image.dcm", "ab"[seed % 2]) for seed in range(PATIENTS)]
    label(tree, "path", [*rows, ("Canary Jim/gone.dcm", "a")])
    with pytest.raises(Refused, match="1 of 25 files have no label, 1 of 25 rows have no file") as refused:
        run(tree)
    pseudonyms = privacy.Pseudonyms.load()
    assert refused.match(pseudonyms.of("item", "Canary Jane/new.dcm"))
    assert refused.match(pseudonyms.of("item", "Canary Jim/gone.dcm"))
    assert "Jane" not in str(refused.value)
    assert "Jim" not in str(refused.value)
    private = (Path(os.environ["MEDLOOP_STATE"]) / "private" / "rejects.csv").read_text()
    assert "no label in the table,Canary Jane/new.dcm" in private


@pytest.mark.parametrize(
    ("table", "message"),
    [
        (None, "no label table"),
        ("Canary 0/image.dcm,a\nCanary 1/image.dcm,b\n", "must have the columns path and label"),
        ("path,label\nCanary 0/image.dcm,a\nCanary 0/image.dcm,b\n", "line 3: a second row for the same path"),
        ("path,label\nCanary 0/image.dcm,\n", "line 2: the label is empty"),
        ("path,label,split\nCanary 0/image.dcm,a,holdout\n", "line 2: split must be one of train, val, test"),
        ("path,label,sex\nCanary 0/image.dcm,a,female\n", "line 2: sex must be F, M or O"),
        ("path,label,age_years\nCanary 0/image.dcm,a,old\n", "line 2: age_years must be a number"),
        ('path,label\n"Canary', "no readable CSV"),
        (b"path,label\n\xff\xfe,a\n", "no readable CSV"),
    ],
)
def test_a_label_table_is_checked_without_quoting_it(tree, table, message):
    (tree / "labels.csv").unlink()
    if table is not None:
        (tree / "labels.csv").write_bytes(table if isinstance(table, bytes) else table.encode())
    with pytest.raises(Refused, match=message) as refused:
        run(tree)
    assert "Canary" not in str(refused.value)


def test_what_is_no_data_is_left_alone(tree):
    (tree / ".hidden").mkdir()
    (tree / ".hidden" / "file").touch()
    (tree / "DICOMDIR").touch()
    options = dicom.Options()
    assert dicom.total(tree, options) == PATIENTS == len(list(dicom.items(tree, options, seed=0)))


def test_a_folder_that_is_not_there_is_refused(tmp_path):
    with pytest.raises(Refused, match="no folder"):
        run(tmp_path / "nowhere")


def test_files_as_hospitals_send_them(tmp_path):
    """Compressed, signed, coloured, palette and multi-frame files from pydicom's wheel in one tree."""
    root = tmp_path / "data"
    names = ["693_J2KI", "MR_small_RLE", "JPEGLSNearLossless_16", "SC_rgb_jpeg_gdcm", "SC_rgb_jpeg_dcmtk"]
    names += [
        "CT_small",
        "examples_palette",
        "image_dfl",
        "ExplVR_BigEnd",
        "examples_ybr_color",
        "JPEG2000",
        "liver_1frame",
    ]
    root.mkdir()
    for name in names:
        (root / f"{name}.dcm").write_bytes(Path(pydicom.data.get_testdata_file(f"{name}.dcm")).read_bytes())
    with (root / "labels.csv").open("w", newline="") as file:
        splits = manifest.SPLITS * 4
        rows = [(f"{name}.dcm", "ab"[i % 2], splits[i]) for i, name in enumerate(names)]
        csv.writer(file).writerows([("path", "label", "split"), *rows])
    section = params.Ingest(source="dicom", root=root, leaks="report", workers=2)
    report = ingest(params.Base(), section, samples=tmp_path / "samples")
    table, facts = manifest.read(tmp_path / "samples")
    assert not report["rejected"]
    assert len(table) == len(names) + 29
    assert facts.official_split
    assert set(table["bit_depth"]) == {8, 14, 16}
    assert {len(shape) for shape in table["shape"]} == {2, 3}


@pytest.mark.parametrize("place", ["/labels.csv", "../labels.csv"])
def test_a_label_table_elsewhere_is_refused(tree, place):
    with pytest.raises(Refused, match=r"ingest.options.dicom: labels: must lie below ingest.root"):
        run(tree, labels=place)
