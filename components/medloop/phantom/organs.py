"""The large organs of a patient, as ellipsoids. Lengths in mm; axes as in `shapes`."""

import numpy as np

from medloop.phantom.shapes import Ellipsoid, ellipsoid, rotation


def _scaled(shape: Ellipsoid, size: np.ndarray) -> Ellipsoid:
    return Ellipsoid(shape.centre * size, shape.to_unit / size)


def lungs(rng: np.random.Generator, size: np.ndarray) -> tuple[Ellipsoid, Ellipsoid]:
    """Return the right and the left lung, as if nothing else were in the chest."""
    lean, long = rng.uniform(4, 10), rng.uniform(172, 195)
    right, left = (
        _scaled(
            ellipsoid(
                (side * rng.uniform(63, 68), 0, -70), (rng.uniform(62, 68), 86, long), rotation(y_deg=-side * lean)
            ),
            size,
        )
        for side in (-1, 1)
    )
    return right, left


def domes(rng: np.random.Generator, size: np.ndarray) -> tuple[Ellipsoid, Ellipsoid]:
    """Return the right and the left dome of the diaphragm, the right one higher."""
    height = rng.normal(-100, 7)
    steep = rng.uniform(80, 110)
    right, left = (
        _scaled(ellipsoid((side * 63, 5, top - steep), (rng.uniform(68, 74), 95, steep)), size)
        for side, top in ((-1, height), (1, height - rng.uniform(4, 18)))
    )
    return right, left


def organs(rng: np.random.Generator, size: np.ndarray, age_years: int) -> tuple[Ellipsoid, ...]:
    """Return what leaves no room for lung: heart, mediastinum, aorta and the muscles beside the spine."""
    large = rng.uniform(0.88, 1.14)
    heart = ellipsoid(
        (rng.normal(20, 5), 38, -76 + rng.normal(0, 5)),
        large * np.array([rng.uniform(58, 68), 46, 48]),
        rotation(y_deg=rng.uniform(22, 42)),
    )
    knob = rng.uniform(13, 18) + 0.06 * max(age_years - 50, 0)
    shapes_ = (
        heart,
        ellipsoid((-14, 30, -25), (26, 35, rng.uniform(60, 75))),  # right atrium and superior vena cava
        ellipsoid((0, 8, 30), (rng.uniform(24, 30), 68, rng.uniform(125, 160))),  # mediastinum
        ellipsoid((16 + knob * 0.7, -18, 44), (knob, 30, knob)),  # arch of the aorta
        ellipsoid((20, -48, -60), (14, 14, 120)),  # descending aorta
        ellipsoid((0, -80, 0), (33, 36, 300)),  # beside the spine
    )
    return tuple(_scaled(shape, size) for shape in shapes_)


def trachea(rng: np.random.Generator, size: np.ndarray) -> tuple[Ellipsoid, ...]:
    """Return windpipe and main bronchi."""
    lean = rng.normal(0, 2)
    windpipe = ellipsoid((lean, -5, 100), (rng.uniform(7, 10), 9, 88), rotation(y_deg=lean))
    bronchi = (
        ellipsoid((side * 16, -5, 7), (22, 6, 6), rotation(y_deg=side * (32 if side < 0 else 25))) for side in (-1, 1)
    )
    return tuple(_scaled(shape, size) for shape in (windpipe, *bronchi))


def torso(
    rng: np.random.Generator, size: np.ndarray, sex: str
) -> tuple[tuple[Ellipsoid, ...], tuple[Ellipsoid, ...], tuple[Ellipsoid, ...]]:
    """Return muscle, skin and breasts."""
    wall, fat = rng.uniform(12, 20), rng.uniform(4, 24)
    slope = rng.uniform(18, 32)
    trunk = ellipsoid((0, 0, -130), (132 + wall, 96 + wall, 340))
    shoulders = [
        ellipsoid((side * 105, -15, 85), (98, 55, rng.uniform(42, 56)), rotation(y_deg=side * slope))
        for side in (-1, 1)
    ]
    neck = ellipsoid((0, -15, 190), (56, 58, 110))
    soft = tuple(_scaled(shape, size) for shape in (trunk, *shoulders, neck))
    breast = rng.uniform(12, 40)
    breasts = tuple(
        _scaled(ellipsoid((side * 78, 88 + wall + fat / 2, -85), (58, 12 + breast, 48 + breast / 2)), size)
        for side in ((-1, 1) if sex == "F" else ())
    )
    return soft, tuple(shape.grown(fat) for shape in soft), breasts
