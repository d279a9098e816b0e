"""The words and pictures of a report on masks."""

import cv2
import numpy as np
import pandas as pd
import pytest

from medloop import mask_measures as task
from medloop.evaluation import objects
from medloop.pages import segmentation as page

ENTRY = {"value": 0.9, "low": 0.85, "high": 0.94, "undefined": 0}
CHOICE = {
    "architecture": "unet",
    "gate": "dice",
    "calibrated": True,
    "temperature": 1.3,
    "threshold": 0.4,
    "validation": {"unet": {"dice": ENTRY}},
}
CARD = {
    "task": "segmentation",
    "kind": "image",
    "classes": ["cell"],
    "input_shape": [32, 32, 1],
    "preprocessing": {"size_px": [32, 32]},
}


def predictions(dice=(0.2, 0.9, 0.5, 1.0, 0.7, 0.8, 0.6)):
    """Images of 100 true and 100 predicted pixels, of which Dice are shared; of 3 objects of 30 pixels 2 are found."""
    count = len(dice)
    column = np.full((count, 1), 100.0)
    of_size = np.zeros((count, len(task.SIZES_PX)), int)
    of_size[:, 1] = 3
    found = of_size.copy()
    found[:, 1] = 2
    table = pd.DataFrame({"sample_id": [f"s{i}" for i in range(count)], "patient_id": None})
    shared = 100 * np.array(dice)[:, None]
    distances = ("hd95_px", "nsd_px", "hd95_mm", "nsd_mm", "near_px", "near_mm", "edges")
    rest = dict.fromkeys(("areas", *distances, "average_precision_objects"), column)
    counted = {"objects": np.full((count, 1), 3), "predicted_objects": column}
    sizes = {"of_size": of_size, "found_of_size": found}
    return task.Predictions(table, column, shared, **rest, **counted, **sizes, classes=["cell"])


def test_the_worst_come_first_with_what_is_wrong():
    found = list(page.worst(predictions()))
    assert [place for place, *_ in found] == [0, 2, 6, 4, 5, 1, 3]
    assert found[0][1:] == ("Dice 0.200", "true 100 pixels, predicted 100; 2 of 3 objects found", {})


def test_examples_go_from_the_worst_to_the_best():
    places = [place for place, *_ in page.examples(predictions())]
    assert (places[0], places[-1], len(places)) == (0, 3, objects.EXAMPLES)
    assert [place for place, *_ in page.examples(predictions((0.5,)))] == [0]


def test_objects_are_told_by_their_size():
    [table] = page.tables(predictions())
    assert table["rows"] == [("25 to 99", "21", "14", "66.7%")]
    assert [page.between(i) for i in (0, 5)] == ["below 25", "6,400 and more"]


@pytest.mark.parametrize("channels", [1, 3])
def test_an_overlay_draws_the_edges_of_both_masks_on_the_image(channels):
    pixels = np.random.default_rng(0).integers(0, 9, (64, 64, channels), np.uint8)
    true, said = np.zeros((2, 64, 64), np.uint8)
    true[10:20, 10:20], said[40:50, 40:50] = 1, 1
    kind, content = page.overlay(pixels, true, said)
    shown = cv2.imdecode(np.frombuffer(content, np.uint8), cv2.IMREAD_COLOR)[..., ::-1]
    assert (kind, shown.shape) == ("image/png", (256, 256, 3))
    for mask, colour in ((true, page.TRUE), (said, page.PREDICTED)):
        where = np.argwhere((shown == colour).all(axis=-1)) // 4
        assert len(where)
        assert mask[tuple(where.T)].all()
        assert {tuple(where.min(axis=0)), tuple(where.max(axis=0))} == {
            tuple(np.argwhere(mask).min(axis=0)),
            tuple(np.argwhere(mask).max(axis=0)),
        }
    assert shown.max() > 200  # what was nearly black can be seen


def test_figures_are_drawn_and_named():
    found = page.figures(predictions(), CARD)
    assert set(found) == set(page.FIGURES)
    [axes] = found["sizes"].axes
    assert [bar.get_height() for bar in axes.patches] == [pytest.approx(2 / 3)]
    assert sum(bar.get_height() for bar in found["dice"].axes[0].patches) == 7


def test_words_name_the_decision_the_way_and_what_is_broken():
    said = dict(page.asked(CARD, CHOICE))
    assert "cell where its probability reaches 0.400" in said["Decision"]
    assert said["Size"] == "each image is fitted into the model's input; its mask comes back at its own size"
    sliding = CARD | {"preprocessing": {"larger": "slide"}}
    several = CHOICE | {"threshold": None}
    said = dict(page.asked(sliding, several))
    assert (said["Decision"], "windows that overlap" in said["Size"]) == ("the likeliest class", True)
    assert page.tuned(CHOICE) == ", calibration temperature 1.300, threshold 0.400"
    metrics = {"test": {"dice_pooled": {"value": 0.0}}}
    assert page.broken(metrics) == "No predicted pixel is right: something is wrong with the model."
    assert page.broken({"test": {"dice_pooled": {"value": 0.4}}}) is None
    assert page.trust(metrics, CHOICE | {"calibrated": False}).startswith("The probabilities are not calibrated")
    assert set(page.meanings(CARD)) == set(task.METRICS)
