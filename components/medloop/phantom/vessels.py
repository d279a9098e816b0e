"""The branching vessel trees of the lungs, as points. Lengths in mm; axes as in `shapes`."""

import numpy as np

from medloop.phantom import matter
from medloop.phantom.shapes import Points

GENERATIONS = 7
STEP_MM = 2.0
NARROWING = 0.77  # of the radius at each fork, near Murray's 2^(-1/3)


def tree(rng: np.random.Generator, side: int, size: np.ndarray) -> Points:
    """Return arteries and veins of the lung on `side` (-1: right), grown from its hilum; some points lie outside it."""
    starts = 11
    place = np.array([side * 30.0, -5.0, 2.0 if side > 0 else -4.0]) + rng.normal(0, (4, 10, 9), (starts, 3))
    way = rng.normal(0, 0.35, (starts, 3)) + np.stack(
        [
            side * rng.uniform(0.25, 1.0, starts),
            rng.uniform(-0.7, 0.7, starts),
            np.linspace(-1.3, 1.1, starts) + rng.normal(0, 0.15, starts),
        ],
        axis=1,
    )
    radius = rng.uniform(3.0, 5.2, starts)
    parts = []
    for _ in range(GENERATIONS):
        way /= np.linalg.norm(way, axis=1)[:, None]
        length = radius * rng.uniform(5.0, 8.5, len(radius)) + 3
        parts.append(_segments(place, way, length, radius))
        end = place + way * length[:, None]
        aside = np.cross(way, rng.normal(size=way.shape))
        aside /= np.linalg.norm(aside, axis=1)[:, None]
        spread = rng.uniform(0.25, 0.75, (2, len(radius), 1))
        way = np.concatenate([way + spread[0] * aside, way - spread[1] * aside])
        place, radius = np.concatenate([end, end]), np.concatenate([radius, radius])
        radius = radius * NARROWING * rng.uniform(0.85, 1.15, len(radius))
    places, mass = (np.concatenate(part) for part in zip(*parts, strict=True))
    return Points((places * size).astype(np.float32), mass.astype(np.float32))


def _segments(
    place: np.ndarray, way: np.ndarray, length: np.ndarray, radius: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Return points (M, 3) along straight vessels, and what each attenuates, mm^2."""
    count = np.maximum(np.ceil(length / STEP_MM).astype(int), 1)
    owner = np.repeat(np.arange(len(count)), count)
    index = np.arange(len(owner)) - np.repeat(np.cumsum(count) - count, count)
    along = (index + 0.5) / count[owner]
    middle = place[owner] + way[owner] * (along * length[owner])[:, None]
    mass = np.pi * radius[owner] ** 2 * (length / count)[owner] * (matter.BLOOD - matter.LUNG)
    if radius.mean() < 1.6:  # thinner than a pixel: the middle line is enough
        return middle, mass
    across = np.cross(way, [0.0, 1.0, 0.0])
    across /= np.maximum(np.linalg.norm(across, axis=1), 0.2)[:, None]
    other = np.cross(way, across)
    section = [(0.0, 0.0)] + [(0.72 * np.cos(a), 0.72 * np.sin(a)) for a in np.arange(6) * np.pi / 3]
    places = [middle + (across[owner] * u + other[owner] * v) * radius[owner][:, None] for u, v in section]
    return np.concatenate(places), np.tile(mass / len(section), len(section))
