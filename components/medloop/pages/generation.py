"""The report on images for teaching: how they look beside real ones, how far they are from them, and from copies."""

import math
from collections.abc import Iterator, Mapping
from typing import Any

import cv2
import numpy as np
from matplotlib.figure import Figure

from medloop.answers import generation as answers
from medloop.evaluation import plots, wording
from medloop.study import Study
from medloop.tasks.generation import Predictions

JUDGED = ()
SIDE_PX = 132  # of one image in a picture of many
GAP_PX = 8
ROW = 4  # images beside each other
FIGURES = {
    "distances": "Distances to the nearest train image, of synthetic images and of train images",
    "kid": "KID to the test images, of synthetic and of train images",
    "auc": "AUC on the test images of a classifier trained on synthetic and on real images",
}
WORST_TITLE = "Nearest pairs"
WORST = (
    "The synthetic images that are nearest to a train image, the nearest first: left the synthetic one, right the "
    "train image."
)
EXAMPLE = "Of each class, above the line real train {units}, below it synthetic ones, which carry their mark."


def asked(card: Mapping[str, Any], choice: Mapping[str, Any]) -> list[tuple[str, str]]:  # noqa: ARG001
    """Return what was asked."""
    steps = f"{card['steps']} step{'s' * (card['steps'] > 1)}"
    if card["noise"] != 1:
        steps += f", beginning with {card['noise']:.0%} of the noise that it was trained with, as validation data chose"
    return [
        (
            "Task",
            f"{card['task']}: make {card['kind']}s of {' or '.join(card['classes'])}, each from a number in {steps}",
        ),
        ("Use", card["use"]),
        ("Mark", "each has a frame and the word SYNTHETIC in its picture, and a text in its file"),
    ]


def contents(metrics: Mapping[str, Any]) -> str:
    """Return how many test images each class has."""
    return ", ".join(f"{count} {name}" for name, count in metrics["n"]["classes"].items())


def shown(card: Mapping[str, Any]) -> tuple[str, ...]:  # noqa: ARG001
    """Return the metrics that a reader sees first, and by group."""
    return ("kid", "kid_train", "auc_synthetic")


def meanings(card: Mapping[str, Any], units: str = "images") -> dict[str, str]:  # noqa: ARG001
    """Return in one phrase what each metric is."""
    return {
        "kid": f"kernel distance of synthetic {units} to the test {units}, by the features of a classifier trained on "
        f"train {units}; 0: not to be told apart, and it may fall below by chance",
        "kid_train": f"the same distance of the train {units}: what real {units} reach",
        "kid_ratio": "the first over the second; none where the second is not above 0",
        "auc_synthetic": f"of a classifier trained on synthetic {units} alone, on test {units}",
        "auc_real": f"of the same classifier trained on train {units}",
        "auc_lost": "the second less the first, each resample on the same patients",
    }


def outcome(metrics: Mapping[str, Any], card: Mapping[str, Any], units: str = "images") -> list[str]:  # noqa: ARG001
    """Return what came out, in plain sentences."""
    test, near = metrics["test"], metrics["memorisation"]
    ratio, one = test["kid_ratio"], units.removesuffix("s")
    times = f"{wording.figure(ratio, 'kid_ratio')} times" if ratio["value"] is not None else "no multiple of"
    return [
        f"The distance (KID) of its {near['images']} {units} to the test {units} is "
        f"{wording.figure(test['kid'], 'kid')}, {times} that of the train {units}, "
        f"{wording.figure(test['kid_train'], 'kid_train')}.",
        f"A classifier that saw synthetic {units} alone tells the test {units} apart with an AUC of "
        f"{wording.figure(test['auc_synthetic'], 'auc')}, one that saw the train {units} with one of "
        f"{wording.figure(test['auc_real'], 'auc')}.",
        f"{near['near_train']} of {near['images']} synthetic {units} are too near to a train {one}: nearer than train "
        f"{units} are to each other at the 1% quantile, {near['limit']:.1f} gray levels of 255, or one picture with it "
        f"({near['copies_of_train']}). {near['near_test']} are so near to a test {one}, and "
        f"{wording.percent(near['near_of_validation'])} of the real validation {units} to a train one. "
        f"{near['train_copies']} train {units} have a copy among them, which counts as no neighbour.",
    ]


def broken(metrics: Mapping[str, Any]) -> str | None:
    """Return that the classifier by which images are compared tells nothing, or None."""
    real = metrics["test"]["auc_real"]
    if real["low"] is not None and real["low"] > 0.5:
        return None
    return "The classifier does not tell the real test images apart: distances by its features say little."


def small(metrics: Mapping[str, Any], units: str) -> str | None:
    """Return that the test set, or a class of it, is small, or None."""
    return wording.small_classes(metrics, units, 20)


def trust(metrics: Mapping[str, Any], choice: Mapping[str, Any]) -> str | None:  # noqa: ARG001
    """Return that images are too near to train images, that their classes are not told apart, or what none shows."""
    near = metrics["memorisation"]
    if near["near_train"]:
        return f"It memorises: {near['near_train']} of {near['images']} synthetic images are too near to a train image."
    learned = metrics["test"]["auc_synthetic"]
    if learned["low"] is not None and learned["low"] <= 0.5:
        return (
            "The synthetic images do not show what the classes differ in: a classifier that saw them alone is no "
            "better than chance."
        )
    return "No synthetic image shows a patient, and none shows what a disease can look like beyond the train images."


def tuned(choice: Mapping[str, Any]) -> str:  # noqa: ARG001
    """Return nothing: no more is chosen."""
    return ""


def names(predictions: Predictions) -> list[str]:
    """Return what each picture of `picture` is called."""
    study = _study(predictions)
    pairs = [f"{predictions.classes[study.labels[i]]}, seed {study.seeds[i]}" for i in study.pairs]
    return [*predictions.classes, *pairs]


def examples(predictions: Predictions) -> Iterator[tuple[int, str, str, dict[str, float]]]:
    """Yield a picture for each class: real and synthetic images."""
    for place, name in enumerate(predictions.classes):
        yield place, name, "real above, synthetic below", {}


def worst(predictions: Predictions) -> Iterator[tuple[int, str, str, dict[str, float]]]:
    """Yield the synthetic images by their distance to a train image, the nearest first."""
    study = _study(predictions)
    for number, place in enumerate(study.pairs):
        verdict = "one picture" if study.copied[place] else "too near" if study.near[place] else "apart"
        said = f"{study.distance[place]:.1f} gray levels, limit {study.limit:.1f}"
        yield len(predictions.classes) + number, verdict, said, {}


def picture(study: Study, place: int, card: Mapping[str, Any]) -> tuple[str, bytes]:
    """Return a PNG file: real and synthetic images of a class, or further on a synthetic image and its nearest one."""
    classes = len(card["classes"])
    if place >= classes:
        pair = place - classes
        images = [_marked(study.images[study.pairs[pair]]), _plain(study.paired[pair])]
        return "image/png", _file(_grid(images, 2))
    real, made = _grid([_plain(each) for each in study.shown[place]], ROW), _of_class(study, place)
    made = np.pad(made, ((0, 0), (0, real.shape[1] - made.shape[1]), (0, 0)), constant_values=255)
    line = np.zeros((3, real.shape[1], 3), np.uint8)
    return "image/png", _file(np.concatenate([real, line, made]))


def made(study: Study, classes: int) -> bytes:
    """Return a PNG file of synthetic images, marked: a few of each class below one another."""
    return _file(np.concatenate([_of_class(study, place) for place in range(classes)]))


def _of_class(study: Study, place: int) -> np.ndarray:
    """Return some synthetic images of a class, marked, as one picture."""
    own = study.images[study.labels == place]
    chosen = own[np.linspace(0, len(own), min(len(own), len(study.shown[place])), endpoint=False).astype(np.int64)]
    return _grid([_marked(each) for each in chosen], ROW)


def figures(predictions: Predictions, card: Mapping[str, Any]) -> dict[str, Figure]:  # noqa: ARG001
    """Return the figures by name."""
    found = {name: float(value[0]) for name, value in predictions.metrics().items()}
    return {
        "distances": distances(_study(predictions)),
        "kid": _bars("KID to test images", {"synthetic": found["kid"], "train": found["kid_train"]}),
        "auc": _bars("AUC on test images", {"synthetic": found["auc_synthetic"], "real": found["auc_real"]}, (0, 1)),
    }


def distances(study: Study) -> Figure:
    """Draw how far synthetic images and train images are from the nearest other train image; dashed, the limit."""
    figure, axes = plots.axes_of("Gray levels to the nearest train image", "Share of images", "Memorisation")
    both = study.distance, study.train_distance[np.isfinite(study.train_distance)]
    bins = np.linspace(0, max(float(each.max()) for each in both), 40)
    for name, each in zip(("synthetic", "train"), both, strict=True):
        axes.hist(each, bins=bins.tolist(), weights=np.full(len(each), 1 / len(each)), alpha=0.6, label=name)
    axes.axvline(study.limit, color="0.3", linewidth=1, linestyle="--", label="limit")
    axes.legend()
    return figure


def tables(predictions: Predictions) -> list[dict[str, Any]]:
    """Return how near the images are to train and to test images, as a table: title, note, header, rows."""
    study = _study(predictions)
    told = study.told()
    rows = [("train", f"{told['near_train']}", f"{told['nearest_train']:.1f}", f"{np.median(study.distance):.1f}")]
    if study.test is not None:
        middle = f"{np.median(study.test.distance):.1f}"
        rows.append(("test", f"{told['near_test']}", f"{told['nearest_test']:.1f}", middle))
    note = (
        f"Of {told['images']} synthetic images; root mean square over pixels, in gray levels of 255. Too near: below "
        f"{told['limit']:.1f}, which 1% of the train images keep from the nearest other one at most."
    )
    header = ("Nearest real image is of", "Too near", "Nearest", "Median")
    return [{"title": "Memorisation", "note": note, "header": header, "rows": rows}]


def _study(predictions: Predictions) -> Study:
    assert predictions.study is not None
    found: Study = predictions.study
    return found


def _bars(up: str, values: Mapping[str, float], limits: tuple[float, float] | None = None) -> Figure:
    figure, axes = plots.axes_of("Images", up, up, **({"ylim": limits} if limits else {}))
    drawn = [value if math.isfinite(value) else 0.0 for value in values.values()]
    axes.bar(list(values), drawn, color=["#d55e00", "#0072b2"])
    axes.axhline(0, color="0.3", linewidth=0.8)
    return figure


def _marked(pixels: np.ndarray) -> np.ndarray:
    """Return an image (H, W, C) with its visible mark, (SIDE_PX, SIDE_PX, 3) BGR."""
    image = cv2.imdecode(np.frombuffer(answers.marked(pixels, {}), np.uint8), cv2.IMREAD_COLOR)
    return cv2.resize(np.asarray(image), (SIDE_PX, SIDE_PX), interpolation=cv2.INTER_AREA)


def _plain(pixels: np.ndarray) -> np.ndarray:
    image = np.repeat(pixels, 3, axis=-1) if pixels.shape[-1] == 1 else pixels[..., ::-1]
    return cv2.resize(np.ascontiguousarray(image), (SIDE_PX, SIDE_PX), interpolation=cv2.INTER_NEAREST)


def _grid(images: list[np.ndarray], across: int) -> np.ndarray:
    """Return images (SIDE_PX, SIDE_PX, 3) as one, so many beside each other."""
    half = GAP_PX // 2
    framed = [np.pad(each, ((half, half), (half, half), (0, 0)), constant_values=255) for each in images]
    framed += [np.full_like(framed[0], 255)] * (-len(framed) % across)
    return np.vstack([np.hstack(framed[i : i + across]) for i in range(0, len(framed), across)])


def _file(image: np.ndarray) -> bytes:
    return bytes(cv2.imencode(".png", image)[1])
