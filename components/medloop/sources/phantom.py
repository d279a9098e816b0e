"""The embedded default: simulated chest radiographs, decoded from DICOM like those of the `dicom` source."""

from collections.abc import Iterator
from functools import partial
from io import BytesIO
from pathlib import Path

import pydicom

from medloop import imaging, privacy
from medloop.phantom import cohort
from medloop.phantom.options import Options
from medloop.sources import Item, Sample

__all__ = ["SIMULATED", "Options", "classes", "items", "multi_label", "notes", "ordered", "total"]

SIMULATED = True


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
        yield Sample(
            str(ds.SOPInstanceUID),
            pixels,
            bits,
            radiograph.label,
            mask=radiograph.mask,
            boxes=radiograph.boxes or None,
            **header,
        )
