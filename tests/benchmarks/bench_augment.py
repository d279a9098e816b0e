"""What augmentation costs: milliseconds an image and mask of 256 x 256, medians of interleaved runs on one thread.

python tests/benchmarks/bench_augment.py
"""

import statistics
import time

import cv2
import numpy as np

from medloop.kinds.image import augment
from medloop.params import Augment

SECTIONS = {
    "flips": Augment(flip_horizontal=True, flip_vertical=True),
    "rotation, zoom, shift": Augment(rotate_deg=15, zoom=0.1, shift=0.05),
    "rotation, zoom, shift, crop": Augment(rotate_deg=15, zoom=0.1, shift=0.05, crop=0.2),
    "elastic": Augment(elastic=0.05),
    "contrast": Augment(contrast=0.2),
    "contrast, noise": Augment(contrast=0.2, noise=0.05),
    "flips, rotation, zoom, shift, crop, elastic, contrast": Augment(
        flip_horizontal=True,
        flip_vertical=True,
        rotate_deg=15,
        zoom=0.1,
        shift=0.05,
        crop=0.2,
        elastic=0.05,
        contrast=0.2,
    ),
}


def main(side: int = 256, batch: int = 16, runs: int = 15) -> None:
    """Print a row a section: without masks, and with them."""
    cv2.setNumThreads(1)
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (batch, side, side, 1), np.uint8)
    masks = rng.integers(0, 2, (batch, side, side), np.uint8)
    taken: dict[tuple[str, bool], list[float]] = {(name, with_): [] for name in SECTIONS for with_ in (False, True)}
    for _ in range(runs):
        for (name, with_), times in taken.items():
            start = time.perf_counter()
            augment(images, SECTIONS[name], np.random.default_rng(0), masks=masks if with_ else None)
            times.append(1e3 * (time.perf_counter() - start) / batch)
    for name in SECTIONS:
        alone, both = (statistics.median(taken[name, with_]) for with_ in (False, True))
        print(f"{name:<55} {alone:6.2f} ms   with masks {both:6.2f} ms")


if __name__ == "__main__":
    main()
