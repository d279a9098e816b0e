"""Finds places for lumps in a patient. Lengths in mm; axes as in `shapes`."""

import numpy as np

from medloop.phantom import lumps, shapes
from medloop.phantom.lumps import Lump
from medloop.phantom.options import Options
from medloop.phantom.shapes import Ellipsoid

BREATH_MM = 14.0  # between the highest and the lowest stand of the diaphragm
CLEAR_MM = 4.0  # between two nodules
CANDIDATES = 256


class Room:
    """Finds places for lumps: in a lung, clear of organs and of the diaphragm at its highest."""

    def __init__(
        self,
        rng: np.random.Generator,
        lungs: tuple[Ellipsoid, Ellipsoid],
        organs: tuple[Ellipsoid, ...],
        domes: tuple[Ellipsoid, Ellipsoid],
    ) -> None:
        self._rng, self._lungs, self._organs = rng, lungs, organs
        self._taken: list[Lump] = []
        self._domes = [dome.moved((0, 0, BREATH_MM / 2)) for dome in domes]

    def nodule(self, options: Options) -> Lump:
        """Return a nodule apart from those before it; every eighth lies behind the heart."""
        low, high = options.diameter_mm
        diameter = low + (high - low) * self._rng.beta(*options.diameter_beta)
        behind = bool(self._rng.random() < 1 / 8)
        made = lumps.nodule(self._rng, self.place(diameter / 2, behind_heart=behind), float(diameter))
        self._taken.append(made)
        return made

    def place(self, radius: float, *, behind_heart: bool = False) -> np.ndarray:
        """Return a centre (3,) for a ball of `radius`; elsewhere, should there be no room behind the heart."""
        for attempt in range(100):
            side = int(self._rng.integers(2))
            lung = self._lungs[side]
            spread = 1 / np.abs(np.diag(lung.to_unit))
            found = lung.centre + self._rng.uniform(-1, 1, (CANDIDATES, 3)) * spread
            free = lung.grown(-radius - 2).holds(found)
            for organ in (*self._organs, self._domes[side]):
                free &= ~organ.grown(radius).holds(found)
            for other in self._taken:
                free &= np.linalg.norm(found - other.centre, axis=1) > other.diameter_mm / 2 + radius + CLEAR_MM
            if behind_heart and attempt < 20:
                heart = self._organs[0]
                level = np.column_stack([found[:, 0], np.full(len(found), heart.centre[1]), found[:, 2]])
                free &= heart.holds(level) & (found[:, 1] < heart.centre[1])
            if free.any():
                return found[int(np.argmax(free))]
        raise ValueError(f"no room in the lungs for a ball of {radius:.1f} mm")


def on_front(breasts: tuple[Ellipsoid, ...], skin: Ellipsoid, side: int, height: float) -> np.ndarray:
    """Return where the nipple of a side (-1: right) is: on the breast if there is one, else on the skin at `height`."""
    surface = breasts[(side + 1) // 2] if breasts else skin
    x, z = (surface.centre[0], surface.centre[2]) if breasts else (side * 88.0, height)
    forwards = shapes.Rays(np.array([[x], [0.0], [z]]), np.array([[0.0], [1.0], [0.0]]))
    _, leaves = shapes.spans(forwards, [surface])
    return np.array([x, leaves[0, 0], z])
