"""What a segmentation says of a test set, in numbers: areas, distances of edges, and objects, image by image.

Every figure is that of one image and one class; `overlap` says what holds for empty masks. Means over images and
classes are reported, and beside them what is pooled: of the pixels, or edge pixels, of all images together. HD95 is a
mean alone: a percentile of the edges of all images would be that of the largest objects.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pandas as pd

from medloop import instances, overlap, params
from medloop import predictions as parts

MEANS = ("dice", "iou", "hd95_px", "nsd_px", "hd95_mm", "nsd_mm", "average_precision_objects")
POOLED = ("dice_pooled", "iou_pooled", "nsd_px_pooled", "nsd_mm_pooled")
METRICS = (*MEANS, *POOLED)
SIZES_PX = (0, 25, 100, 400, 1600, 6400)  # areas from which on an object counts among those of a size
FOUND = 0.5  # IoU above which an object is found


@dataclass(frozen=True)
class Predictions(parts.Predictions):
    """What a model said of each image: areas in pixels of the array, distances in pixels or in mm; NaN: unknown."""

    labels: np.ndarray  # (N, C) true areas
    shared: np.ndarray  # (N, C) of true and predicted pixels
    areas: np.ndarray  # (N, C) predicted
    hd95_px: np.ndarray  # (N, C)
    nsd_px: np.ndarray  # (N, C)
    hd95_mm: np.ndarray  # (N, C)
    nsd_mm: np.ndarray  # (N, C)
    near_px: np.ndarray  # (N, C) pixels of both edges that are within the tolerance
    near_mm: np.ndarray  # (N, C)
    edges: np.ndarray  # (N, C) pixels of both edges
    average_precision_objects: np.ndarray  # (N, C)
    objects: np.ndarray  # (N, C) how many there are
    predicted_objects: np.ndarray  # (N, C)
    of_size: np.ndarray  # (N, sizes) objects from SIZES_PX on
    found_of_size: np.ndarray  # (N, sizes) those that are found
    classes: list[str]

    @property
    def dice(self) -> np.ndarray:
        """Dice (N, C)."""
        return overlap.dice(self.shared, self.areas, self.labels)

    @property
    def iou(self) -> np.ndarray:
        """IoU (N, C)."""
        return overlap.iou(self.shared, self.areas, self.labels)

    def frame(self) -> pd.DataFrame:
        """Return predictions.parquet: who, and each of the numbers of an image."""
        columns = {
            f"{'label' if name == 'labels' else name}_{i}": values[:, i]
            for name in (*_OF_CLASSES, *_OF_SIZES)
            for values in (getattr(self, name),)
            for i in range(values.shape[1])
        }
        return pd.concat([self.who().reset_index(drop=True), pd.DataFrame(columns)], axis=1)

    def by_label(self) -> dict[str, "Predictions"]:
        """Return what was said of each class, where there are several."""
        if len(self.classes) == 1:
            return {}
        return {
            name: replace(self, classes=[name], **{each: getattr(self, each)[:, i : i + 1] for each in _OF_CLASSES})
            for i, name in enumerate(self.classes)
        }

    def metrics(self, weights: np.ndarray | None = None) -> dict[str, np.ndarray]:
        """Return each of METRICS under each row of image weights (R, N); those in mm where every spacing is known."""
        weights = np.ones((1, len(self.labels))) if weights is None else weights
        total = weights.sum(axis=1)
        of_images = {name: getattr(self, name).mean(axis=1) for name in MEANS}
        found = {name: weights @ each / total for name, each in of_images.items() if np.isfinite(each).all()}
        pooled = [weights @ each for each in (self.shared, self.areas, self.labels)]  # (R, C)
        found |= {"dice_pooled": overlap.dice(*pooled).mean(axis=1), "iou_pooled": overlap.iou(*pooled).mean(axis=1)}
        edges = weights @ self.edges
        for unit, near in (("px", self.near_px), ("mm", self.near_mm)):
            if np.isfinite(near).all():
                share = np.divide(weights @ near, edges, out=np.ones_like(edges), where=edges > 0)
                found[f"nsd_{unit}_pooled"] = share.mean(axis=1)
        return found

    def counts(self) -> dict[str, Any]:
        """Return the number of images, of patients (None: unknown), of images with each class, and of objects."""
        having = (self.labels > 0).sum(axis=0).tolist()
        classes = dict(zip(self.classes, having, strict=True))
        return {**super().counts(), "classes": classes, "objects": int(self.objects.sum())}

    def too_small(self) -> str | None:
        """Return None: an image without any object counts too."""
        return None


_OF_CLASSES = (
    "labels",
    "shared",
    "areas",
    "hd95_px",
    "nsd_px",
    "hd95_mm",
    "nsd_mm",
    "near_px",
    "near_mm",
    "edges",
    "average_precision_objects",
    "objects",
    "predicted_objects",
)
_OF_SIZES = ("of_size", "found_of_size")


def measured(
    said: np.ndarray,
    mask: np.ndarray,
    objects: np.ndarray | None,
    spacing: tuple[float, float] | None,
    classes: int,
    section: params.Evaluate,
) -> dict[str, np.ndarray]:
    """Return the numbers of one image, each (C,) or (sizes,), by their name in `Predictions`.

    Args:
        said: (H, W) predicted class indices.
        mask: (H, W) true ones.
        objects: (H, W) numbers of the true objects, 0 for none; None: what hangs together is one.
        spacing: mm between rows and between columns; None: unknown.
        classes: how many there are without the background.
        section: says what edges tolerate.
    """
    shared, predicted, true = overlap.counts(mask, said, classes)
    each = [_of_class(mask == i, said == i, objects, spacing, section) for i in range(1, 1 + classes)]
    found = {name: np.array([one[name] for one in each], np.float64) for name in each[0] if name not in _OF_SIZES}
    sizes = {name: np.sum([one[name] for one in each], axis=0) for name in _OF_SIZES}
    return {"labels": true, "shared": shared, "areas": predicted, **found, **sizes}


def _of_class(
    truth: np.ndarray,
    said: np.ndarray,
    objects: np.ndarray | None,
    spacing: tuple[float, float] | None,
    section: params.Evaluate,
) -> dict[str, Any]:
    px = overlap.surfaces(truth, said, tolerance=section.tolerance_px)
    mm = overlap.Surfaces(np.nan, np.nan, np.nan, np.nan)
    if spacing:
        mm = overlap.surfaces(truth, said, tolerance=section.tolerance_mm, spacing=spacing)
    true = instances.components(truth) if objects is None else instances.renumbered(np.where(truth, objects, 0))
    match = instances.matches(true, instances.watershed(said))
    size, hit = np.searchsorted(SIZES_PX, match.areas, side="right") - 1, match.best > FOUND
    return {
        "hd95_px": px.hd95,
        "nsd_px": px.nsd,
        "hd95_mm": mm.hd95,
        "nsd_mm": mm.nsd,
        "near_px": px.near,
        "near_mm": mm.near,
        "edges": px.pixels,
        "average_precision_objects": instances.average_precision(match),
        "objects": len(match.areas),
        "predicted_objects": match.predicted,
        "of_size": np.bincount(size, minlength=len(SIZES_PX)),
        "found_of_size": np.bincount(size[hit], minlength=len(SIZES_PX)),
    }


def gathered(table: pd.DataFrame, numbers: Iterable[Mapping[str, np.ndarray]], card: Mapping[str, Any]) -> Predictions:
    """Return the `Predictions` of images of which `measured` gave the numbers; the table has a row for each."""
    rows = list(numbers)
    arrays = {name: np.stack([row[name] for row in rows]) for name in (*_OF_CLASSES, *_OF_SIZES)}
    return Predictions(table, classes=list(card["classes"]), **arrays)


def read(table: pd.DataFrame, card: Mapping[str, Any]) -> Predictions:
    """Return what predictions.parquet says."""
    count = len(card["classes"])
    arrays = {
        name: table[[f"{'label' if name == 'labels' else name}_{i}" for i in range(number)]].to_numpy()
        for names, number in ((_OF_CLASSES, count), (_OF_SIZES, len(SIZES_PX)))
        for name in names
    }
    return Predictions(table, classes=list(card["classes"]), **arrays)
