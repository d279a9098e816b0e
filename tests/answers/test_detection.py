"""From what is said at places to boxes: suppression against a plain loop, and back to the size of the image."""

import numpy as np
import pytest

from medloop import imaging
from medloop.answers import detection as answers

CARD = {
    "classes": ["a", "b"],
    "threshold": 0.4,
    "preprocessing": {"size_px": [40, 60], "channels": 1, "clip_percentiles": [0.0, 100.0]},
}


def some_rows(seed, count=60):
    random = np.random.default_rng(seed)
    corner, side = random.uniform(0, 40, (count, 2)), random.uniform(5, 25, (count, 2))
    score = np.sort(random.uniform(0, 1, count))[::-1]
    return np.column_stack([corner, corner + side, score, random.integers(1, 3, count)])


def outputs_of(rows, classes=2):
    """Return places (A, 8 + C + 1) that say detections: each of its class alone, and surely in the middle."""
    logits = np.full((len(rows), classes), -20.0)
    share = rows[:, 4] ** 2  # the score is the root of probability times centredness
    logits[np.arange(len(rows)), rows[:, 5].astype(int) - 1] = np.log(share / (1 - share))
    return np.column_stack([np.zeros((len(rows), 4)), rows[:, :4], logits, np.full(len(rows), 40.0)]).astype(np.float32)


def iou(one, other):
    across = max(0, min(one[2], other[2]) - max(one[0], other[0]))
    down = max(0, min(one[3], other[3]) - max(one[1], other[1]))
    areas = [(each[2] - each[0]) * (each[3] - each[1]) for each in (one, other)]
    return across * down / (sum(areas) - across * down)


@pytest.mark.parametrize("seed", range(5))
def test_suppression_is_that_of_a_plain_loop(seed):
    rows, wanted = some_rows(seed), []
    for place, row in enumerate(rows):
        if all(rows[j][5] != row[5] or iou(rows[j], row) <= answers.SAME for j in wanted):
            wanted.append(place)
    assert answers.kept(rows).tolist() == wanted
    assert 2 < len(wanted) < len(rows)
    assert answers.kept(rows[:0]).tolist() == []


def test_no_more_are_kept_than_an_image_may_have():
    corner = 10.0 * np.arange(answers.MOST + 20)[:, None] * [1, 0]
    rows = np.column_stack([corner, corner + 5, np.linspace(1, 0.5, len(corner)), np.ones(len(corner))])
    assert answers.kept(rows).tolist() == list(range(answers.MOST))


def test_detections_are_those_above_the_floor_the_surest_first():
    rows = some_rows(1)
    found = answers.found(outputs_of(np.random.default_rng(0).permutation(rows)))
    kept = rows[answers.kept(rows)]
    np.testing.assert_allclose(found, kept[kept[:, 4] >= answers.FLOOR], atol=1e-4)


@pytest.mark.parametrize("size", [(40, 60), (80, 120), (20, 30), (35, 90), (200, 61)])
def test_boxes_come_back_to_where_their_image_was(size):
    """An image with a bright box becomes an input; where that is bright is where the box comes back from."""
    image = np.zeros(size, np.uint8)
    y, x = size[0] // 4, size[1] // 3
    high, wide = size[0] // 2, size[1] // 3
    image[y : y + high, x : x + wide] = 255
    array = imaging.fit(image, 8, size_px=(40, 60), channels=1)[..., 0]
    rows, columns = np.flatnonzero((array > 127).any(axis=1)), np.flatnonzero((array > 127).any(axis=0))
    seen = np.array([[columns[0], rows[0], columns[-1] + 1, rows[-1] + 1, 0.9, 1.0]])
    [found] = answers.restored(seen, (40, 60), size)
    by = max(size[0] / 40, size[1] / 60)
    np.testing.assert_allclose(found[:4], [x, y, x + wide, y + high], atol=by)
    moved = imaging.fit_boxes(np.array([[x, y, x + wide, y + high, 1]]), size, (40, 60))
    [back] = answers.restored(np.insert(moved, 4, 0.9, axis=1), (40, 60), size)
    np.testing.assert_allclose(back, [x, y, x + wide, y + high, 0.9, 1], atol=1e-9)


def test_what_reaches_beyond_the_image_is_cut_and_what_lies_outside_is_gone():
    rows = np.array([[-5, -5, 10, 10, 0.9, 1], [50, 30, 80, 45, 0.8, 1], [61, 0, 70, 10, 0.7, 2.0]])
    assert answers.cut(rows, (40, 60))[:, :4].tolist() == [[0, 0, 10, 10], [50, 30, 60, 40]]


def test_windows_find_an_object_once():
    """One in the overlap of two windows, seen by both, and another at the edge of the second."""
    first = np.array([[40, 10, 50, 20, 0.8, 1.0]])
    second = np.array([[20, 10, 30.5, 20, 0.9, 1.0], [30, 0, 40, 8, 0.7, 2.0]])
    found = answers.joined([first, second], [(0, 0), (0, 20)], (40, 60))
    np.testing.assert_allclose(found, [[40, 10, 50.5, 20, 0.9, 1], [50, 0, 60, 8, 0.7, 2]])


def test_the_columns_say_all_boxes_and_count_those_that_reach_the_threshold():
    rows = np.array([[1.005, 2, 10, 12, 0.9, 2], [3, 4, 20, 30, 0.3, 1.0]])
    columns = answers.columns_of([rows, rows[:0]], CARD)
    assert list(columns) == list(answers.columns(CARD)) == ["boxes", "count_a", "count_b"]
    assert columns["boxes"][1] == "[]"
    assert (columns["count_a"].tolist(), columns["count_b"].tolist()) == ([0, 0], [1, 0])
    np.testing.assert_allclose(answers.read(columns["boxes"][0], CARD["classes"]), rows, atol=0.006)
    assert answers.read("[]", CARD["classes"]).shape == (0, 6)


@pytest.mark.parametrize("larger", ["resize", "slide"])
def test_an_image_of_any_size_has_boxes_in_its_own_pixels(larger):
    """The network finds what is bright, and is the surer the more it sees of it."""

    def network(arrays):
        found = []
        for array in arrays[..., 0]:
            rows, columns = (np.flatnonzero((array > 127).any(axis=axis)) for axis in (1, 0))
            score = 0.4 + len(rows) * len(columns) / 2000
            box = [[columns[0], rows[0], columns[-1] + 1, rows[-1] + 1, score, 2.0]] if len(rows) else []
            found.append(outputs_of(np.array([*box, [0, 0, 1, 1, 0.01, 1.0]][:1])))
        return np.stack(found)

    image = np.zeros((70, 150), np.uint8)
    image[24:50, 60:80] = 200
    card = {**CARD, "preprocessing": {**CARD["preprocessing"], "larger": larger, "overlap": 0.5}}
    found = answers.boxes(image, 8, imaging, network, card)
    around = found[answers.overlaps(np.array([[60, 24, 80, 50.0]]), found[:, :4])[0] > 0.85]
    assert len(around) == 1
    assert around[0, 5] == 2


def test_suppression_by_blocks_leaves_what_one_block_leaves(monkeypatch):
    random = np.random.default_rng(0)
    corner, size = random.uniform(0, 25, (200, 2)), random.uniform(10, 40, (200, 2))
    rows = np.column_stack([corner, corner + size, np.linspace(1, 0.1, 200), random.integers(1, 3, 200)])
    monkeypatch.setattr(answers, "TOGETHER", 1000)
    whole = answers.kept(rows)
    assert 20 < len(whole) < answers.MOST
    monkeypatch.setattr(answers, "TOGETHER", 7)
    np.testing.assert_array_equal(answers.kept(rows), whole)
