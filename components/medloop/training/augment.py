"""Random changes to training images that leave their meaning alone."""

from dataclasses import dataclass

import cv2
import numpy as np

from medloop import params


@dataclass(frozen=True)
class Part:
    """Which of `count` images are at hand: random numbers are drawn for all, so that a part changes as in the whole."""

    count: int
    rows: slice


def augment(
    images: np.ndarray, section: params.Augment, random: np.random.Generator, part: Part | None = None
) -> np.ndarray:
    """Return changed copies of images (N, H, W, C) uint8; what they are is decided by the state of `random` alone.

    Geometry comes first (flips, then rotation, zoom and shift in one interpolation, edges repeated), then contrast
    about the image's mean, then noise in units of the image's standard deviation. `part`: of which whole they are.
    """
    if section == params.Augment():
        return images
    part = part or Part(len(images), slice(None))
    if section.rotate_deg or section.zoom or section.shift:
        images = _moved(images, section, random, part)
    if section.flip_horizontal:
        images = _flipped(images, random, part, axis=2)
    if section.flip_vertical:
        images = _flipped(images, random, part, axis=1)
    if section.contrast or section.noise:
        images = _graded(images, section, random, part)
    return images


def _moved(images: np.ndarray, section: params.Augment, random: np.random.Generator, part: Part) -> np.ndarray:
    height, width, channels = images.shape[1:]
    angle = random.uniform(-section.rotate_deg, section.rotate_deg, part.count)[part.rows]
    zoom = 1 + random.uniform(-section.zoom, section.zoom, part.count)[part.rows]
    shift = random.uniform(-section.shift, section.shift, (part.count, 2))[part.rows] * np.array([width, height])
    centre = ((width - 1) / 2, (height - 1) / 2)
    moved = np.empty_like(images)
    for i in range(len(images)):
        matrix = cv2.getRotationMatrix2D(centre, float(angle[i]), float(zoom[i]))
        matrix[:, 2] += shift[i]
        warped = cv2.warpAffine(images[i], matrix, (width, height), borderMode=cv2.BORDER_REPLICATE)
        moved[i] = warped.reshape(height, width, channels)
    return moved


def _flipped(images: np.ndarray, random: np.random.Generator, part: Part, axis: int) -> np.ndarray:
    chosen = random.random(part.count)[part.rows] < 0.5
    return np.where(chosen[:, None, None, None], np.flip(images, axis), images)


def _graded(images: np.ndarray, section: params.Augment, random: np.random.Generator, part: Part) -> np.ndarray:
    drawn = random.uniform(-section.contrast, section.contrast, (part.count, 1, 1, 1))[part.rows]
    factor = 1 + drawn.astype(np.float32)
    gray = images.astype(np.float32)
    mean, deviation = gray.mean(axis=(1, 2, 3), keepdims=True), gray.std(axis=(1, 2, 3), keepdims=True)
    gray = (gray - mean) * factor + mean
    if section.noise:
        noise = random.standard_normal((part.count, *gray.shape[1:]), np.float32)[part.rows]
        gray += section.noise * deviation * noise
    return np.clip(np.rint(gray), 0, 255).astype(np.uint8)
