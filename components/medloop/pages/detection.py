"""The report on a detection: how well boxes are found and placed, at which cost in false ones, and how it looks."""

from collections.abc import Iterator, Mapping
from functools import partial
from typing import Any

import cv2
import numpy as np
from matplotlib.figure import Figure

from medloop.box_measures import IOUS, RATES, SIZES, Curve, Predictions, matched
from medloop.evaluation import objects, plots, wording
from medloop.evaluation.objects import small

__all__ = ["small"]

BROKEN = 0.0  # average precision
TRUE, RIGHT, WRONG = (0, 158, 115), (86, 180, 233), (213, 94, 0)  # RGB
JUDGED = ("sensitivity",)
BY_LABEL = ("map_50", "map", "froc", "sensitivity", "ppv")
FIGURES = {
    "froc": "FROC curve of each class on the test set",
    "precision_recall": "Precision and recall of each class on the test set",
    "sizes": "Share of the objects of each size that is found",
}
WORST = (
    "The test {units} with the most objects missed and false boxes, at the threshold. Green: a true box; blue: a "
    "predicted one that overlaps one of its class by an IoU of .5; orange: one that does not."
)
EXAMPLE = "Test {units} from the best to the worst, evenly chosen. Green: true boxes; blue: right ones; orange: others."


def asked(card: Mapping[str, Any], choice: Mapping[str, Any]) -> list[tuple[str, str]]:
    """Return what was asked."""
    return [
        ("Task", f"{card['task']}: boxes around each {' / '.join(card['classes'])} in an {card['kind']}"),
        (
            "Decision",
            f"a box counts where its score reaches {choice['threshold']:.2f}, the threshold of the highest F1 on "
            "validation data",
        ),
        objects.size(card, "its boxes come back in its own pixels"),
    ]


def contents(metrics: Mapping[str, Any]) -> str:
    """Return how many objects of each class there are, and in how many images."""
    n = metrics["n"]
    return ", ".join(f"{count:,} {name} in {n['classes'][name]}" for name, count in n["objects"].items())


def shown(card: Mapping[str, Any]) -> tuple[str, ...]:  # noqa: ARG001
    """Return the metrics that a reader sees first, and by group."""
    return ("map_50", "map", "froc")


def meanings(card: Mapping[str, Any], units: str = "images") -> dict[str, str]:
    """Return in one phrase what each metric is."""
    over = ", mean over classes" if len(card["classes"]) > 1 else ""
    one = wording.one(units)
    area = {name: f"{low**0.5:.0f}² to {high**0.5:.0f}²" for name, (low, high) in SIZES.items()}
    area["small"] = f"less than {SIZES['small'][1] ** 0.5:.0f}²"
    area["large"] = f"{SIZES['large'][0] ** 0.5:.0f}² or more"
    sized = {
        f"map_{name}": f"mAP@.5:.95 of objects of {text} pixels of area in their {units.removesuffix('s')}{over}"
        for name, text in area.items()
    }
    return {
        "map_50": f"area under the curve of precision and recall, as COCO has it; a box is right where it overlaps a "
        f"true one of its class by an IoU of .5 or more{over}",
        "map": f"the same, mean over {len(IOUS)} IoU from .5 to .95{over}",
        **sized,
        "froc": f"mean sensitivity at {', '.join(f'{rate:g}' for rate in RATES)} false boxes of the class {one}, at an "
        f"IoU of .5{over}",
        "sensitivity": f"share of the objects that are found at the threshold, at an IoU of .5{over}",
        "ppv": f"share of the boxes at the threshold that are right, at an IoU of .5{over}",
        "f1": "harmonic mean of these two",
        "false_positives": f"boxes at the threshold that are wrong, {one}, of all classes",
    }


def outcome(metrics: Mapping[str, Any], card: Mapping[str, Any], units: str = "images") -> list[str]:
    """Return what came out, in plain sentences."""
    test = metrics["test"]
    several = " of a class, in the mean over classes," if len(card["classes"]) > 1 else ","
    return [
        f"On test {units} its boxes reach a mAP@.5 of {wording.figure(test['map_50'], 'map_50')}.",
        f"At the threshold it finds {wording.of_100(test['sensitivity'])} of 100 objects{several} and draws "
        f"{wording.figure(test['false_positives'], 'false_positives')} false boxes {wording.one(units)}.",
    ]


def broken(metrics: Mapping[str, Any]) -> str | None:
    """Return that the model finds nothing, or None."""
    found = metrics["test"]["map_50"]["value"]
    return None if found is not None and found > BROKEN else "No box is right: something is wrong with the model."


def trust(metrics: Mapping[str, Any], choice: Mapping[str, Any]) -> str | None:  # noqa: ARG001
    """Return what a score is worth."""
    return "Scores rank boxes; they are not calibrated, and no probabilities."


def tuned(choice: Mapping[str, Any]) -> str:
    """Return the threshold."""
    return f", threshold {choice['threshold']:.2f}"


def worst(predictions: Predictions) -> Iterator[tuple[int, str, str, dict[str, float]]]:
    """Return the images by their wrong boxes and missed objects, most first."""
    return objects.told(np.argsort(-_wrong(predictions), kind="stable"), partial(_told, predictions))


def examples(predictions: Predictions) -> Iterator[tuple[int, str, str, dict[str, float]]]:
    """Return a few images from the best to the worst."""
    order = np.argsort(_wrong(predictions), kind="stable")
    return objects.told(objects.few(order), partial(_told, predictions))


def _at_threshold(predictions: Predictions) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return of each image (N,) the right boxes, the wrong ones, and the objects."""
    reached = (predictions.kinds > 0) & (predictions.scores >= predictions.threshold)
    right = (reached & (predictions.hits & 1 > 0)).sum(axis=1)
    return right, reached.sum(axis=1) - right, predictions.labels.sum(axis=1)


def _wrong(predictions: Predictions) -> np.ndarray:
    right, wrong, there = _at_threshold(predictions)
    return there - right + wrong


def _told(predictions: Predictions, place: int) -> tuple[str, str]:
    right, wrong, there = (int(each[place]) for each in _at_threshold(predictions))
    return f"{right} of {there} found", f"{wrong} false box{'es' * (wrong != 1)}"


def overlay(pixels: np.ndarray, true: np.ndarray, predicted: np.ndarray) -> tuple[str, bytes]:
    """Return a PNG file of pixels (H, W, C) uint8 with true boxes (M, 5) and detections (D, 6) in its pixels."""
    times = max(1, -(-objects.SIDE_PX // min(pixels.shape[:2])))
    image = objects.enlarged(objects.visible(pixels), times)
    hits, _, _ = matched(predicted, true, int(max(true[:, 4].max(initial=1), predicted[:, 5].max(initial=1))))
    coloured = [(box, TRUE) for box in true] + [
        (row, RIGHT if hit & 1 else WRONG) for row, hit in zip(predicted, hits, strict=True)
    ]
    for (x0, y0, x1, y1, *_), colour in coloured:
        first, last = (round(x0 * times), round(y0 * times)), (round(x1 * times) - 1, round(y1 * times) - 1)
        cv2.rectangle(image, first, last, colour, times)
    return objects.png(image)


def figures(predictions: Predictions, card: Mapping[str, Any]) -> dict[str, Figure]:  # noqa: ARG001
    """Return the figures by name."""
    return {"froc": froc(predictions), "precision_recall": precision_recall(predictions), "sizes": sizes(predictions)}


def _curves(predictions: Predictions) -> Iterator[tuple[str, Curve]]:
    """Yield the curve of each class that is there, at an IoU of .5."""
    one = np.ones((1, len(predictions.labels)))
    for place, name in enumerate(predictions.classes):
        if predictions.labels[:, place].any():
            yield name, Curve.of(predictions, place, 0, one)


def froc(predictions: Predictions) -> Figure:
    """Draw sensitivity against false boxes an image; dots, the threshold."""
    figure, axes = plots.axes_of("False boxes of the class an image", "Sensitivity", "FROC", ylim=(0, 1.02))
    axes.set_xscale("log", base=2)
    axes.set_xlim(RATES[0] / 2, RATES[-1] * 2)
    axes.set_xticks(RATES, [f"{rate:g}" for rate in RATES])
    for name, curve in _curves(predictions):
        wrong = (curve.said[0] - curve.right[0]) / curve.images[0]
        found = curve.right[0] / curve.there[0]
        wrong, found = np.append(wrong, RATES[-1] * 2), np.append(found, found.max(initial=0))
        (line,) = axes.step(np.maximum(wrong, RATES[0] / 2), found, where="post", label=name)
        if reached := int((curve.scores >= predictions.threshold).sum()):
            axes.plot(max(wrong[reached - 1], RATES[0] / 2), found[reached - 1], "o", color=line.get_color())
    axes.legend(loc="lower right")
    return figure


def precision_recall(predictions: Predictions) -> Figure:
    """Draw precision against recall."""
    limits = {"xlim": (0, 1.02), "ylim": (0, 1.02)}
    figure, axes = plots.axes_of("Recall", "Precision", "Precision and recall, IoU .5", **limits)
    for name, curve in _curves(predictions):
        precision = curve.right[0] / curve.said[0]
        axes.plot(curve.right[0] / curve.there[0], precision, label=f"{name}, AP {curve.average()[0]:.3f}")
    axes.legend(loc="lower left")
    return figure


def sizes(predictions: Predictions) -> Figure:
    """Draw the share of objects of each size that is found at the threshold, over how many there are."""
    rows = [row for row in _by_size(predictions) if row[1]]
    return objects.sizes(rows, "Area of the object", "Share found (IoU .5)")


def _by_size(predictions: Predictions) -> list[tuple[str, int, int]]:
    """Return for each of SIZES its name, the objects that there are, and those found at the threshold."""
    reached = (predictions.kinds > 0) & (predictions.scores >= predictions.threshold)
    there = predictions.of_size.reshape(len(predictions.labels), len(SIZES), -1).sum(axis=(0, 2))
    found = [int((reached & (predictions.sized >> (2 * len(IOUS) * i) & 1 > 0)).sum()) for i in range(len(SIZES))]
    return [(name, int(there[i]), found[i]) for i, name in enumerate(SIZES)]


def tables(predictions: Predictions) -> list[dict[str, Any]]:
    """Return what is found of objects of each size, as a table: title, note, header, rows."""
    average = {name: float(value[0]) for name, value in predictions.metrics().items()}
    rows = [
        (name, f"{there:,}", f"{found:,}", wording.percent(found / there), f"{average[f'map_{name}']:.3f}")
        for name, there, found in _by_size(predictions)
        if there
    ]
    edges = [f"{SIZES[name][1] ** 0.5:.0f}²" for name in ("small", "medium")]
    note = (
        f"Small is below {edges[0]} pixels of area in the image itself, large {edges[1]} or more, as COCO has it. "
        "Found: at the threshold, with an IoU of .5."
    )
    header = ("Area", "Objects", "Found", "Share", "mAP@.5:.95")
    return [{"title": "Objects by size", "note": note, "header": header, "rows": rows}]
