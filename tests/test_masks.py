"""Masks as files: the same values in a PNG, an overlay to look at, and a DICOM segmentation that others can read."""

from io import BytesIO

import cv2
import numpy as np
import pydicom
import pytest

import support
from medloop import masks
from medloop.errors import Refused
from support import CANARY

CLASSES = ("lung", "nodule")


def decoded(content: bytes) -> np.ndarray:
    return cv2.imdecode(np.frombuffer(content, np.uint8), cv2.IMREAD_UNCHANGED)


def drawn() -> np.ndarray:
    mask = np.zeros((40, 40), np.uint8)
    mask[5:20, 8:30], mask[25:32, 20:35] = 1, 2
    return mask


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
def test_a_png_has_the_same_values(dtype):
    mask = drawn().astype(dtype) * dtype(100)
    found = decoded(masks.png(mask))
    assert found.dtype == dtype
    np.testing.assert_array_equal(found, mask)
    with pytest.raises(ValueError, match=r"a mask must be \(H, W\) uint8 or uint16, got"):
        masks.png(mask[..., None])


@pytest.mark.parametrize(("dtype", "bits"), [(np.uint8, 8), (np.uint16, 12)])
def test_an_overlay_shades_each_class_outlines_it_and_leaves_the_rest(dtype, bits):
    pixels = np.full((40, 40), (2**bits - 1) // 2, dtype)
    shown = decoded(masks.overlay(pixels, drawn(), bits, truth=np.roll(drawn(), 4, axis=1)))[..., ::-1].astype(int)
    assert (np.abs(shown[0, 0] - 127) <= 1).all()
    assert shown[5, 8].tolist() == list(masks.COLOURS[0])  # a corner of the outline
    assert shown[25, 20].tolist() == list(masks.COLOURS[1])
    inside = 127 + masks.SHADE * (np.array(masks.COLOURS[0]) - 127)
    np.testing.assert_allclose(shown[10, 20], inside, atol=1)
    assert (shown[5:20, 12] == 255).all()  # the true outline, four pixels to the right
    with pytest.raises(ValueError, match="like its image"):
        masks.overlay(pixels, drawn()[:-1], bits)


def test_an_overlay_keeps_colours():
    pixels = np.random.default_rng(0).integers(0, 256, (40, 40, 3), np.uint8)
    np.testing.assert_array_equal(decoded(masks.overlay(pixels, np.zeros((40, 40), np.uint8)))[..., ::-1], pixels)


@pytest.fixture
def source():
    pytest.importorskip("highdicom", reason="writing DICOM segmentations needs highdicom")
    ds = support.dicom(1, finding=True, name=CANARY)
    ds.SeriesInstanceUID = "1.2.3.4"
    return ds


def test_a_segmentation_says_what_it_is_of_and_holds_the_mask(source):
    import highdicom

    content = masks.dicom_seg(source, drawn(), CLASSES, model="unet", version="7")
    assert content == masks.dicom_seg(source, drawn(), CLASSES, model="unet", version="7")
    seg = highdicom.seg.segread(BytesIO(content))
    assert (seg.StudyInstanceUID, seg.PatientID) == (source.StudyInstanceUID, source.PatientID)
    assert [seg.get_segment_description(n).segment_label for n in seg.segment_numbers] == list(CLASSES)
    found = seg.get_pixels_by_source_instance([source.SOPInstanceUID], combine_segments=True)
    np.testing.assert_array_equal(found[0], drawn())
    described = seg.get_segment_description(1)
    assert (described.algorithm_type.value, described.algorithm_identification.version) == ("AUTOMATIC", "7")
    assert masks.dicom_seg(source, np.roll(drawn(), 1), CLASSES) != content


def test_with_a_pseudonym_nothing_tells_of_the_patient(source):
    source.StudyDate = source.ContentDate = "20200102"
    source.StudyTime = source.ContentTime = "101010"
    content = masks.dicom_seg(source, drawn(), CLASSES, pseudonym="b5c1")
    assert CANARY.encode() not in content
    ds = pydicom.dcmread(BytesIO(content))
    assert (ds.PatientID, ds.PatientName, ds.PatientBirthDate, ds.PatientSex) == ("b5c1", "b5c1^", "", "")
    assert {str(each.value) for each in ds.iterall() if each.VR == "DA"} <= {"", "19700101"}
    assert {str(each.value) for each in ds.iterall() if each.VR == "TM"} <= {"", "000000"}
    assert (
        ds.ReferencedSeriesSequence[0].ReferencedInstanceSequence[0].ReferencedSOPInstanceUID == source.SOPInstanceUID
    )
    assert CANARY.encode() in masks.dicom_seg(source, drawn(), CLASSES)  # as its source says


def test_a_class_without_a_pixel_makes_no_segment_and_codes_may_be_given(source):
    content = masks.dicom_seg(
        source, np.where(drawn() == 2, 2, 0).astype(np.uint8), CLASSES, codes={"nodule": ("27925004", "SCT", "Nodule")}
    )
    [segment] = pydicom.dcmread(BytesIO(content)).SegmentSequence
    assert (segment.SegmentNumber, segment.SegmentLabel) == (1, "nodule")
    assert segment.SegmentedPropertyTypeCodeSequence[0].CodeValue == "27925004"


def test_a_mask_of_one_frame_of_several(source):
    """An enhanced image, for whose frames the header says where they lie."""
    support.enhance(source, 3)
    content = masks.dicom_seg(source, drawn(), CLASSES, frame=1, pseudonym="b5c1")
    assert CANARY.encode() not in content
    ds = pydicom.dcmread(BytesIO(content))
    named = [
        frame.DerivationImageSequence[0].SourceImageSequence[0].ReferencedFrameNumber
        for frame in ds.PerFrameFunctionalGroupsSequence
    ]
    assert named == [2, 2]  # counted from 1, a frame for each class
    np.testing.assert_array_equal(ds.pixel_array, np.stack([drawn() == 1, drawn() == 2]))


def test_one_message_for_what_cannot_be_written(source):
    with pytest.raises(Refused, match="an empty mask makes no DICOM segmentation"):
        masks.dicom_seg(source, np.zeros((40, 40), np.uint8), CLASSES)
    with pytest.raises(
        Refused, match=r"mask must be \(1, 40, 40\) like its image .frames, rows, columns., got \(39, 40\)"
    ):
        masks.dicom_seg(source, drawn()[:-1], CLASSES)
    with pytest.raises(Refused, match="mask must hold 0 to 1, got 2"):
        masks.dicom_seg(source, drawn(), CLASSES[:1])
    source.NumberOfFrames = 2
    with pytest.raises(
        Refused, match=r"mask must be \(2, 40, 40\) like its image .frames, rows, columns., got \(40, 40\)"
    ):
        masks.dicom_seg(source, drawn(), CLASSES, frame=2)
    with pytest.raises(Refused, match="has several frames and no FrameOfReferenceUID"):
        masks.dicom_seg(source, np.stack([drawn(), drawn()]), CLASSES)
    source.FrameOfReferenceUID = "1.2.9"
    source.SOPClassUID, source.PositionReferenceIndicator = "1.2.840.10008.5.1.4.1.1.2.1", ""  # enhanced CT
    source.PerFrameFunctionalGroupsSequence = []
    with pytest.raises(Refused, match="the image lacks what a DICOM segmentation must say of it"):
        masks.dicom_seg(source, drawn(), CLASSES, frame=1)
    del source.SeriesInstanceUID, source.NumberOfFrames
    with pytest.raises(Refused, match="the image lacks SeriesInstanceUID, to which a DICOM segmentation must refer"):
        masks.dicom_seg(source, drawn(), CLASSES)
