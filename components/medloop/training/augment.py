"""Random changes to training images that leave their meaning alone."""

import cv2
import numpy as np

from medloop import params


def augment(images: np.ndarray, section: params.Augment, random: np.random.Generator) -> np.ndarray:
    """Return changed copies of images (N, H, W, C) uint8; what they are is decided by the state of `random` alone.

    Geometry comes first (flips, then rotation, zoom and shift in one interpolation, edges repeated), then contrast
    about the image's mean, then noise in units of the image's standard deviation.
    """
    if section == params.Augment():
        return images
    if section.rotate_deg or section.zoom or section.shift:
        images = _moved(images, section, random)
    if section.flip_horizontal:
        images = _flipped(images, random, axis=2)
    if section.flip_vertical:
        images = _flipped(images, random, axis=1)
    if section.contrast or section.noise:
        images = _graded(images, section, random)
    return images


def _moved(images: np.ndarray, section: params.Augment, random: np.random.Generator) -> np.ndarray:
    count, (height, width, channels) = len(images), images.shape[1:]
    angle = random.uniform(-section.rotate_deg, section.rotate_deg, count)
    zoom = 1 + random.uniform(-section.zoom, section.zoom, count)
    shift = random.uniform(-section.shift, section.shift, (count, 2)) * np.array([width, height])
    centre = ((width - 1) / 2, (height - 1) / 2)
    moved = np.empty_like(images)
    for i in range(count):
        matrix = cv2.getRotationMatrix2D(centre, float(angle[i]), float(zoom[i]))
        matrix[:, 2] += shift[i]
        warped = cv2.warpAffine(images[i], matrix, (width, height), borderMode=cv2.BORDER_REPLICATE)
        moved[i] = warped.reshape(height, width, channels)
    return moved


def _flipped(images: np.ndarray, random: np.random.Generator, axis: int) -> np.ndarray:
    chosen = random.random(len(images)) < 0.5
    return np.where(chosen[:, None, None, None], np.flip(images, axis), images)


def _graded(images: np.ndarray, section: params.Augment, random: np.random.Generator) -> np.ndarray:
    factor = 1 + random.uniform(-section.contrast, section.contrast, (len(images), 1, 1, 1)).astype(np.float32)
    gray = images.astype(np.float32)
    mean, deviation = gray.mean(axis=(1, 2, 3), keepdims=True), gray.std(axis=(1, 2, 3), keepdims=True)
    gray = (gray - mean) * factor + mean
    if section.noise:
        gray += section.noise * deviation * random.standard_normal(gray.shape, np.float32)
    return np.clip(np.rint(gray), 0, 255).astype(np.uint8)
