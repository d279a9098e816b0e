"""A class for every pixel: loss, gating metric, and the metrics of a report.

Maps of logits are large, so that no set of them is ever held: of each image a few numbers are kept, `reduced` from its
map while that is there. Wherever tasks speak of the labels of samples, here it is the true area of each class (N, C),
in pixels; and what is said of samples (N, 2 C) is the area that truth and prediction share, and the predicted one.

`mask_measures` has the metrics of a report, image by image and class by class.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import cv2
import numpy as np

from medloop import mask_measures, overlap, params
from medloop.amounts import fitted, rarest, scaled, too_few
from medloop.answers import segmentation as answers
from medloop.calibration import TEMPERATURES
from medloop.errors import Refused
from medloop.mask_measures import METRICS, Predictions, gathered, read

__all__ = ["METRICS", "Predictions", "fitted", "gathered", "rarest", "read", "scaled", "too_few"]

GIVES = "map"
KINDS = ("image",)
NUMBERS = False
GATE = "dice"
CENTRED = ()
HEATS = np.geomspace(*TEMPERATURES, 65)  # temperatures that are tried
MARGINS = np.linspace(-6, 6, 49)  # logits of the one class less those of the background, that thresholds are tried at
NO_MARGIN = len(MARGINS) // 2
STRIDE = 4  # pixels, along both axes, between those that the temperature is chosen by


def check(facts: Mapping[str, Any]) -> None:
    """Raise Refused for a data set without masks, or without a name for what they show."""
    if not facts.get("masks") or not facts.get("classes"):
        raise Refused(
            f"task segmentation needs a mask for every {facts.get('kind', 'image')}, and a name for each of its "
            f"classes; source {facts.get('source')!r} gives none: choose another task (base.task) or source"
        )


def outputs(classes: Sequence[str]) -> int:
    """Return the number of logits of a pixel: the background's and one for each class; raise Refused for no class."""
    if not classes:
        raise Refused("segmentation needs at least one class beside the background, got none")
    return 1 + len(classes)


def loss(section: params.Train | None = None) -> Any:
    """Return the loss of masks (B, H, W), logits (B, H, W, 1 + C) and image weights (B,) or none; see `losses.of_maps`.

    None: with cross-entropy, as on validation data. `train.class_weights` has no part in it: in Dice every class counts
    the same.

    Raises:
        Refused: a parameter asks for what only one class an image knows.
    """
    from medloop.networks import losses

    section = section or params.Train()
    plain = {"mixup": 0, "sampling": "natural"}
    if other := [f"train.{name}: {value}" for name, value in plain.items() if getattr(section, name) != value]:
        raise Refused(f"task segmentation has a class for every pixel, not for an image: set {', '.join(other)}")
    return losses.of_maps(section)


def areas(masks: np.ndarray, classes: int) -> np.ndarray:
    """Return the pixels (N, C) int64 of each class of masks (N, H, W)."""
    one = (masks[place : place + 1].ravel() for place in range(len(masks)))  # masks may be mapped
    return np.stack([np.bincount(mask, minlength=1 + classes)[1:] for mask in one]).astype(np.int64)


def reduced(logits: np.ndarray, masks: np.ndarray) -> np.ndarray:
    """Return the numbers (B, K) that are kept of logits (B, H, W, 1 + C) on images with `masks` (B, H, W).

    First the mean cross-entropy under each of HEATS, over every STRIDE-th pixel; then for each class the area that
    truth and prediction share, and the predicted one: of the likeliest class, or with one class under each of MARGINS.
    Where a logit is no number, all are NaN.
    """
    return np.stack([_reduced(*pair) for pair in zip(logits, masks, strict=True)])


def _reduced(logits: np.ndarray, mask: np.ndarray) -> np.ndarray:
    classes = logits.shape[-1] - 1
    few = logits[::STRIDE, ::STRIDE].reshape(-1, 1 + classes).astype(np.float64)
    truth = mask[::STRIDE, ::STRIDE].ravel()
    away = few - few[np.arange(len(few)), truth][:, None]  # from the logit of the true class
    lost = [np.logaddexp.reduce(away / heat, axis=1).mean() for heat in HEATS]
    if classes == 1:
        counted = _at_margins(logits[..., 1] - logits[..., 0], mask > 0)
    else:
        shared, predicted, _ = overlap.counts(mask, logits.argmax(axis=-1), classes)
        counted = np.concatenate([shared, predicted])
    found = np.concatenate([lost, counted])
    return found if np.isfinite(logits).all() else np.full_like(found, np.nan)


def _at_margins(margin: np.ndarray, truth: np.ndarray) -> np.ndarray:
    """Return how many true pixels, and how many in all, (2 M,), reach each of MARGINS."""
    place = np.searchsorted(MARGINS, margin.ravel(), side="right")  # how many are reached
    here, hits = (np.bincount(each, minlength=1 + len(MARGINS)) for each in (place, place[truth.ravel()]))
    return np.concatenate([np.cumsum(each[::-1])[::-1][1:] for each in (hits, here)])


def said(outputs: np.ndarray, card: Mapping[str, Any]) -> np.ndarray:
    """Return what each image shares with the truth, and the predicted area (N, 2 C), of the numbers of `reduced`."""
    counted = outputs[:, len(HEATS) :]
    if len(card["classes"]) > 1:
        return counted
    margin = card.get("operating_point", {}).get("margin", 0.0)
    return counted.reshape(len(outputs), 2, -1)[:, :, int(np.abs(MARGINS - margin).argmin())]


def score(labels: np.ndarray, said: np.ndarray) -> float:
    """Return the gating metric, mean Dice of images, of `said` (N, 2 C) for true areas (N, C).

    Raises:
        Refused: one is no number.
    """
    if bad := int((~np.isfinite(said).all(axis=1)).sum()):
        raise Refused(f"predictions must be finite numbers, those of {bad} of {len(said)} images are not")
    return float(gate(labels, said, np.ones((1, len(labels))))[0])


def gate(labels: np.ndarray, said: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """Return the mean over images of Dice (R,), itself a mean over classes, for image weights (R, N)."""
    shared, predicted = np.split(said, 2, axis=1)
    of_images = overlap.dice(shared, predicted, labels).mean(axis=1)
    return weights @ of_images / weights.sum(axis=1)


def chosen(
    labels: np.ndarray, outputs: np.ndarray, card: Mapping[str, Any], section: params.Evaluate
) -> dict[str, Any]:
    """Return temperature and threshold, chosen on the true areas (N, C) and the numbers (N, K) of validation images.

    With one class the threshold is that of the highest Dice; with more the likeliest is decided. A target sensitivity,
    which is about samples, has no part in it.
    """
    if section.positive_class is not None:
        raise Refused("evaluate.positive_class must be null for task segmentation: every class has a metric of its own")
    heat, calibrated = _temperature(outputs[:, : len(HEATS)].mean(axis=0))
    point: dict[str, Any] = {"margin": 0.0}
    if len(card["classes"]) == 1:
        reached = [score(labels, said(outputs, {**card, "operating_point": {"margin": each}})) for each in MARGINS]
        point["margin"] = float(min(MARGINS, key=lambda each: (-reached[list(MARGINS).index(each)], abs(each))))
    point["validation_dice"] = score(labels, said(outputs, {**card, "operating_point": point}))
    threshold = float(1 / (1 + np.exp(-point["margin"] / heat))) if len(card["classes"]) == 1 else None
    return {"temperature": heat, "calibrated": calibrated, "threshold": threshold, "operating_point": point}


def _temperature(lost: np.ndarray) -> tuple[float, bool]:
    """Return which of HEATS loses the least (H,), and whether that is none of the two at the ends: else it is 1."""
    best = int(lost.argmin())
    return (float(HEATS[best]), True) if 0 < best < len(HEATS) - 1 else (1.0, False)


def measured(
    logits: np.ndarray,
    mask: np.ndarray,
    objects: np.ndarray | None,
    spacing: tuple[float, float] | None,
    card: Mapping[str, Any],
    section: params.Evaluate,
) -> dict[str, np.ndarray]:
    """Return the numbers of one image that its logits (H, W, 1 + C) make, by the threshold of the card.

    The other arguments are those of `mask_measures.measured`.
    """
    return mask_measures.measured(answers.decide(logits, card), mask, objects, spacing, len(card["classes"]), section)


def stored(classes: Sequence[str]) -> list[str]:
    """Return the columns of predictions.parquet that hold what is said."""
    return [f"{name}_{i}" for name in ("shared", "areas") for i in range(len(classes))]


def served(classes: Sequence[str]) -> list[str]:  # noqa: ARG001
    """Return the column of the served model that says it, together with the truth: see `compared`."""
    return ["mask"]


def compared(encoded: Sequence[bytes], masks: Sequence[np.ndarray], classes: Sequence[str]) -> np.ndarray:
    """Return what is said (N, 2 C) by masks of the served model, PNG, of images whose true masks are (H, W) each.

    Raises:
        Refused: a mask has not the size of its image.
    """
    rows = []
    for content, truth in zip(encoded, masks, strict=True):
        predicted = cv2.imdecode(np.frombuffer(content, np.uint8), cv2.IMREAD_UNCHANGED)
        if predicted is None or predicted.shape != truth.shape:
            came = "none" if predicted is None else "x".join(map(str, predicted.shape))
            raise Refused(f"a mask must have the size of its image, {truth.shape[0]}x{truth.shape[1]}, got {came}")
        rows.append(np.concatenate(overlap.counts(truth, predicted, len(classes))[:2]))
    return np.array(rows, np.float64).reshape(len(rows), 2 * len(classes))
