"""Shapes in 3D and how rays cross them: ellipsoids exactly, tubes as points that carry a volume. Lengths in mm.

Axes: x to the patient's left, y to the front, z up.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from medloop.phantom import matter

Lengths = Sequence[float] | np.ndarray

RING = 12  # points round the section of a tube


@dataclass(frozen=True)
class Ellipsoid:
    """All p with |to_unit (p - centre)| <= 1."""

    centre: np.ndarray  # (3,)
    to_unit: np.ndarray  # (3, 3)

    def grown(self, mm: float) -> "Ellipsoid":
        """Return the ellipsoid whose half axes are longer by `mm`."""
        stretch = np.linalg.norm(self.to_unit, axis=1)  # one over each half axis
        return Ellipsoid(self.centre, self.to_unit / (1 + mm * stretch)[:, None])

    def moved(self, by: Sequence[float]) -> "Ellipsoid":
        return Ellipsoid(self.centre + np.asarray(by), self.to_unit)

    def holds(self, points: np.ndarray) -> np.ndarray:
        """Tell for points (N, 3) which lie inside, (N,) bool."""
        u, v, w = self.to_unit.astype(points.dtype) @ (points.T - self.centre.astype(points.dtype)[:, None])
        return u * u + v * v + w * w <= 1


def ellipsoid(centre: Lengths, half_axes: Lengths, turn: np.ndarray | None = None) -> Ellipsoid:
    """Return the ellipsoid with `half_axes` along x, y, z, then turned by the rotation matrix `turn`."""
    straight = np.diag(1 / np.asarray(half_axes, float))
    return Ellipsoid(np.asarray(centre, float), straight if turn is None else straight @ turn.T)


def rotation(x_deg: float = 0.0, y_deg: float = 0.0, z_deg: float = 0.0) -> np.ndarray:
    """Return the (3, 3) matrix that turns about x, then y, then z."""
    (cx, cy, cz), (sx, sy, sz) = np.cos(angles := np.radians([x_deg, y_deg, z_deg])), np.sin(angles)
    about_x = np.array([[1, 0, 0], [0, cx, -sx], [0, sx, cx]])
    about_y = np.array([[cy, 0, sy], [0, 1, 0], [-sy, 0, cy]])
    about_z = np.array([[cz, -sz, 0], [sz, cz, 0], [0, 0, 1]])
    return about_z @ about_y @ about_x


@dataclass(frozen=True)
class Rays:
    """Straight lines origin + t * way; t in mm of the room, even where origin and way stand in a stretched body."""

    origin: np.ndarray  # (3, N)
    way: np.ndarray  # (3, N)


def spans(rays: Rays, shapes: Sequence[Ellipsoid]) -> tuple[np.ndarray, np.ndarray]:
    """Return where rays enter and leave each of K ellipsoids, t as (K, N) twice; equal where a ray misses."""
    matrices = np.stack([shape.to_unit for shape in shapes]).astype(rays.way.dtype)  # (K, 3, 3)
    offsets = np.stack([shape.to_unit @ shape.centre for shape in shapes]).astype(rays.way.dtype)  # (K, 3)
    way = matrices @ rays.way  # (K, 3, N)
    start = matrices @ rays.origin - offsets[:, :, None]
    square = (way * way).sum(axis=1)
    nearest = -(way * start).sum(axis=1) / square  # t of the closest approach
    half = np.sqrt(np.maximum(nearest**2 - ((start * start).sum(axis=1) - 1) / square, 0))
    return nearest - half, nearest + half


def union_length(near: np.ndarray, far: np.ndarray) -> np.ndarray:
    """Return the length (N,) that K intervals (K, N) cover together."""
    enters, leaves = _sorted(near), _sorted(far)
    length = leaves[-1] - enters[0]
    for begins, ended in zip(enters[1:], leaves[:-1], strict=True):
        length -= np.maximum(begins - ended, 0)  # as many have ended as have begun: nothing lies between
    return length


def _sorted(rows: np.ndarray) -> list[np.ndarray]:
    """Return K rows (N,) such that each column rises: for few long rows far quicker than numpy's sort along them."""
    ordered = list(rows)
    for last in range(len(ordered) - 1, 0, -1):
        for i in range(last):
            ordered[i], ordered[i + 1] = np.minimum(*ordered[i : i + 2]), np.maximum(*ordered[i : i + 2])
    return ordered


@dataclass(frozen=True)
class Points:
    """A body as points; the detector's pixels spread what each adds to the line integrals over its neighbourhood."""

    places: np.ndarray  # (N, 3) float32
    attenuation: np.ndarray  # (N,) float32, mm^2: attenuation coefficient per mm times mm^3

    def where(self, keep: np.ndarray) -> "Points":
        return Points(self.places[keep], self.attenuation[keep])


def joined(parts: Sequence[Points]) -> Points:
    """Return all points of `parts`."""
    return Points(np.concatenate([p.places for p in parts]), np.concatenate([p.attenuation for p in parts]))


def tube(path: np.ndarray, half_axes: tuple[float, float], up: np.ndarray, shell_mm: float) -> Points:
    """Return a bone in soft tissue along `path` (N, 3) with an elliptic section: a cortical shell around marrow.

    Args:
        path: the middle line, points not more than a pixel apart.
        half_axes: of the section, along `up` and across it.
        up: (3,) the direction of the first half axis.
        shell_mm: thickness of the shell.
    """
    step = np.gradient(path, axis=0)
    length = np.linalg.norm(step, axis=1)
    along = step / length[:, None]
    first = up - along * (along @ up)[:, None]
    first /= np.linalg.norm(first, axis=1)[:, None]
    second = np.cross(along, first)
    angle = np.arange(RING) * (2 * np.pi / RING)
    ring = np.stack([half_axes[0] * np.cos(angle), half_axes[1] * np.sin(angle)], axis=1)
    section = np.concatenate([ring, ring[::3] / 2])  # the shell, and a few points for what it holds
    outline = np.linalg.norm(np.roll(ring, -1, axis=0) - np.roll(ring, 1, axis=0), axis=1) / 2
    shell = outline * shell_mm * (matter.CORTICAL - matter.SOFT)
    inside = np.full(RING // 3, np.pi * half_axes[0] * half_axes[1] / (RING // 3) * (matter.TRABECULAR - matter.SOFT))
    places = path[:, None] + first[:, None] * section[:, :1] + second[:, None] * section[:, 1:]  # (N, 16, 3)
    mass = np.outer(length, np.concatenate([shell, inside]))
    return Points(places.reshape(-1, 3).astype(np.float32), mass.ravel().astype(np.float32))
