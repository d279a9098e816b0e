"""Boxes as files: COCO JSON, an overlay to look at, a DICOM structured report.

Detections are (D, 6): corners x0, y0, x1, y1 in pixels of the image, score, and the number of the class from 1 on.
"""

import hashlib
import json
from collections.abc import Mapping, Sequence
from typing import Any

import cv2
import numpy as np
from pydicom.dataset import Dataset
from pydicom.uid import generate_uid

from medloop import referring
from medloop.errors import Refused
from medloop.masks import COLOURS
from medloop.referring import OWN_CODES, Code

REPORT = "a DICOM structured report"
SCORE = ("score", OWN_CODES, "Score of the detection")
RATIO = ("{ratio}", "UCUM", "ratio")  # of a number from 0 to 1
PROCEDURE = ("363679005", "SCT", "Imaging procedure")
TEXT_PX = 400  # width of an image for which a line is one pixel wide


def coco(images: Sequence[Mapping[str, Any]], found: Sequence[np.ndarray], classes: Sequence[str]) -> str:
    """Return detections as a COCO file.

    Args:
        images: `file_name`, `width` and `height` of each.
        found: its detections (D, 6).
        classes: their names; category ids count from 1.
    """
    annotations: list[dict[str, Any]] = []
    for number, rows in enumerate(found, 1):
        for x0, y0, x1, y1, score, kind in rows.tolist():
            box = [round(each, 2) for each in (x0, y0, x1 - x0, y1 - y0)]
            annotations.append(
                {
                    "id": 1 + len(annotations),
                    "image_id": number,
                    "category_id": int(kind),
                    "bbox": box,
                    "area": round(box[2] * box[3], 2),
                    "iscrowd": 0,
                    "score": round(score, 6),
                }
            )
    content = {
        "images": [{"id": number, **each} for number, each in enumerate(images, 1)],
        "categories": [{"id": number, "name": name} for number, name in enumerate(classes, 1)],
        "annotations": annotations,
    }
    return json.dumps(content, indent=1)


def overlay(pixels: np.ndarray, rows: np.ndarray, bit_depth: int = 8) -> bytes:
    """Return an image (H, W) or (H, W, 3) RGB with detections on it as a PNG file, each class in its own colour."""
    shown = pixels.astype(np.float32) * (255 / (2**bit_depth - 1))
    shown = np.repeat(shown[..., None], 3, axis=2) if shown.ndim == 2 else shown
    image = np.ascontiguousarray(np.clip(np.rint(shown), 0, 255).astype(np.uint8)[..., ::-1])
    line = max(1, round(image.shape[1] / TEXT_PX))
    for x0, y0, x1, y1, score, kind in rows.tolist():
        colour = COLOURS[(int(kind) - 1) % len(COLOURS)][::-1]
        cv2.rectangle(image, (round(x0), round(y0)), (round(x1) - 1, round(y1) - 1), colour, line)
        place = (round(x0) + line, round(y0) - 2 * line if y0 > 12 * line else round(y0) + 10 * line)
        cv2.putText(image, f"{score:.2f}", place, cv2.FONT_HERSHEY_SIMPLEX, 0.3 * line, colour, line)
    return bytes(cv2.imencode(".png", image)[1])


def dicom_sr(
    source: Dataset,
    rows: np.ndarray,
    classes: Sequence[str],
    *,
    frame: int | None = None,
    model: str = "medloop",
    version: str = "0",
    pseudonym: str | None = None,
    codes: Mapping[str, Code] | None = None,
) -> bytes:
    """Return detections in an image as a DICOM structured report, a file: measurements of planar regions (TID 1500).

    Each box is a closed polyline on the image, with its class as the finding and its score as a measurement. The report
    refers to the image by its SOPInstanceUID and belongs to its study; it names the patient as its source does, and may
    go where that may, unless there is a `pseudonym`. The same input gives the same bytes.

    Args:
        source: the image.
        rows: (D, 6).
        classes: names of the findings.
        frame: the one that the boxes are of, counted from 0, where the image has several.
        model: what found them.
        version: of the model.
        pseudonym: stands for the name and the id of the patient; what else tells of the patient is left out.
        codes: of classes, e.g. {"nodule": ("27925004", "SCT", "Nodule")}; the others have a code of medloop's own.

    Raises:
        Refused: there is no detection, or the image lacks what a report must say of it.
    """
    from highdicom import sr  # only who writes reports pays for its import

    if not len(rows):
        raise Refused(f"no box makes no {REPORT.removeprefix('a ')}: it must have a measurement")
    told = referring.told_of(source, pseudonym, REPORT)
    entropy = [str(source.SOPInstanceUID), str(frame), model, version, *classes]
    entropy.append(hashlib.sha256(np.ascontiguousarray(rows, np.float64).tobytes()).hexdigest())
    image = sr.SourceImageForRegion(source.SOPClassUID, source.SOPInstanceUID, None if frame is None else [frame + 1])
    own = referring.codes_of(classes, codes)
    findings = [own[classes[int(kind) - 1]] for kind in rows[:, 5]]
    content = _content(image, rows, findings, model, version, entropy)
    with referring.complete(REPORT):
        found = sr.ComprehensiveSR(
            evidence=[told],
            content=content,
            is_complete=True,
            **referring.instance(f"Detection by {model}", 9001, entropy),
        )
    return referring.file_of(found, told)


def _content(
    image: Any, rows: np.ndarray, findings: Sequence[Code], model: str, version: str, entropy: Sequence[str]
) -> Any:
    """Return what the report says of each detection (D, 6) in an image, of which class its finding has the code."""
    from highdicom import sr
    from highdicom.sr.coding import CodedConcept

    made_by = sr.AlgorithmIdentification(name=model, version=version)
    groups = []
    for number, ((x0, y0, x1, y1, score, _), finding) in enumerate(zip(rows.tolist(), findings, strict=True)):
        corners = np.array([(x0, y0), (x1, y0), (x1, y1), (x0, y1), (x0, y0)])
        groups.append(
            sr.PlanarROIMeasurementsAndQualitativeEvaluations(
                sr.TrackingIdentifier(generate_uid(entropy_srcs=[str(number), *entropy]), f"box {number + 1}"),
                sr.ImageRegion(sr.GraphicTypeValues.POLYLINE, corners, image),
                finding_type=CodedConcept(*finding),
                algorithm_id=made_by,
                measurements=[sr.Measurement(CodedConcept(*SCORE), round(score, 6), CodedConcept(*RATIO))],
            )
        )
    device = sr.DeviceObserverIdentifyingAttributes(
        generate_uid(entropy_srcs=["observer", model, version]), model_name=model
    )
    observer = sr.ObserverContext(CodedConcept("121007", "DCM", "Device"), device)
    report = sr.MeasurementReport(
        sr.ObservationContext(observer_device_context=observer), CodedConcept(*PROCEDURE), imaging_measurements=groups
    )
    return report[0]
