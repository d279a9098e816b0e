"""Takes the picture: rays through the patient, scatter, blur and quantum noise, until the detector's counts.

A point source stands 1800 mm before the detector, the patient with his chest at it (posterior-anterior view). Image
columns run to the patient's left, rows downwards, as a reader sees him.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import cv2
import numpy as np

from medloop.phantom import matter, shapes
from medloop.phantom.anatomy import Patient
from medloop.phantom.lumps import Lump
from medloop.phantom.options import Options
from medloop.phantom.room import BREATH_MM
from medloop.phantom.shapes import Points, Rays, rotation, spans, union_length
from medloop.phantom.streams import Use, stream

FIELD_MM = 384.0  # side of the detector
SOURCE_MM, DETECTOR_MM = -1640.0, 160.0  # along y
CENTRE_MM = -22.0  # height of the detector's middle and of the source
LUNG_MM = 30.0  # of lung that a ray must pass to belong to its shadow
SCATTER_MM = 32.0  # standard deviation of what an anti-scatter grid lets through
SCATTER_RATIO = 0.25  # scatter over primary where the field is wide and even
BLUR_MM = 1.1  # standard deviation: focal spot, detector and binning together
QUANTUM_EFFICIENCY = 0.6
CHUNK = 8192  # points at once: what fits the cache
FINE = 3  # rays along one side of a pixel through small things


@dataclass(frozen=True)
class Study:
    """How the patient stood and breathed this time."""

    index: int
    to_room: np.ndarray  # (3, 3): turns, and stretches with the breath
    shift: np.ndarray  # (3,) mm
    diaphragm_mm: float  # above its middle stand
    nodules: tuple[Lump, ...]


def study(patient: Patient, index: int, seed: int) -> Study:
    """Return study `index` of a patient: another stand, another breath, and nodules that may have grown."""
    rng = stream(seed, patient.person.index, Use.STAND, index)
    breath = rng.uniform(-0.5, 0.5)
    turn = rotation(rng.normal(0, 2), rng.normal(0, 1.5), rng.normal(0, 3))
    stretch = np.diag([1, 1 + 0.03 * breath, 1 + 0.05 * breath])
    grown = tuple(nodule.grown(min(1.08**index, max(30.0 / nodule.diameter_mm, 1.0))) for nodule in patient.nodules)
    shift = rng.normal(0, (6, 0, 7))
    return Study(index, turn @ stretch, shift, -BREATH_MM * breath, grown)


def line_integrals(patient: Patient, study: Study, size_px: int) -> np.ndarray:
    """Return attenuation summed along the ray to each pixel's centre, (H, W)."""
    heights, xs = _pixel_centres(size_px)
    bands = np.array_split(heights, max(size_px**2 // CHUNK, 1))
    organs = [_organs(patient, study, _rays(study, band, xs)) for band in bands]
    total = np.concatenate(organs).reshape(size_px, size_px).astype(np.float64)
    seen = [patient.bones]
    for tree, dome in zip(patient.vessels, patient.domes, strict=True):
        seen.append(tree.where(~dome.moved((0, 0, study.diaphragm_mm)).holds(tree.places)))
    total += _splat(shapes.joined(seen), study, size_px)
    for lump in (*study.nodules, *patient.mimics):
        _add_lump(total, lump, study)
    return total


def masks(study: Study, size_px: int) -> tuple[np.ndarray, ...]:
    """Return for each nodule (H, W) uint8: 1 where the ray to the pixel's centre meets it."""
    made = []
    for nodule in study.nodules:
        mask = np.zeros((size_px, size_px), np.uint8)
        rows, columns = _window(nodule, study, size_px)
        v, u = _pixel_centres(size_px)
        near, far = _crossing(nodule, study, v[rows], u[columns])
        mask[rows, columns] = ((far > near).any(axis=0)).reshape(mask[rows, columns].shape)
        made.append(mask)
    return tuple(made)


def lungs(patient: Patient, study: Study, size_px: int) -> tuple[np.ndarray, np.ndarray]:
    """Return for the right and the left lung (H, W) uint8: 1 where the ray to the pixel's centre passes LUNG_MM of it.

    What stands in the lung (heart, diaphragm) is none of it, but hides it only where it fills it.
    """
    heights, xs = _pixel_centres(size_px)
    bands = np.array_split(heights, max(size_px**2 // CHUNK, 1))
    lengths = [list(_air(patient, study, _rays(study, band, xs))) for band in bands]
    right, left = (np.concatenate(side).reshape(size_px, size_px) for side in zip(*lengths, strict=True))
    return (right >= LUNG_MM).astype(np.uint8), (left >= LUNG_MM).astype(np.uint8)


def counts(integrals: np.ndarray, field: np.ndarray, options: Options, rng: np.random.Generator) -> np.ndarray:
    """Return the quanta that the detector counts in each pixel, (H, W).

    Args:
        integrals: (H, W) attenuation along the rays.
        field: (H, W) share of the beam that the collimator lets through.
        options: the dose.
        rng: of the noise.
    """
    return rng.poisson(expected_counts(integrals, field, options)).astype(np.float64)


def expected_counts(integrals: np.ndarray, field: np.ndarray, options: Options) -> np.ndarray:
    """Return the mean of `counts`; automatic exposure makes it the dose, on average, in the brighter fifth."""
    pixel_mm = FIELD_MM / len(integrals)
    primary = np.exp(-integrals) * field
    scatter = SCATTER_RATIO * _blurred(primary, SCATTER_MM / pixel_mm)
    signal = _blurred(primary + scatter, BLUR_MM / pixel_mm)
    middle = signal[len(signal) // 4 : -len(signal) // 4, len(signal) // 5 : -len(signal) // 5]
    quanta = options.dose_ugy * matter.PHOTONS_PER_MM2_UGY * QUANTUM_EFFICIENCY * pixel_mm**2
    return signal * (quanta / np.quantile(middle, 0.8))


def _pixel_centres(size_px: int) -> tuple[np.ndarray, np.ndarray]:
    """Return heights of the rows and x of the columns on the detector, mm."""
    along = (np.arange(size_px) + 0.5) * (FIELD_MM / size_px) - FIELD_MM / 2
    return CENTRE_MM - along, along


def _rays(study: Study, heights: np.ndarray, xs: np.ndarray, dtype: type = np.float32) -> Rays:
    """Return rays to the grid of detector places, in the patient's frame, origins where they pass him."""
    z, x = (part.ravel() for part in np.meshgrid(heights, xs, indexing="ij"))
    way = np.stack([x, np.full(x.size, DETECTOR_MM - SOURCE_MM), z - CENTRE_MM])
    source = np.array([[0.0], [SOURCE_MM], [CENTRE_MM]])
    origin = source + way * (-SOURCE_MM / (DETECTOR_MM - SOURCE_MM))  # where y is 0
    back = np.linalg.inv(study.to_room)
    way /= np.linalg.norm(way, axis=0)
    return Rays((back @ (origin - study.shift[:, None])).astype(dtype), (back @ way).astype(dtype))


def _organs(patient: Patient, study: Study, rays: Rays) -> np.ndarray:
    """Return the attenuation of all large shapes along rays, (N,)."""

    def length(group: tuple[shapes.Ellipsoid, ...]) -> np.ndarray:
        return union_length(*spans(rays, group))

    total = matter.FAT * length(patient.fat) + (matter.SOFT - matter.FAT) * length(patient.soft)
    near, far = spans(rays, (*patient.breasts, *patient.trachea))
    crossed = far - near
    count = len(patient.breasts)
    total += matter.GLAND * 0.5 * crossed[:count].sum(axis=0)  # half of each lies within the skin already
    total += (matter.AIR - matter.SOFT) * crossed[count:].max(axis=0)
    for air in _air(patient, study, rays):
        total += (matter.LUNG - matter.SOFT) * air
    return total


def _air(patient: Patient, study: Study, rays: Rays) -> Iterator[np.ndarray]:
    """Yield how much of the right and of the left lung rays pass, (N,) mm, without what stands in it."""
    near, far = spans(rays, patient.organs)
    edges = spans(rays, (*patient.lungs, *(dome.moved((0, 0, study.diaphragm_mm)) for dome in patient.domes)))
    for side in (0, 1):
        enters, leaves = edges[0][side], edges[1][side]
        others = [np.vstack([part, edge[2 + side][None]]) for part, edge in zip((near, far), edges, strict=True)]
        taken = union_length(*(np.clip(part, enters, leaves) for part in others))
        yield leaves - enters - taken


def _splat(points: Points, study: Study, size_px: int) -> np.ndarray:
    """Return the line integrals of points, each shared out over the four pixels around its shadow."""
    total = np.zeros(size_px**2)
    for start in range(0, len(points.places), CHUNK):
        part = slice(start, start + CHUNK)
        total += _shadows(points.places[part], points.attenuation[part], study, size_px)
    return total.reshape(size_px, size_px)


def _shadows(places: np.ndarray, attenuation: np.ndarray, study: Study, size_px: int) -> np.ndarray:
    pixel_mm = np.float32(FIELD_MM / size_px)
    x, y, z = study.to_room.astype(np.float32) @ places.T + study.shift.astype(np.float32)[:, None]
    enlarged = np.float32(DETECTOR_MM - SOURCE_MM) / (y - np.float32(SOURCE_MM)) / pixel_mm  # to pixels
    column = x * enlarged + np.float32(size_px / 2 - 0.5)
    row = np.float32(size_px / 2 - 0.5) - (z - np.float32(CENTRE_MM)) * enlarged
    mass = attenuation * enlarged**2 * np.float32(np.linalg.det(study.to_room))
    mass *= (row > 0) & (row < size_px - 1) & (column > 0) & (column < size_px - 1)
    top = np.clip(row, 0, size_px - 2).astype(np.intp)
    left = np.clip(column, 0, size_px - 2).astype(np.intp)
    right, place = (column - left) * mass, top * size_px + left
    down, both = (row - top) * mass, (row - top) * right
    at = np.concatenate([place, place + 1, place + size_px, place + size_px + 1])
    share = np.concatenate([mass - right - down + both, right - both, down - both, both])
    return np.bincount(at, share, size_px**2)


def _add_lump(total: np.ndarray, lump: Lump, study: Study) -> None:
    """Add a lump to line integrals (H, W): the mean over FINE x FINE rays a pixel."""
    size_px = len(total)
    rows, columns = _window(lump, study, size_px)
    v, u = _pixel_centres(size_px)
    within = ((np.arange(FINE) + 0.5) / FINE - 0.5) * (FIELD_MM / size_px)
    heights, xs = (v[rows][:, None] - within).ravel(), (u[columns][:, None] + within).ravel()
    length = union_length(*_crossing(lump, study, heights, xs))
    patch = length.reshape(len(v[rows]), FINE, len(u[columns]), FINE).mean(axis=(1, 3))
    total[rows, columns] += lump.excess * patch


def _crossing(lump: Lump, study: Study, heights: np.ndarray, xs: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    return spans(_rays(study, heights, xs, np.float64), lump.parts)


def _window(lump: Lump, study: Study, size_px: int) -> tuple[slice, slice]:
    """Return the rows and columns that the shadow of a lump lies in."""
    room = study.to_room @ lump.centre + study.shift
    enlarged = (DETECTOR_MM - SOURCE_MM) / (room[1] - SOURCE_MM)
    pixel_mm = FIELD_MM / size_px
    reach = (
        enlarged
        * 1.1
        * max(
            float(np.linalg.norm(part.centre - lump.centre) + np.linalg.norm(np.linalg.inv(part.to_unit), axis=0).max())
            for part in lump.parts
        )
    )
    column, row = room[0] * enlarged + FIELD_MM / 2, FIELD_MM / 2 - (room[2] - CENTRE_MM) * enlarged

    def bounds(middle: float) -> slice:
        return slice(
            max(int((middle - reach) / pixel_mm), 0), max(min(int((middle + reach) / pixel_mm) + 1, size_px), 0)
        )

    return bounds(row), bounds(column)


def _blurred(image: np.ndarray, sigma_px: float) -> np.ndarray:
    return cv2.GaussianBlur(image, (0, 0), sigma_px, borderType=cv2.BORDER_REPLICATE)
