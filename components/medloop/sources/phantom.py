"""The embedded default: simulated chest radiographs, decoded from DICOM like those of the `dicom` source."""

from collections.abc import Iterator
from functools import partial
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import pydicom

from medloop import drawing, imaging, privacy
from medloop.phantom import cohort
from medloop.phantom.options import Options
from medloop.sources import Item, Sample

__all__ = ["SIMULATED", "Options", "classes", "facts", "items", "multi_label", "notes", "ordered", "total"]

SIMULATED = True
MASKS = {"nodules": ("nodule",), "lungs": ("lung",), "both": ("lung", "nodule")}  # classes


def items(root: Path, options: Options, *, seed: int) -> Iterator[Item]:  # noqa: ARG001
    """Yield one item a patient; nothing is read from `root`."""
    for index in range(options.patients):
        yield Item(f"patient {index}", partial(_samples, index, options, seed))


def total(root: Path, options: Options) -> int:  # noqa: ARG001
    """Return the number of patients."""
    return options.patients


def classes(options: Options) -> tuple[str, ...]:
    """Return the classes in label order."""
    return cohort.CLASSES[options.labels]


def multi_label(options: Options) -> bool:
    """Tell whether an image may have several labels, or none."""
    return options.labels == "findings"


def ordered(options: Options) -> bool:
    """Tell whether the classes are grades."""
    return options.labels == "size"


def facts(root: Path, options: Options) -> dict[str, Any]:  # noqa: ARG001
    """Return that every image has a mask, and of which classes, where masks are asked for."""
    if options.masks == "none":
        return {}
    return {"masks": True, "boxes": True, "classes": MASKS[options.masks]}


def notes(options: Options) -> list[str]:
    """Return what a reader must know."""
    if not options.shortcut:
        return []
    return [f"A shortcut was planted: in {options.shortcut:.0%} of patients the site betrays the label."]


def _samples(index: int, options: Options, seed: int) -> Iterator[Sample]:
    for radiograph in cohort.radiographs(index, options, seed):
        ds = pydicom.dcmread(BytesIO(radiograph.content))
        header = privacy.allowed_header(ds, "InstitutionName")
        pixels, bits = next(imaging.decode_dataset(ds))
        drawn = _labelled(radiograph) if options.masks == "none" else _drawn(radiograph, options)
        yield Sample(str(ds.SOPInstanceUID), pixels, bits, **drawn, **header)


def _labelled(radiograph: cohort.Radiograph) -> dict[str, Any]:
    return {"label": radiograph.label, "mask": radiograph.mask, "boxes": radiograph.boxes or None}


def _drawn(radiograph: cohort.Radiograph, options: Options) -> dict[str, Any]:
    """Return mask, instances and boxes; a nodule lies on the lung, the smaller of two nodules on the larger."""
    classes = MASKS[options.masks]
    shadows = {"lung": radiograph.lungs, "nodule": radiograph.nodules}
    objects = [(place, each > 0) for place, name in enumerate(classes, 1) for each in shadows[name]]
    size = (options.size_px, options.size_px)
    mask, instances, _ = drawing.of_objects(size, objects, "smaller")
    numbers = np.unique(instances[instances > 0])
    seen = [np.flatnonzero(instances.ravel() == number)[0] for number in numbers]
    names = tuple(classes[mask.ravel()[place] - 1] for place in seen)
    return {"mask": mask, "instances": instances, "boxes": drawing.boxes_of(instances), "box_labels": names}
