import re

import numpy as np
import pandas as pd
import pytest
from sklearn import metrics as reference

from medloop.evaluation import curves, plots
from medloop.pages import classification as page
from medloop.tasks.classification import Predictions

HISTORY = pd.DataFrame({"loss": [1.0, 0.5], "val_loss": [1.1, 0.7], "val_auc": [0.6, 0.8]})


def predictions(classes: int = 2, positive: int = 1) -> Predictions:
    random = np.random.default_rng(classes)
    labels = random.integers(0, classes, 120)
    shares = random.multinomial(20, np.full(classes, 1 / classes), 120) / 20 + 0.2 * np.eye(classes)[labels]
    shares /= shares.sum(axis=1, keepdims=True)
    names = [f"class {index}" for index in range(classes)]
    return Predictions(pd.DataFrame(), labels, shares, shares.argmax(axis=1), names, positive)


def drawn(found: Predictions, name: str):
    """Return the axes of a figure."""
    return page.figures(found, {"kind": "image", "preprocessing": {}})[name].axes[0]


def test_a_curve_agrees_with_scikit_learn():
    found = predictions()
    truth, score = found.labels == 1, found.probabilities[:, 1]
    hits, alarms = curves.curve(truth, score)
    away, near, _ = reference.roc_curve(truth, score, drop_intermediate=False)
    assert hits / truth.sum() == pytest.approx(near)
    assert alarms / (~truth).sum() == pytest.approx(away)


@pytest.mark.parametrize("positive", [0, 1])
def test_roc_marks_the_operating_point_of_the_positive_class(positive):
    found = predictions(positive=positive)
    axes = drawn(found, "roc")
    lines = {line.get_label(): line.get_xydata() for line in axes.lines}
    truth, marked = found.labels == positive, found.decisions == positive
    specificity = reference.recall_score(~truth, ~marked)
    assert lines["operating point"][0] == pytest.approx([1 - specificity, reference.recall_score(truth, marked)])
    away, near = lines[f"class {positive}"].T
    assert reference.auc(away, near) == pytest.approx(
        reference.roc_auc_score(truth, found.probabilities[:, positive]), abs=1e-12
    )


def test_precision_and_recall_end_at_all_alarms():
    found = predictions()
    (line,) = [line for line in drawn(found, "precision_recall").lines if line.get_label() == "class 1"]
    precision, recall, _ = reference.precision_recall_curve(found.labels == 1, found.probabilities[:, 1])
    shown = {(round(x, 12), round(y, 12)) for x, y in line.get_xydata()}
    assert {(round(x, 12), round(y, 12)) for x, y in zip(recall[:-1], precision[:-1], strict=True)} <= shown
    assert line.get_xydata()[-1] == pytest.approx([1, (found.labels == 1).mean()])


def test_reliability_shows_how_often_each_bin_came_true():
    found = predictions()
    said, came = drawn(found, "reliability").lines[-1].get_xydata().T
    score, truth = found.probabilities[:, 1], found.labels == 1
    inside = (score > 0.4) & (score <= 0.5)
    place = np.argmin(np.abs(said - score[inside].mean()))
    assert (said[place], came[place]) == pytest.approx((score[inside].mean(), truth[inside].mean()))


@pytest.mark.parametrize("classes", [2, 5])
def test_confusion_counts_images(classes):
    found = predictions(classes)
    written = [int(text.get_text()) for text in drawn(found, "confusion").texts]
    assert written == reference.confusion_matrix(found.labels, found.decisions).ravel().tolist()


def test_learning_curves_have_a_line_for_each_architecture():
    histories = {"cnn": HISTORY, "lstm": HISTORY + 0.1}
    gate, loss = plots.learning_gate(histories, "auc").axes[0], plots.learning_loss(histories).axes[0]
    assert [line.get_label() for line in gate.lines] == ["cnn", "lstm"]
    assert gate.lines[1].get_ydata() == pytest.approx([0.7, 0.9])
    assert loss.lines[0].get_ydata() == pytest.approx([1.1, 0.7])
    assert loss.lines[1].get_ydata() == pytest.approx([1.0, 0.5])
    assert {line.get_marker() for line in (*gate.lines, *loss.lines)} == {"None"}
    one = {"cnn": HISTORY[:1]}  # a line of one epoch would not be seen
    drawn = [*plots.learning_gate(one, "auc").axes[0].lines, *plots.learning_loss(one).axes[0].lines]
    assert {line.get_marker() for line in drawn} == {"o"}


def test_figures_are_the_same_bytes_whatever_the_users_style(monkeypatch):
    import matplotlib as mpl

    def figures():
        return page.figures(predictions(3), {"kind": "image", "preprocessing": {}})

    first = plots.draw(figures, {"cnn": HISTORY}, "auc")
    for name in ("font.size", "axes.labelsize", "lines.linewidth"):
        monkeypatch.setitem(mpl.rcParams, name, 30)
    monkeypatch.setitem(mpl.rcParams, "svg.hashsalt", None)
    assert plots.draw(figures, {"cnn": HISTORY}, "auc") == first
    assert mpl.rcParams["lines.linewidth"] == 30, "and the user's style is left as it was"
    assert not any(re.search(r"dc:date|\d{4}-\d{2}-\d{2}T", svg) for svg in first.values())
