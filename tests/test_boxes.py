"""Boxes as files: COCO JSON, an overlay to look at, and a DICOM structured report that others can read."""

import json
from io import BytesIO

import cv2
import numpy as np
import pydicom
import pytest

import support
from medloop import boxes, masks
from medloop.errors import Refused

ROWS = np.array([[5, 6, 20, 30, 0.9, 1], [22.25, 8, 39.5, 20, 0.61, 2.0]])
CLASSES = ("nodule", "scar")


def test_a_coco_file_says_each_box_of_each_image():
    images = [{"file_name": name, "height": 40, "width": 50} for name in ("a", "b")]
    found = json.loads(boxes.coco(images, [ROWS[:0], ROWS], CLASSES))
    assert found["images"] == [{"id": number, **each} for number, each in enumerate(images, 1)]
    assert found["categories"] == [{"id": 1, "name": "nodule"}, {"id": 2, "name": "scar"}]
    first, second = found["annotations"]
    own = {"id": 1, "image_id": 2, "category_id": 1, "bbox": [5.0, 6.0, 15.0, 24.0], "area": 360.0}
    assert first == own | {"iscrowd": 0, "score": 0.9}
    assert (second["bbox"], second["category_id"]) == ([22.25, 8.0, 17.25, 12.0], 2)


@pytest.mark.parametrize(("bits", "dtype"), [(8, np.uint8), (12, np.uint16)])
def test_an_overlay_draws_each_class_in_its_own_colour(bits, dtype):
    pixels = np.full((40, 50), (2**bits - 1) // 2, dtype)
    shown = cv2.imdecode(np.frombuffer(boxes.overlay(pixels, ROWS, bits), np.uint8), cv2.IMREAD_COLOR)[..., ::-1]
    assert (np.abs(shown[0, 0].astype(int) - 127) <= 1).all()
    assert shown[29, 5].tolist() == shown[29, 19].tolist() == list(masks.COLOURS[0])
    assert shown[19, 38].tolist() == list(masks.COLOURS[1])
    assert (np.abs(shown[25, 12].astype(int) - 127) <= 1).all()  # within


@pytest.fixture
def source():
    ds = support.dicom(1, finding=True, name=support.CANARY)
    ds.SeriesInstanceUID = "1.2.3.4"
    return ds


def test_a_report_says_what_it_is_of_and_holds_the_boxes(source):
    from highdicom import sr

    codes = {"nodule": ("27925004", "SCT", "Nodule")}
    content = boxes.dicom_sr(source, ROWS, CLASSES, model="fcos", version="7", codes=codes)
    assert content == boxes.dicom_sr(source, ROWS, CLASSES, model="fcos", version="7", codes=codes)
    report = sr.srread(BytesIO(content))
    assert (report.StudyInstanceUID, report.PatientID) == (source.StudyInstanceUID, source.PatientID)
    groups = report.content.get_planar_roi_measurement_groups()
    assert [each.finding_type.meaning for each in groups] == ["Nodule", "scar"]
    for group, row in zip(groups, ROWS, strict=True):
        [region] = group.roi.ContentSequence
        assert region.referenced_sop_instance_uid == source.SOPInstanceUID
        corners = group.roi.value
        assert (corners.min(axis=0).tolist(), corners.max(axis=0).tolist()) == (row[:2].tolist(), row[2:4].tolist())
        [score] = group.get_measurements()
        assert (score.name.meaning, score.value) == ("Score of the detection", row[4])
    assert boxes.dicom_sr(source, ROWS[:1], CLASSES, model="fcos", version="7") != content


def test_with_a_pseudonym_nothing_tells_of_the_patient(source):
    source.StudyDate = source.ContentDate = "20200102"
    content = boxes.dicom_sr(source, ROWS, CLASSES, pseudonym="b5c1", frame=0)
    assert b"20200102" not in content
    assert support.CANARY.encode() not in content
    ds = pydicom.dcmread(BytesIO(content))
    assert (ds.PatientID, ds.PatientName, ds.PatientBirthDate) == ("b5c1", "b5c1^", "")
    assert support.CANARY.encode() in boxes.dicom_sr(source, ROWS, CLASSES)  # as its source says


def test_one_message_for_what_cannot_be_written(source):
    with pytest.raises(Refused, match="no box makes no DICOM structured report"):
        boxes.dicom_sr(source, ROWS[:0], CLASSES)
    del source.SeriesInstanceUID
    with pytest.raises(
        Refused, match="the image lacks SeriesInstanceUID, to which a DICOM structured report must refer"
    ):
        boxes.dicom_sr(source, ROWS, CLASSES)
