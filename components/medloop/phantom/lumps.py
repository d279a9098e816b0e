"""Nodules, and what looks like one. Lengths in mm; axes as in `shapes`."""

from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np

from medloop.phantom import matter, shapes
from medloop.phantom.shapes import Ellipsoid

CALCIFIED = (0.3, 1.0)  # least and most of what separates a nodule's attenuation from soft tissue's to cortical bone's


@dataclass(frozen=True)
class Lump:
    """A union of ellipsoids that attenuates more than what is around it by `excess` per mm."""

    kind: str  # nodule, or the kind of mimic
    centre: np.ndarray  # (3,)
    parts: tuple[Ellipsoid, ...]
    excess: float
    diameter_mm: float  # of the body, spicules left out
    spiculated: bool = False

    def grown(self, factor: float) -> "Lump":
        """Return the same lump, its lengths multiplied by `factor` about its centre."""
        parts = tuple(
            Ellipsoid(self.centre + (part.centre - self.centre) * factor, part.to_unit / factor) for part in self.parts
        )
        return replace(self, parts=parts, diameter_mm=self.diameter_mm * factor)


def nodule(rng: np.random.Generator, centre: np.ndarray, diameter_mm: float) -> Lump:
    """Return a lobulated nodule; a third are spiculated; from soft tissue to largely calcified."""
    radius = diameter_mm / 2
    body = shapes.ellipsoid(centre, radius * np.array([1.0, *rng.uniform(0.8, 1.0, 2)]), _any_turn(rng))
    parts = [body]
    for _ in range(rng.integers(0, 3)):
        aside = _direction(rng) * radius * rng.uniform(0.3, 0.5)
        parts.append(shapes.ellipsoid(centre + aside, np.full(3, radius * rng.uniform(0.35, 0.5))))
    spiculated = bool(rng.random() < 0.35)
    for _ in range(rng.integers(4, 8) if spiculated else 0):
        thick = max(0.09 * radius, 0.4)
        half_axes = np.array([radius * rng.uniform(1.3, 1.9), thick, thick])
        parts.append(shapes.ellipsoid(centre, half_axes, _any_turn(rng)))
    calcified = rng.uniform(*CALCIFIED)
    excess = matter.SOFT + calcified * (matter.CORTICAL - matter.SOFT) - matter.LUNG
    return Lump("nodule", centre, tuple(parts), excess, diameter_mm, spiculated)


def mimics(
    rng: np.random.Generator, lung: Callable[[float], np.ndarray], ribs: np.ndarray, front: Callable[[int], np.ndarray]
) -> tuple[Lump, ...]:
    """Return what a reader could take for a nodule, at least one a patient, whether or not there is a nodule.

    Args:
        rng: the patient's.
        lung: gives a place (3,) in a lung for a radius.
        ribs: places (N, 3) on the ribs.
        front: gives the place (3,) of the nipple on a side (-1: right).
    """
    found: list[Lump] = []
    while not found:
        if rng.random() < 0.45:
            found.append(_vessel_end_on(rng, lung(9.0)))
        if rng.random() < 0.3:
            found += [_nipple(rng, front(side)) for side in (-1, 1) if rng.random() < 0.75]
        if rng.random() < 0.3:
            found += [_granuloma(rng, lung(4.0)) for _ in range(rng.integers(1, 3))]
        if rng.random() < 0.3:
            found.append(_callus(rng, ribs[rng.integers(len(ribs))]))
    return tuple(found)


def _vessel_end_on(rng: np.random.Generator, place: np.ndarray) -> Lump:
    radius = rng.uniform(1.5, 3.2)
    turn = shapes.rotation(*rng.normal(0, 12, 3))
    part = shapes.ellipsoid(place, (radius, rng.uniform(8, 14), radius), turn)
    return Lump("vessel end-on", place, (part,), matter.BLOOD - matter.LUNG, 2 * radius)


def _nipple(rng: np.random.Generator, place: np.ndarray) -> Lump:
    radius = rng.uniform(4, 6)
    part = shapes.ellipsoid(place, (radius, rng.uniform(1.5, 3.0), radius))
    return Lump("nipple", place, (part,), matter.SOFT, 2 * radius)


def _granuloma(rng: np.random.Generator, place: np.ndarray) -> Lump:
    radius = rng.uniform(1.0, 1.9)  # smaller than any nodule
    part = shapes.ellipsoid(place, radius * rng.uniform(0.8, 1.0, 3), _any_turn(rng))
    return Lump("granuloma", place, (part,), rng.uniform(0.6, 1.0) * matter.CORTICAL - matter.LUNG, 2 * radius)


def _callus(rng: np.random.Generator, place: np.ndarray) -> Lump:
    radius = rng.uniform(5, 8)
    part = shapes.ellipsoid(place, (radius, rng.uniform(3, 5), radius * rng.uniform(0.6, 0.9)), _any_turn(rng))
    return Lump("callus", place, (part,), 0.4 * (matter.CORTICAL - matter.SOFT), 2 * radius)


def _direction(rng: np.random.Generator) -> np.ndarray:
    way = rng.normal(size=3)
    return way / np.linalg.norm(way)


def _any_turn(rng: np.random.Generator) -> np.ndarray:
    """Return a rotation matrix, all turns alike likely."""
    q, r = np.linalg.qr(rng.normal(size=(3, 3)))
    return q * np.sign(np.diag(r))
