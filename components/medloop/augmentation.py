"""Changed copies of images, and of the masks or boxes that belong to them."""

from collections.abc import Iterator
from typing import Any

import cv2
import numpy as np

from medloop import imaging, params
from medloop.kinds import Part

NO_OTHER: Any = None  # OpenCV's second map, where the first holds both coordinates
KEPT = 0.3  # share of a box that must stay within the image: of less than that the copy says nothing
LATTICE = 3  # places along each side that an elastic deformation moves


def changed(
    images: np.ndarray,
    section: params.Augment,
    random: np.random.Generator,
    part: Part,
    masks: np.ndarray | None = None,
    boxes: np.ndarray | None = None,
) -> tuple[np.ndarray, np.ndarray | None, np.ndarray | None]:
    """Return changed copies of images (N, H, W, C) uint8, masks (N, H, W) and boxes (N, M, 5), each None as it came.

    The state of `random` decides. Geometry comes first, and alike for all: rotation, zoom, shift, crop and elastic
    deformation in one interpolation, linear for images and nearest for masks, edges repeated; then flips. Then images
    alone: contrast about the image's mean, and noise in units of the image's standard deviation.

    A box becomes the one around what it has become, cut at the edge; one of which less than a share of KEPT stays is
    left out.
    """
    if section.rotate_deg or section.zoom or section.shift or section.crop or section.elastic:
        images, masks, boxes = _moved(images, section, random, part, masks, boxes)
    for wanted, axis in ((section.flip_horizontal, 2), (section.flip_vertical, 1)):
        if wanted:
            chosen = random.random(part.count)[part.rows] < 0.5
            images = _flipped(images, chosen, axis)
            masks = None if masks is None else _flipped(masks, chosen, axis)
            boxes = None if boxes is None else _mirrored(boxes, chosen, axis, images.shape[axis])
    if section.contrast or section.noise:
        images = _graded(images, section, random, part)
    return images, masks, boxes


def _moved(
    images: np.ndarray,
    section: params.Augment,
    random: np.random.Generator,
    part: Part,
    masks: np.ndarray | None,
    boxes: np.ndarray | None,
) -> tuple[np.ndarray, np.ndarray | None, np.ndarray | None]:
    size = images.shape[1:3]
    matrices = list(_matrices(size, section, random, part))
    places = _places(size, section, random, part) if section.elastic else None
    moved, moved_masks = np.empty_like(images), None if masks is None else np.empty_like(masks)
    moved_boxes = None if boxes is None else np.zeros_like(boxes)
    for i, matrix in enumerate(matrices):
        bent = None if places is None else next(places)
        moved[i] = _warped(images[i], matrix, bent, cv2.INTER_LINEAR).reshape(images.shape[1:])
        if masks is not None and moved_masks is not None:
            moved_masks[i] = _warped(masks[i], matrix, bent, cv2.INTER_NEAREST)
        if boxes is not None and moved_boxes is not None:
            found = _bent(boxes[i], matrix, bent) if bent is not None else _turned(boxes[i], matrix)
            found = imaging.cut_boxes(found[boxes[i, :, 4] > 0], size, KEPT)
            moved_boxes[i, : len(found)] = found
    return moved, moved_masks, moved_boxes


def _matrices(
    size: tuple[int, ...], section: params.Augment, random: np.random.Generator, part: Part
) -> Iterator[np.ndarray]:
    """Yield for each image the (2, 3) matrix that leads from a place (x, y) in it to one in the copy."""
    height, width = size
    angle = random.uniform(-section.rotate_deg, section.rotate_deg, part.count)[part.rows]
    zoom = 1 + random.uniform(-section.zoom, section.zoom, part.count)[part.rows]
    shift = random.uniform(-section.shift, section.shift, (part.count, 2))[part.rows] * np.array([width, height])
    cut, place = np.zeros(len(angle)), np.zeros((len(angle), 2))
    if section.crop:
        cut = random.uniform(0, section.crop, part.count)[part.rows]
        place = random.random((part.count, 2))[part.rows]
    centre = ((width - 1) / 2, (height - 1) / 2)
    for i in range(len(angle)):
        matrix = cv2.getRotationMatrix2D(centre, float(angle[i]), float(zoom[i]))
        matrix[:, 2] += shift[i]
        if section.crop:  # what is kept becomes as large as all was; a pixel's centre lies half a pixel in
            before = 0.5 - place[i] * cut[i] * np.array([width, height])
            matrix = np.column_stack([matrix[:, :2], matrix[:, 2] + before]) / (1 - cut[i])
            matrix -= [[0, 0, 0.5], [0, 0, 0.5]]
        yield np.asarray(matrix)


def _places(
    size: tuple[int, ...], section: params.Augment, random: np.random.Generator, part: Part
) -> Iterator[np.ndarray]:
    """Yield for each copy the place (x, y) that each of its pixels comes from, (H, W, 2) float32.

    Source: Ronneberger et al., U-Net, 2015: random displacements on a coarse lattice, bicubic between them.
    """
    height, width = size
    drawn = random.uniform(-section.elastic, section.elastic, (part.count, LATTICE, LATTICE, 2))[part.rows]
    coarse = (drawn * np.array([width, height])).astype(np.float32)
    own = _own(size)
    return (own + cv2.resize(each, (width, height), interpolation=cv2.INTER_CUBIC) for each in coarse)


def _own(size: tuple[int, ...]) -> np.ndarray:
    """Return the place (x, y) of each pixel, (H, W, 2) float32."""
    height, width = size
    return np.dstack(np.meshgrid(np.arange(width, dtype=np.float32), np.arange(height, dtype=np.float32)))


def _warped(image: np.ndarray, matrix: np.ndarray, bent: np.ndarray | None, way: int) -> np.ndarray:
    height, width = image.shape[:2]
    if bent is None:
        return cv2.warpAffine(image, matrix, (width, height), flags=way, borderMode=cv2.BORDER_REPLICATE)
    source = cv2.transform(bent, cv2.invertAffineTransform(matrix))  # (H, W, 2)
    return cv2.remap(image, source, NO_OTHER, way, borderMode=cv2.BORDER_REPLICATE)


def _turned(boxes: np.ndarray, matrix: np.ndarray) -> np.ndarray:
    """Return the boxes (M, 5) around what a matrix makes of boxes; it speaks of middles of pixels, they of edges."""
    corners = boxes[:, [[0, 1], [2, 1], [2, 3], [0, 3]]].astype(np.float64) - 0.5  # (M, 4, 2)
    turned = corners @ matrix[:, :2].T + matrix[:, 2] + 0.5
    return np.column_stack([turned.min(axis=1), turned.max(axis=1), boxes[:, 4]])


def _bent(boxes: np.ndarray, matrix: np.ndarray, bent: np.ndarray) -> np.ndarray:
    """Return the boxes (M, 5) around the pixels of a copy that come out of boxes; of none of them, an empty one."""
    source = cv2.transform(bent, cv2.invertAffineTransform(matrix)) + 0.5  # (H, W, 2)
    size = bent.shape[1::-1]
    reach = float(np.abs(bent - _own(bent.shape[:2])).max()) + 1  # of a displacement: looked at is what lies so near
    around = _turned(boxes, matrix)
    low = np.clip(np.floor(around[:, :2] - reach), 0, size).astype(int).tolist()
    high = np.clip(np.ceil(around[:, 2:4] + reach), 0, size).astype(int).tolist()
    last = np.nextafter(boxes[:, 2:4].astype(np.float32), np.float32(-np.inf)).tolist()  # ends are exclusive
    found = np.zeros(boxes.shape)
    for place, ((x0, y0), (x1, y1)) in enumerate(zip(low, high, strict=True)):
        if x0 < x1 and y0 < y1:
            inside = cv2.inRange(source[y0:y1, x0:x1], tuple(boxes[place, :2].tolist()), tuple(last[place]))
            left, top, width, height = cv2.boundingRect(inside)
            if width:
                left, top = left + x0, top + y0
                found[place] = left, top, left + width, top + height, boxes[place, 4]
    return found


def _mirrored(boxes: np.ndarray, chosen: np.ndarray, axis: int, side: int) -> np.ndarray:
    """Return boxes (N, M, 5) with those of the `chosen` images (N,) mirrored along an axis of images, of a length."""
    low, high = (0, 2) if axis == 2 else (1, 3)
    mirrored = boxes.copy()
    mirrored[..., low], mirrored[..., high] = side - boxes[..., high], side - boxes[..., low]
    return np.where(chosen[:, None, None] & (boxes[..., 4:] > 0), mirrored, boxes)


def _flipped(images: np.ndarray, chosen: np.ndarray, axis: int) -> np.ndarray:
    return np.where(chosen.reshape(-1, *[1] * (images.ndim - 1)), np.flip(images, axis), images)


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
