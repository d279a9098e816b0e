"""DICOM segmentations beside their images: which frame is of which image, and one message for what cannot be."""

import re
from pathlib import Path

import numpy as np
import pydicom
import pytest
from pydicom.dataset import Dataset
from pydicom.pixels import pack_bits
from pydicom.uid import ExplicitVRLittleEndian, generate_uid

import support
from medloop import manifest, params, privacy, provenance
from medloop.errors import Refused
from medloop.stages.ingest import ingest, ingest_part
from support import CANARY

PATIENTS, SLICES, SIZE = 14, 3, 40
CLASSES = ("lung", "nodule")


def image(patient: int, number: int) -> Dataset:
    ds = support.dicom(patient, finding=True, seed=number, name=CANARY, size=SIZE)
    ds.StudyInstanceUID = generate_uid(entropy_srcs=[f"study of {patient}"])
    ds.SeriesInstanceUID = generate_uid(entropy_srcs=[f"series of {patient}"])
    return ds


def shape(patient: int, number: int, segment: int) -> np.ndarray:
    """Return (H, W) bool of one segment of one slice; nothing in the last slice of each patient."""
    there = np.zeros((SIZE, SIZE), bool)
    if number < SLICES - 1:
        place = 3 + patient + 2 * number
        there[place : place + 9, 4:30] = segment == 1
        there[place + 10 : place + 13, 20:25] |= segment == 2
    return there


def seg(images: list[Dataset], layers: list[tuple[int, int, np.ndarray]], kind: str = "BINARY") -> Dataset:
    """Return a SEG by hand: layers are (place in images, number of the segment, (H, W) bool)."""
    ds = image(0, 0)
    ds.SOPClassUID = "1.2.840.10008.5.1.4.1.1.66." + ("7" if kind == "LABELMAP" else "4")
    ds.SOPInstanceUID = generate_uid()
    ds.file_meta.MediaStorageSOPClassUID, ds.file_meta.MediaStorageSOPInstanceUID = ds.SOPClassUID, ds.SOPInstanceUID
    ds.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    ds.Modality, ds.SegmentationType, ds.NumberOfFrames = "SEG", kind, len(layers)
    ds.SegmentSequence = [Dataset(), Dataset()]
    for number, (segment, label) in enumerate(zip(ds.SegmentSequence, ("lung", "nodule"), strict=True), 1):
        segment.SegmentNumber, segment.SegmentLabel = number, label
    series = Dataset()
    series.SeriesInstanceUID = images[0].SeriesInstanceUID
    series.ReferencedInstanceSequence = []
    ds.ReferencedSeriesSequence = [series]
    ds.PerFrameFunctionalGroupsSequence = []
    for place, number, _ in layers:
        source = Dataset()
        source.ReferencedSOPClassUID = images[place].SOPClassUID
        source.ReferencedSOPInstanceUID = images[place].SOPInstanceUID
        derivation, identification, frame = Dataset(), Dataset(), Dataset()
        derivation.SourceImageSequence = [source]
        identification.ReferencedSegmentNumber = number
        frame.DerivationImageSequence = [derivation]
        if kind != "LABELMAP":
            frame.SegmentIdentificationSequence = [identification]
        ds.PerFrameFunctionalGroupsSequence.append(frame)
    stack = np.stack([layer for *_, layer in layers])
    ds.Rows, ds.Columns = stack.shape[1:]
    ds.BitsAllocated = ds.BitsStored = 1 if kind == "BINARY" else 8
    ds.HighBit = ds.BitsStored - 1
    if kind == "BINARY":
        ds.PixelData = pack_bits(stack.astype(np.uint8).ravel())
    else:
        ds.MaximumFractionalValue = 200
        ds.PixelData = stack.astype(np.uint8).tobytes()
    return ds


def tree(root: Path, kind: str = "BINARY") -> Path:
    """Write a folder a patient: slices, and one SEG of all of them that names no frame for an empty one."""
    for patient in range(PATIENTS):
        images = [image(patient, number) for number in range(SLICES)]
        folder = root / f"{CANARY}_{patient:02}"
        folder.mkdir(parents=True)
        for number, ds in enumerate(images):
            ds.save_as(folder / f"{number}.dcm", enforce_file_format=True)
        layers = [(n, s, shape(patient, n, s)) for n in range(SLICES) for s in (1, 2) if shape(patient, n, s).any()]
        if kind == "FRACTIONAL":
            layers = [(n, s, np.where(there, 150, 90 * (s == 1))) for n, s, there in layers]
        if kind == "LABELMAP":
            layers = [(n, 0, shape(patient, n, 1) + 2 * shape(patient, n, 2)) for n in range(SLICES - 1)]
        seg(images, layers, kind).save_as(folder / "seg.dcm", enforce_file_format=True)
    return root


def section(root: Path, max_rejected: float = 0.0, **options) -> params.Ingest:
    content = {"classes": list(CLASSES), **options}
    return params.Ingest(
        source="dicom_seg", root=root, options={"dicom_seg": content}, max_rejected=max_rejected, workers=1
    )


def run(root: Path, max_rejected: float = 0.0, **options):
    folder = root.parent / "samples"
    wanted = section(root, max_rejected, **options)
    report = ingest(params.Base(dataset="c"), wanted, samples=folder, previous=folder)
    table, facts = manifest.read(folder)
    pseudonyms = privacy.Pseudonyms.load()
    names = {
        pseudonyms.of("sample", f"{image(patient, number).SOPInstanceUID}#0"): (patient, number)
        for patient in range(PATIENTS)
        for number in range(SLICES)
    }
    return report, facts, manifest.Values(folder), {names[row.sample_id]: row for row in table.itertuples()}


@pytest.mark.parametrize("kind", ["BINARY", "FRACTIONAL", "LABELMAP"])
def test_each_frame_comes_to_its_image_and_a_slice_without_one_is_empty(tmp_path, kind):
    report, facts, values, rows = run(tree(tmp_path / "data", kind))
    assert (facts.masks, facts.classes, facts.has_patients) == (True, CLASSES, True)
    assert (report["rejected"], len(rows)) == ([], PATIENTS * SLICES)
    for (patient, number), row in rows.items():
        wanted = shape(patient, number, 1) + 2 * shape(patient, number, 2)
        np.testing.assert_array_equal(values.mask(row), wanted)
        assert list(row.spacing_mm) == [0.5, 0.5]
    splits = [{row.split for (patient, _), row in rows.items() if patient == each} for each in range(PATIENTS)]
    assert all(len(sides) == 1 for sides in splits)
    for path in (tmp_path / "samples").rglob("*"):
        assert path.is_dir() or CANARY.encode() not in path.read_bytes()


def test_classes_choose_and_order_the_segments(tmp_path):
    _, _, values, rows = run(tree(tmp_path / "data"), classes=["nodule"])
    np.testing.assert_array_equal(values.mask(rows[4, 1]), shape(4, 1, 2))
    with pytest.raises(Refused, match=r"none of the 14 segmentations below ingest\.root has a segment called Nodule"):
        run(tmp_path / "data", classes=["Nodule", "lung"])


def test_a_changed_segmentation_has_its_images_read_again_and_shards_change_no_byte(tmp_path):
    root = tree(tmp_path / "data")
    run(root)
    assert run(root)[0]["taken_over"] == PATIENTS * SLICES
    images = [image(5, number) for number in range(SLICES)]
    seg(images, [(0, 1, shape(6, 0, 1))]).save_as(root / f"{CANARY}_05/seg.dcm", enforce_file_format=True)
    report, _, values, rows = run(root)
    assert report["taken_over"] == (PATIENTS - 1) * SLICES
    np.testing.assert_array_equal(values.mask(rows[5, 0]), shape(6, 0, 1))
    parts = [tmp_path / f"part{number}" for number in range(3)]
    for number, part in enumerate(parts):
        ingest_part(params.Base(dataset="c"), section(root), part=part, shard=number, shards=3)
    ingest(params.Base(dataset="c"), section(root), samples=tmp_path / "joined", parts=parts)
    assert provenance.digest(tmp_path / "joined") == provenance.digest(tmp_path / "samples")


def test_frames_of_an_image_of_several_frames(tmp_path):
    root = tree(tmp_path / "data")
    source = image(30, 0)
    source.NumberOfFrames = 2
    source.PixelData = 2 * source.PixelData
    found = seg([source], [(0, 1, shape(1, 0, 1)), (0, 1, shape(7, 0, 1))])
    for number, frame in enumerate(found.PerFrameFunctionalGroupsSequence, 1):
        frame.DerivationImageSequence[0].SourceImageSequence[0].ReferencedFrameNumber = number
    (root / "several").mkdir()
    source.save_as(root / "several/image.dcm", enforce_file_format=True)
    found.save_as(root / "several/seg.dcm", enforce_file_format=True)
    ingest(params.Base(dataset="c"), section(root), samples=tmp_path / "samples")
    table, _ = manifest.read(tmp_path / "samples")
    values, pseudonyms = manifest.Values(tmp_path / "samples"), privacy.Pseudonyms.load()
    rows = {row.sample_id: row for row in table.itertuples()}
    for frame, patient in enumerate((1, 7)):
        row = rows[pseudonyms.of("sample", f"{source.SOPInstanceUID}#{frame}")]
        np.testing.assert_array_equal(values.mask(row), shape(patient, 0, 1))


def no_reference(ds: Dataset) -> None:
    for frame in ds.PerFrameFunctionalGroupsSequence:
        del frame.DerivationImageSequence


def other_size(ds: Dataset) -> None:
    ds.Rows, ds.Columns = SIZE // 2, 2 * SIZE


def elsewhere(ds: Dataset) -> None:
    ds.ReferencedSeriesSequence[0].SeriesInstanceUID = "1.2.3"
    for number, frame in enumerate(ds.PerFrameFunctionalGroupsSequence):
        frame.DerivationImageSequence[0].SourceImageSequence[0].ReferencedSOPInstanceUID = f"1.2.{number}"


def no_frames(ds: Dataset) -> None:
    del ds.PerFrameFunctionalGroupsSequence


def other_segment(ds: Dataset) -> None:
    ds.PerFrameFunctionalGroupsSequence[0].SegmentIdentificationSequence[0].ReferencedSegmentNumber = 7


def images_elsewhere(ds: Dataset) -> None:
    for number, frame in enumerate(ds.PerFrameFunctionalGroupsSequence):
        frame.DerivationImageSequence[0].SourceImageSequence[0].ReferencedSOPInstanceUID = f"1.2.{number}"


NOT_ITS_OWN = ["1 x a segmentation of images that are not here", "3 x no segmentation refers to it"]


@pytest.mark.parametrize(
    ("change", "messages"),
    [
        (no_frames, ["1 x a segmentation without frames", "3 x no segmentation refers to it"]),
        (other_segment, ["1 x a segmentation with a frame of a segment that it does not describe"]),
        (images_elsewhere, NOT_ITS_OWN),
        (
            no_reference,
            [
                "1 x a segmentation whose frames do not each refer to one image .DerivationImageSequence.",
                "3 x no segmentation refers to it or to its series",
            ],
        ),
        (other_size, [r"2 x mask must be \(40, 40\) like its image, got \(20, 80\)"]),
        (elsewhere, NOT_ITS_OWN),
        (lambda ds: setattr(ds, "PixelData", ds.PixelData[:20]), ["x could not be decoded"]),
    ],
    ids=["no frames", "other segment", "images elsewhere", "no reference", "other size", "elsewhere", "truncated"],
)
def test_one_message_for_what_cannot_be(tmp_path, change, messages):
    root = tree(tmp_path / "data")
    path = root / f"{CANARY}_03/seg.dcm"
    ds = pydicom.dcmread(path)
    change(ds)
    ds.save_as(path)
    with pytest.raises(Refused) as caught:
        run(root)
    for message in messages:
        assert re.search(message, str(caught.value)), caught.value
    assert CANARY not in str(caught.value)
    _, _, _, rows = run(root, max_rejected=0.2)
    assert {patient for patient, _ in rows} >= set(range(PATIENTS)) - {3}  # the others stay


def test_files_that_are_no_dicom_and_burned_in_names_are_rejected(tmp_path):
    root = tree(tmp_path / "data")
    (root / "readme.txt").write_text(CANARY)
    path = root / f"{CANARY}_02/1.dcm"
    ds = pydicom.dcmread(path)
    ds.BurnedInAnnotation = "YES"
    ds.save_as(path)
    report, _, _, rows = run(root, max_rejected=0.1)
    assert sorted(each["reason"] for each in report["rejected"]) == [
        "BurnedInAnnotation is YES (ingest.options.dicom_seg.allow_burned_in takes such images)",
        "could not be decoded (InvalidDicomError)",
    ]
    assert len(rows) == PATIENTS * SLICES - 1


def test_overlapping_segments_are_refused_or_go_to_the_smaller_one(tmp_path):
    root = tree(tmp_path / "data")
    images = [image(3, number) for number in range(SLICES)]
    both = [(0, 1, shape(3, 0, 1)), (0, 2, np.roll(shape(3, 0, 2), -5, axis=0))]
    seg(images, both).save_as(root / f"{CANARY}_03/seg.dcm", enforce_file_format=True)
    with pytest.raises(Refused, match="1 x 15 of its pixels belong to several objects at once"):
        run(root)
    _, _, values, rows = run(root, overlap="smaller")
    np.testing.assert_array_equal(values.mask(rows[3, 0]) == 2, both[1][2])


def test_images_to_which_no_segmentation_refers_are_refused_or_hold_no_object(tmp_path):
    root = tree(tmp_path / "data")
    (root / f"{CANARY}_03/seg.dcm").unlink()
    with pytest.raises(Refused, match=rf"{SLICES} x no segmentation refers to it .* \(option unreferenced: empty\)"):
        run(root)
    report, facts, values, rows = run(root, unreferenced="empty")
    assert (report["rejected"], len(rows)) == ([], PATIENTS * SLICES)
    assert not any(values.mask(rows[3, number]).any() for number in range(SLICES))
    assert any("show no object" in note for note in report["notes"])
    assert facts.masks


def test_what_medloop_writes_it_reads_again(tmp_path):
    pytest.importorskip("highdicom", reason="writing DICOM segmentations needs highdicom")
    from medloop import masks

    root = tree(tmp_path / "data")
    for patient in range(PATIENTS):
        for path in sorted((root / f"{CANARY}_{patient:02}").iterdir()):
            if path.name == "seg.dcm":
                path.unlink()
                continue
            mask = (shape(patient, int(path.stem), 1) + 2 * shape(patient, int(path.stem), 2)).astype(np.uint8)
            mask[0, 0] = 1  # a SEG has a segment at least
            content = masks.dicom_seg(pydicom.dcmread(path), mask, CLASSES)
            path.with_suffix(".seg").write_bytes(content)
    _, _, values, rows = run(root)
    for (patient, number), row in rows.items():
        wanted = shape(patient, number, 1) + 2 * shape(patient, number, 2)
        wanted[0, 0] = 1
        np.testing.assert_array_equal(values.mask(row), wanted)
