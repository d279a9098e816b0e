"""Ribs, clavicles, shoulder blades and spine, as tubes and points. Lengths in mm; axes as in `shapes`."""

import numpy as np

from medloop.phantom import matter, shapes
from medloop.phantom.shapes import Points

RIBS = 10
STEP_MM = 2.0


def bones(rng: np.random.Generator, size: np.ndarray, age_years: float) -> tuple[Points, np.ndarray]:
    """Return the skeleton around lungs scaled by `size` (3,), and places on the ribs (N, 3)."""
    shell = rng.uniform(0.6, 0.95) * (1.1 - 0.004 * max(age_years - 40, 0))  # the old have thinner bones
    gap, first = rng.uniform(21.5, 25.5), rng.uniform(88, 98)
    drop, bend = rng.uniform(45, 75), rng.uniform(0.85, 1.15)
    height = rng.uniform(5.8, 7.6)
    paths = [
        _rib(side, first - gap * number + rng.normal(0, 1.5), drop * (0.55 + 0.06 * number), bend, size)
        for number in range(RIBS)
        for side in (-1, 1)
    ]
    up = np.array([0.0, 0.0, 1.0])
    parts = [shapes.tube(path, (height, 3.8), up, shell) for path in paths]
    parts += [shapes.tube(_clavicle(side, rng, size), (6.0, 5.0), up, 1.8 * shell) for side in (-1, 1)]
    parts += [_scapula(side, rng, size) for side in (-1, 1)]
    parts += [_spine(rng, size)]
    return shapes.joined(parts), np.concatenate([path[30:] for path in paths])


def _rib(side: int, start: float, drop: float, bend: float, size: np.ndarray) -> np.ndarray:
    """Return the middle line of a rib: from the spine round the lung, falling towards the front."""
    share = np.linspace(0, 1, 140)
    angle = np.radians(-88 + share * 150)  # of the way round, 0 at the side
    z = start - drop * (0.25 * np.sin(np.pi * share) * bend + share**1.3)
    width = np.sqrt(np.clip(1 - ((z + 70) / 192) ** 2, 0.05, 1))
    x = side * (20 + (50 + 70 * width - 20) * np.cos(angle) ** 0.8)
    y = (92 * width + 2) * np.sin(angle)
    return _even(np.stack([x, y, z], axis=1) * size)


def _clavicle(side: int, rng: np.random.Generator, size: np.ndarray) -> np.ndarray:
    share = np.linspace(0, 1, 60)
    rise = rng.uniform(5, 35)
    x = side * (16 + 135 * share)
    y = 62 - 70 * share + 10 * np.sin(2 * np.pi * share)
    z = 88 + rise * share + 7 * np.sin(2 * np.pi * share)
    return _even(np.stack([x, y, z], axis=1) * size)


def _scapula(side: int, rng: np.random.Generator, size: np.ndarray) -> Points:
    """Return a thin plate behind the ribs, turned out of the lung field as the shoulders are rolled forward."""
    u, v = (part.ravel() for part in np.meshgrid(np.arange(-26, 27, 2.0), np.arange(-60, 61, 2.0)))
    inside = (u / 26) ** 2 + (v / 60) ** 2 <= 1 - 0.5 * (v / 60) * (u / 26)
    u, v = u[inside], v[inside]
    thick = 2.5 + 4.5 * (np.abs(u + 26) < 8)  # mm; the outer border is stronger
    out = rng.uniform(138, 150)
    flat = np.stack([side * (out - 0.75 * u + 0.1 * v), -75 - 0.3 * u, 62 + v], axis=1) * size
    mass = thick * 4.0 * (matter.CORTICAL - matter.SOFT) / 2
    return Points(flat.astype(np.float32), mass.astype(np.float32))


def _spine(rng: np.random.Generator, size: np.ndarray) -> Points:
    """Return vertebrae with their discs between, spinous processes left out: a column of blocks with dense rims."""
    gap = rng.uniform(22, 26)
    curve = rng.normal(0, 4)
    z = np.arange(-200, 200, 2.0)
    phase = (z + rng.uniform(0, gap)) % gap / gap
    block = phase < 0.8
    rim = np.abs(np.where(phase < 0.4, phase, 0.8 - phase)) < 0.09  # end plates
    weight = np.where(block, np.where(rim, 2.2, 1.0), 0.15)
    x, y = (part.ravel() for part in np.meshgrid(np.arange(-17, 17.1, 2.0), (-10.0, 0.0, 10.0)))
    body = (x / 18) ** 2 + (y / 15) ** 2 <= 1
    x, y = x[body], y[body]
    bow = curve * np.sin(z / 90)
    places = np.stack(
        [
            (x[None] * (0.85 + 0.15 * rim[:, None]) + bow[:, None]).ravel(),
            np.repeat((y - 72)[None], len(z), 0).ravel(),
            np.repeat(z[:, None], len(x), 1).ravel(),
        ],
        axis=1,
    )
    each = 2.0 * 9.4 * 2.0 * (matter.TRABECULAR - matter.SOFT)
    return Points((places * size).astype(np.float32), np.repeat(weight * each, len(x)).astype(np.float32))


def _even(path: np.ndarray) -> np.ndarray:
    """Return `path` (N, 3) with its points STEP_MM apart."""
    travelled = np.concatenate([[0], np.cumsum(np.linalg.norm(np.diff(path, axis=0), axis=1))])
    wanted = np.arange(0, travelled[-1], STEP_MM)
    return np.stack([np.interp(wanted, travelled, axis) for axis in path.T], axis=1)
