"""What the devices of three sites make of the counts: collimation, logarithm, response curve, bits, photometry."""

from collections.abc import Callable
from dataclasses import dataclass

import cv2
import numpy as np

COMPRESSION = 0.95  # share of what is large that is taken away
LARGE = 0.05  # standard deviation, share of the image's side
MIDDLE, RANGE = 0.1, 1.0  # natural logarithms that become middle gray, and from black to white
READ_NOISE = 0.004  # standard deviation after the logarithmic amplifier, in natural logarithms


@dataclass(frozen=True)
class Site:
    """A site with its device; every image of it is made alike."""

    name: str
    bits: int
    photometric: str
    margin_mm: tuple[float, float]  # least and most that the collimator takes off a side
    shutter: bool  # what lies outside the collimated field is blackened, not shown unexposed
    window: tuple[float, float] | None  # centre and width for display, shares of the stored range
    response: Callable[[np.ndarray], np.ndarray]  # from 0..1 (bright is dense) to 0..1

    @property
    def stored_type(self) -> str:
        return "<u1" if self.bits == 8 else "<u2"


def _film(x: np.ndarray) -> np.ndarray:
    """Return the sigmoid of a film: flat at both ends."""
    return 0.5 + np.tanh(2 * (x - 0.5)) / (2 * np.tanh(1))


SITES = (
    Site("Site A (simulated)", 12, "MONOCHROME2", (0, 8), False, (0.5, 0.9), _film),
    Site("Site B (simulated)", 16, "MONOCHROME1", (4, 22), True, None, lambda x: x),
    Site("Site C (simulated)", 8, "MONOCHROME2", (4, 18), False, None, lambda x: x**0.8),
)


def collimation(site: Site, size_px: int, field_mm: float, rng: np.random.Generator) -> np.ndarray:
    """Return (H, W): the share of the beam that passes, 1 within four straight leaves and 0 outside."""
    pixel = (np.arange(size_px) + 0.5) * (field_mm / size_px)
    top, bottom, left, right = rng.uniform(*site.margin_mm, 4)
    rows = (pixel >= top) & (pixel <= field_mm - bottom)
    columns = (pixel >= left) & (pixel <= field_mm - right)
    return np.outer(rows, columns).astype(np.float64)


def stored(counts: np.ndarray, field: np.ndarray, site: Site, rng: np.random.Generator) -> np.ndarray:
    """Return the values that the site stores for counts (H, W): uint8 or uint16, MONOCHROME1 inverted.

    The amplifier takes the logarithm, then reading it out adds electronic noise; the device compresses the range of
    what is large so that lung and heart are seen together; brightness and contrast differ a little from image to image.
    """
    reference = np.quantile(counts[field > 0], 0.75)
    density = -np.log(np.maximum(counts, 1.0) / reference) + rng.normal(0, READ_NOISE, counts.shape)
    contrast, brightness = rng.uniform(0.93, 1.07), rng.normal(0, 0.03)
    shown = _compressed(density) * contrast + brightness
    shown = site.response(np.clip(0.5 + (shown - MIDDLE) / RANGE, 0, 1))
    if site.shutter:
        shown = np.where(field > 0, shown, 0.0)
    if site.photometric == "MONOCHROME1":
        shown = 1 - shown
    return np.floor(shown * (2**site.bits - 1) + 0.5).astype(site.stored_type)


def _compressed(density: np.ndarray) -> np.ndarray:
    """Return `density` with most of what is larger than LARGE taken away: the dynamic range compression of DR."""
    large = cv2.GaussianBlur(np.clip(density, -0.6, 2.0), (0, 0), len(density) * LARGE, borderType=cv2.BORDER_REPLICATE)
    return density - COMPRESSION * large
