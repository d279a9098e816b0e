"""The report on a segmentation: how well masks agree, which sizes of objects are found, and how it looks."""

from collections.abc import Iterator, Mapping
from functools import partial
from typing import Any

import cv2
import numpy as np
from matplotlib.figure import Figure

from medloop.evaluation import objects, plots, wording
from medloop.evaluation.objects import small
from medloop.mask_measures import FOUND, SIZES_PX, Predictions

__all__ = ["small"]

BROKEN = 0.0  # Dice
TRUE, PREDICTED = (0, 158, 115), (213, 94, 0)  # RGB
JUDGED = ()
BY_LABEL = ("dice", "iou", "hd95_px", "nsd_px")
FIGURES = {
    "dice": "Distribution of Dice over the test images",
    "sizes": "Share of the objects of each size that is found",
    "areas": "Predicted against true areas of the test images",
}
WORST = "The test {units} with the lowest Dice. Green: the edge of the true mask; orange: that of the predicted one."
EXAMPLE = "Test {units} from the lowest Dice to the highest, evenly chosen. Green: true edge; orange: predicted."


def asked(card: Mapping[str, Any], choice: Mapping[str, Any]) -> list[tuple[str, str]]:
    """Return what was asked."""
    classes = ", ".join(card["classes"])
    how = (
        f"{card['classes'][0]} where its probability reaches {choice['threshold']:.3f}, the threshold of the highest "
        "Dice on validation data"
        if choice["threshold"] is not None
        else "the likeliest class"
    )
    return [
        ("Task", f"{card['task']}: which pixels of each {card['kind']} are of {classes}"),
        ("Decision", how),
        objects.size(card, "its mask comes back at its own size"),
    ]


def contents(metrics: Mapping[str, Any]) -> str:
    """Return how many images have each class, and how many objects there are."""
    n = metrics["n"]
    having = ", ".join(f"{count} with {name}" for name, count in n["classes"].items())
    return f"{having}; {n['objects']:,} objects"


def shown(card: Mapping[str, Any]) -> tuple[str, ...]:  # noqa: ARG001
    """Return the metrics that a reader sees first, and by group."""
    return ("dice", "iou", "hd95_px")


def meanings(card: Mapping[str, Any], units: str = "images") -> dict[str, str]:
    """Return in one phrase what each metric is."""
    several = ", itself a mean over classes" if len(card["classes"]) > 1 else ""
    one = wording.one(units)
    return {
        "dice": f"twice the shared area over the sum of both, mean over {units}{several}; {one} without an object, and "
        "without a predicted one, counts 1",
        "iou": f"the shared area over the joint one, mean over {units}{several}",
        "dice_pooled": f"Dice of the pixels of all {units} together",
        "iou_pooled": f"IoU of the pixels of all {units} together",
        "hd95_px": f"distance in pixels of the model's input within which 95% of either edge has the other, mean over "
        f"{units}; where only one of both masks is empty, the diagonal",
        "hd95_mm": "the same in mm",
        "nsd_px": "share of both edges that has the other within the tolerance (evaluate.tolerance_px), mean over "
        f"{units}",
        "nsd_mm": "the same with a tolerance in mm (evaluate.tolerance_mm)",
        "nsd_px_pooled": f"that share of the edges of all {units} together",
        "nsd_mm_pooled": "the same with a tolerance in mm",
        "average_precision_objects": "of single objects, cut apart by watershed: TP / (TP + FP + FN), mean over "
        f"overlaps of .5 to .95 and over {units}, as the 2018 Data Science Bowl has it",
    }


def outcome(metrics: Mapping[str, Any], card: Mapping[str, Any], units: str = "images") -> list[str]:  # noqa: ARG001
    """Return what came out, in plain sentences."""
    test = metrics["test"]
    return [
        f"On test {units} its masks agree with the true ones by a Dice of {wording.figure(test['dice'], 'dice')}.",
        f"Single objects are told apart with an average precision of "
        f"{wording.figure(test['average_precision_objects'], 'average_precision_objects')}.",
    ]


def broken(metrics: Mapping[str, Any]) -> str | None:
    """Return that the model finds nothing, or None."""
    pooled = metrics["test"]["dice_pooled"]
    if pooled["value"] is not None and pooled["value"] > BROKEN:
        return None
    return "No predicted pixel is right: something is wrong with the model."


def trust(metrics: Mapping[str, Any], choice: Mapping[str, Any]) -> str | None:  # noqa: ARG001
    """Return what an area is worth."""
    if not choice["calibrated"]:
        return "The probabilities are not calibrated: validation data gave no temperature."
    return None


def tuned(choice: Mapping[str, Any]) -> str:
    """Return temperature and threshold."""
    threshold = "" if choice["threshold"] is None else f", threshold {choice['threshold']:.3f}"
    return f", calibration temperature {choice['temperature']:.3f}{threshold}"


def worst(predictions: Predictions) -> Iterator[tuple[int, str, str, dict[str, float]]]:
    """Return the images by their Dice, the lowest first."""
    return objects.told(_by_dice(predictions), partial(_told, predictions))


def examples(predictions: Predictions) -> Iterator[tuple[int, str, str, dict[str, float]]]:
    """Return a few images from the lowest Dice to the highest."""
    return objects.told(objects.few(_by_dice(predictions)), partial(_told, predictions))


def _by_dice(predictions: Predictions) -> np.ndarray:
    return np.argsort(predictions.dice.mean(axis=1), kind="stable")


def _told(predictions: Predictions, place: int) -> tuple[str, str]:
    true, said = int(predictions.labels[place].sum()), int(predictions.areas[place].sum())
    found, objects = int(predictions.found_of_size[place].sum()), int(predictions.objects[place].sum())
    text = f"true {true:,} pixels, predicted {said:,}; {found} of {objects} objects found"
    return f"Dice {predictions.dice[place].mean():.3f}", text


def overlay(pixels: np.ndarray, true: np.ndarray, predicted: np.ndarray) -> tuple[str, bytes]:
    """Return a PNG file of pixels (H, W, C) uint8 with the edges of a true and a predicted mask (H, W)."""
    times = max(1, objects.SIDE_PX // min(pixels.shape[:2]))
    image, true, predicted = (objects.enlarged(each, times) for each in (objects.visible(pixels), true, predicted))
    for mask, colour in ((true, TRUE), (predicted, PREDICTED)):
        for value in np.unique(mask[mask > 0]):
            lines, _ = cv2.findContours((mask == value).astype(np.uint8), cv2.RETR_LIST, cv2.CHAIN_APPROX_NONE)
            cv2.drawContours(image, lines, -1, colour, 1)
    return objects.png(image)


def figures(predictions: Predictions, card: Mapping[str, Any]) -> dict[str, Figure]:
    """Return the figures by name."""
    return {"dice": dice(predictions), "sizes": sizes(predictions), "areas": areas(predictions, card)}


def dice(predictions: Predictions) -> Figure:
    """Draw how often a Dice comes; dashed, its median."""
    figure, axes = plots.axes_of("Dice", "Test images", "Distribution of Dice", xlim=(0, 1))
    found = predictions.dice
    axes.hist(list(found.T), bins=np.linspace(0, 1, 41).tolist(), stacked=True, label=predictions.classes)
    axes.axvline(float(np.median(found)), color="0.4", linewidth=1, linestyle="--")
    if len(predictions.classes) > 1:
        axes.legend(loc="upper left")
    return figure


def sizes(predictions: Predictions) -> Figure:
    """Draw the share of objects of each size that is found, over how many there are."""
    return objects.sizes(_by_size(predictions), "Area in pixels", f"Share found (IoU above {FOUND:g})", rotation=30)


def _by_size(predictions: Predictions) -> list[tuple[str, int, int]]:
    """Return for each of SIZES_PX that there is its areas, the objects that there are, and those that are found."""
    there, found = predictions.of_size.sum(axis=0), predictions.found_of_size.sum(axis=0)
    return [(between(i), int(there[i]), int(found[i])) for i in range(len(SIZES_PX)) if there[i]]


def between(place: int) -> str:
    """Return which areas an entry of SIZES_PX stands for."""
    low = SIZES_PX[place]
    if place == len(SIZES_PX) - 1:
        return f"{low:,} and more"
    return f"below {SIZES_PX[1]:,}" if not place else f"{low:,} to {SIZES_PX[place + 1] - 1:,}"


def areas(predictions: Predictions, card: Mapping[str, Any]) -> Figure:
    """Draw the predicted area of each image against the true one, as shares of the image; dashed, where they agree."""
    figure, axes = plots.axes_of("True share of the image", "Predicted share", "Areas")
    pixels = float(np.prod(card["input_shape"][:2]))
    most = max(1.0, float(predictions.labels.max()), float(predictions.areas.max())) / pixels
    axes.plot([0, most], [0, most], color="0.6", linewidth=1, linestyle="--")
    for i, name in enumerate(predictions.classes):
        axes.plot(predictions.labels[:, i] / pixels, predictions.areas[:, i] / pixels, ".", alpha=0.6, label=name)
    if len(predictions.classes) > 1:
        axes.legend(loc="upper left")
    return figure


def tables(predictions: Predictions) -> list[dict[str, Any]]:
    """Return what is found of objects of each size, as a table: title, note, header, rows."""
    rows = [
        (name, f"{there:,}", f"{found:,}", wording.percent(found / there))
        for name, there, found in _by_size(predictions)
    ]
    note = (
        f"An object is found where a predicted one, cut apart by watershed, covers it with an IoU above {FOUND:g}. "
        "Areas are in pixels of the model's input."
    )
    return [{"title": "Objects by size", "note": note, "header": ("Area", "Objects", "Found", "Share"), "rows": rows}]
