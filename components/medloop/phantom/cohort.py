"""The whole phantom: patient by patient, study by study, as DICOM files and what is known of them."""

from dataclasses import dataclass

import numpy as np

from medloop.phantom import anatomy, header, radiograph, sites
from medloop.phantom.anatomy import Patient
from medloop.phantom.lumps import Lump
from medloop.phantom.options import Options
from medloop.phantom.streams import Use, stream

CLASSES = {  # by what is labelled
    "nodule": ("no finding", "nodule"),
    "findings": ("nodule on the left", "nodule on the right", "large nodule"),
    "size": ("no nodule", "small nodule", "large nodule"),
}
LARGE_MM = 20.0  # diameter of the least of the large ones


@dataclass(frozen=True)
class Radiograph:
    """One study of one patient."""

    content: bytes  # the DICOM file
    label: str  # several are joined by "|"
    nodules: tuple[np.ndarray, ...]  # (H, W) uint8 each, 1 where the nodule's shadow falls
    diameters_mm: tuple[float, ...]
    lungs: tuple[np.ndarray, ...] = ()  # (H, W) uint8 each, right and left, where they are asked for

    @property
    def mask(self) -> np.ndarray | None:
        """The shadows of all nodules together, (H, W) uint8."""
        return np.maximum.reduce(self.nodules) if self.nodules else None

    @property
    def boxes(self) -> tuple[tuple[int, int, int, int], ...]:
        """For each nodule x0, y0, x1, y1 in pixels, ends exclusive."""
        return tuple(_box(mask) for mask in self.nodules if mask.any())


def radiographs(index: int, options: Options, seed: int) -> list[Radiograph]:
    """Return the studies of patient `index`, first to last."""
    patient = anatomy.patient(index, options, seed)
    return [_radiograph(patient, number, options, seed) for number in range(patient.person.studies)]


def dicom(index: int, study: int, options: Options, seed: int) -> bytes:
    """Return the DICOM file of one study: the same bytes for the same seed, whatever the cohort's size."""
    return _radiograph(anatomy.patient(index, options, seed), study, options, seed).content


def _radiograph(patient: Patient, number: int, options: Options, seed: int) -> Radiograph:
    site = sites.SITES[patient.person.site]
    study = radiograph.study(patient, number, seed)
    rng = stream(seed, patient.person.index, Use.DEVICE, number)
    integrals = radiograph.line_integrals(patient, study, options.size_px)
    field = sites.collimation(site, options.size_px, radiograph.FIELD_MM, rng)
    counted = radiograph.counts(integrals, field, options, rng)
    stored = sites.stored(counted, field, site, rng)
    spacing_mm = radiograph.FIELD_MM / options.size_px
    content = header.encoded(header.dataset(stored, patient.person, number, site, spacing_mm, seed))
    shadows = radiograph.masks(study, options.size_px)
    diameters = tuple(nodule.diameter_mm for nodule in study.nodules)
    lungs = radiograph.lungs(patient, study, options.size_px) if options.masks in ("lungs", "both") else ()
    return Radiograph(content, _label(study.nodules, options), shadows, diameters, lungs)


def _label(nodules: tuple[Lump, ...], options: Options) -> str:
    classes, large = CLASSES[options.labels], any(nodule.diameter_mm >= LARGE_MM for nodule in nodules)
    if options.labels == "nodule":
        return classes[bool(nodules)]
    if options.labels == "size":
        return classes[bool(nodules) + large]
    sides = [nodule.centre[0] > 0 for nodule in nodules]  # x runs to the patient's left
    found = (any(sides), not all(sides), large)
    return "|".join(name for name, true in zip(classes, found, strict=True) if true)


def _box(mask: np.ndarray) -> tuple[int, int, int, int]:
    rows, columns = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
    return int(columns[0]), int(rows[0]), int(columns[-1]) + 1, int(rows[-1]) + 1
