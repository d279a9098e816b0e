"""What augmentation costs: milliseconds an image of 256 x 256, alone, with its mask and with 20 boxes, on one thread;
then its share of a training step of U-Net and detector, as the profiles dsb2018 and bccd have it, and with all of it.

    python tests/benchmarks/bench_augment.py

All are medians, of interleaved runs or of the steps that follow those in which a network is compiled.
"""

import statistics
import time
from collections.abc import Callable
from typing import Any

import cv2
import numpy as np

from medloop import params, workspace
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


STEPS = 12  # of each network, the first two in which it is compiled among them
OBJECTS = 20  # boxes of an image


def main(side: int = 256, batch: int = 16, runs: int = 15) -> None:
    """Print a row a section, then a row a profile."""
    cv2.setNumThreads(1)
    images, masks, boxes = _drawn((batch, side, side, 1))
    ways: dict[str, dict[str, np.ndarray]] = {"alone": {}, "masks": {"masks": masks}, "boxes": {"boxes": boxes}}
    taken: dict[tuple[str, str], list[float]] = {(name, way): [] for name in SECTIONS for way in ways}
    for _ in range(runs):
        for (name, way), times in taken.items():
            seconds = _timed(lambda name=name, way=way: augment(images, SECTIONS[name], _random(), **ways[way]))
            times.append(1e3 * seconds / batch)
    for name in SECTIONS:
        alone, with_masks, with_boxes = (statistics.median(taken[name, way]) for way in ways)
        print(f"{name:<55} {alone:6.2f} ms   with masks {with_masks:6.2f} ms   with boxes {with_boxes:6.2f} ms")
    for profile in ("dsb2018", "bccd"):
        own, most = shares(profile)
        print(f"{profile:10} {own:5.1%} of a training step, {most:5.1%} with all of the last row above")


def shares(profile: str) -> tuple[float, float]:
    """Return what share of the seconds of a training step the augmentation of its batch takes: its own, and most."""
    from medloop.training import backend

    content = params.check(workspace.effective(profile, []), where=profile)
    section = content.train
    backend.start(backend.select(section), 0)
    import keras

    from medloop import plugins, tasks
    from medloop.training import engine, network

    task, classes = plugins.load(tasks, content.base.task), ["nucleus"] if profile == "dsb2018" else ["a", "b", "c"]
    shape = (*content.preprocess.size_px, content.preprocess.channels)
    [architecture] = section.architectures
    spec = network.Spec(architecture, shape, task.outputs(classes), section.hyper[architecture], {"kind": "sample"})
    advance = engine.trainer(
        network.build(spec), keras.optimizers.AdamW(section.learning_rate), task.loss(section), loop=False
    )
    images, masks, boxes = _drawn((section.batch_size, *shape))
    drawn = {"masks": masks} if task.GIVES == "map" else {"boxes": boxes}
    [labels], weights = drawn.values(), np.ones((1, section.batch_size), np.float32)
    own, most, steps = [], [], []
    for _ in range(STEPS):
        own.append(_timed(lambda: augment(images, section.augment, _random(), **drawn)))
        most.append(_timed(lambda: augment(images, list(SECTIONS.values())[-1], _random(), **drawn)))
        steps.append(_timed(lambda: advance((images[None], labels[None], weights))))
    step = statistics.median(steps[2:])
    return statistics.median(own[2:]) / step, statistics.median(most[2:]) / step


def _drawn(shape: tuple[int, ...]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return images (N, H, W, C), masks (N, H, W) and boxes (N, OBJECTS, 5) of noise."""
    random, (count, height, width) = _random(), shape[:3]
    images = random.integers(0, 256, shape, np.uint8)
    masks = random.integers(0, 2, shape[:3], np.uint8)
    corner = random.uniform(0, min(height, width) - 40, (count, OBJECTS, 2))
    size = random.uniform(8, 40, (count, OBJECTS, 2))
    return images, masks, np.concatenate([corner, corner + size, np.ones((count, OBJECTS, 1))], -1).astype(np.float32)


def _timed(run: Callable[[], Any]) -> float:
    start = time.perf_counter()
    run()
    return time.perf_counter() - start


def _random() -> np.random.Generator:
    return np.random.default_rng(0)


if __name__ == "__main__":
    main()
