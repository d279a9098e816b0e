"""The words and pictures of a report on boxes."""

import cv2
import numpy as np
import pandas as pd
import pytest

from medloop import box_measures
from medloop.pages import detection as page

CARD = {"classes": ["a", "b"], "threshold": 0.5}


def predictions():
    """Three images of two objects each: both found; one found and a false box; none found, of large ones."""
    truth = np.array([[0, 0, 10, 10, 1], [50, 0, 60, 10, 2.0]])
    right = np.array([[0, 0, 10, 10, 0.9, 1], [50, 0, 60, 10, 0.8, 2.0]])
    wrong = np.array([[0, 0, 10, 10, 0.9, 1], [200, 0, 260, 60, 0.7, 2.0], [50, 0, 60, 10, 0.2, 2]])
    large = truth * [20, 20, 20, 20, 1]
    pairs = [(right, truth), (wrong, truth), (wrong[:0], large)]
    table = pd.DataFrame({"sample_id": ["s0", "s1", "s2"], "patient_id": None})
    return box_measures.gathered(table, (box_measures.measured(*each, 2) for each in pairs), CARD)


def test_the_worst_come_first_with_what_is_wrong():
    found = list(page.worst(predictions()))
    assert [place for place, *_ in found] == [1, 2, 0]
    assert found[0][1:] == ("1 of 2 found", "1 false box", {})
    assert [place for place, *_ in page.examples(predictions())] == [0, 1, 2]


def test_objects_are_told_by_their_size():
    [table] = page.tables(predictions())
    assert [row[:4] for row in table["rows"]] == [("small", "4", "3", "75.0%"), ("large", "2", "0", "0.0%")]


def test_figures_and_words_speak_of_every_class_and_metric():
    figures = page.figures(predictions(), CARD)
    assert set(figures) == set(page.FIGURES)
    labels = [text.get_text() for text in figures["precision_recall"].axes[0].get_legend().get_texts()]
    assert [label.split(",")[0] for label in labels] == ["a", "b"]
    assert set(page.meanings(CARD)) == set(box_measures.METRICS)
    n = predictions().counts()
    assert page.contents({"n": n}) == "3 a in 3, 3 b in 3"
    assert page.broken({"test": {"map_50": {"value": 0.0}}}) == "No box is right: something is wrong with the model."


@pytest.mark.parametrize(
    ("classes", "said"), [(["a"], "of 100 objects, and"), (["a", "b"], "in the mean over classes")]
)
def test_what_a_reader_sees_first_says_whether_a_share_is_a_mean_over_classes(classes, said):
    metrics = {"test": {name: {"value": 0.5, "low": 0.4, "high": 0.6} for name in box_measures.METRICS}}
    [_, found] = page.outcome(metrics, CARD | {"classes": classes})
    assert said in found


@pytest.mark.parametrize("channels", [1, 3])
def test_an_overlay_draws_true_right_and_wrong_boxes(channels):
    pixels = np.random.default_rng(0).integers(0, 9, (64, 64, channels), np.uint8)
    true = np.array([[10, 10, 20, 20, 1.0], [40, 40, 60, 60, 2]])
    said = np.array([[40, 41, 60, 61, 0.9, 2], [5, 40, 15, 50, 0.8, 1.0]])
    kind, content = page.overlay(pixels, true, said)
    shown = cv2.imdecode(np.frombuffer(content, np.uint8), cv2.IMREAD_COLOR)[..., ::-1]
    assert (kind, shown.shape) == ("image/png", (256, 256, 3))
    for y, x, colour in ((40, 60, page.TRUE), (164, 200, page.RIGHT), (160, 40, page.WRONG)):
        assert tuple(shown[y, x].tolist()) == colour


def test_nothing_found_and_nothing_there_are_drawn_too():
    pixels = np.zeros((64, 64, 1), np.uint8)
    _, content = page.overlay(pixels, np.zeros((0, 5)), np.zeros((0, 6)))
    assert cv2.imdecode(np.frombuffer(content, np.uint8), cv2.IMREAD_COLOR).max() == 0
