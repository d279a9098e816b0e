"""Objects in a mask, and their average precision against a plain matching of sets."""

import numpy as np
import pytest

from medloop import instances


def discs(places, size=(80, 80)):
    rows, columns = np.mgrid[: size[0], : size[1]]
    found = np.zeros(size, np.int32)
    for number, (y, x, radius) in enumerate(places, 1):
        found[(rows - y) ** 2 + (columns - x) ** 2 < radius**2] = number
    return found


def precision_by_hand(truth, said):
    """Return the score of the 2018 Data Science Bowl, as its kernel of reference computes it."""
    a = [set(map(tuple, np.argwhere(truth == i))) for i in range(1, truth.max() + 1)]
    b = [set(map(tuple, np.argwhere(said == i))) for i in range(1, said.max() + 1)]
    iou = np.array([[len(one & two) / len(one | two) for two in b] for one in a]).reshape(len(a), len(b))
    scores = []
    for threshold in np.arange(0.5, 1.0, 0.05):
        matched = iou > round(threshold, 2)
        true = (matched.sum(axis=1) == 1).sum()
        scores.append(true / (true + (matched.sum(axis=0) == 0).sum() + (matched.sum(axis=1) == 0).sum()))
    return np.mean(scores)


@pytest.mark.parametrize("seed", range(6))
def test_average_precision_is_that_of_the_data_science_bowl(seed):
    random = np.random.default_rng(seed)
    places = np.stack([*random.uniform(5, 75, (2, 9)), random.uniform(3, 9, 9)], axis=1)
    moved = places + random.uniform(-1.5, 1.5, places.shape)
    truth, said = (instances.renumbered(discs(each)) for each in (places, moved[:-1]))
    found = instances.matches(truth, said)
    assert instances.average_precision(found) == pytest.approx(precision_by_hand(truth, said))
    assert found.areas.tolist() == [(truth == i + 1).sum() for i in range(truth.max())]


def test_what_is_missed_and_what_is_not_there_count_against_it():
    truth = discs([(20, 20, 8), (50, 50, 8)])
    assert instances.average_precision(instances.matches(truth, truth)) == 1
    assert instances.average_precision(instances.matches(truth, discs([(20, 20, 8)]))) == 0.5
    assert instances.average_precision(instances.matches(discs([(20, 20, 8)]), truth)) == 0.5
    none = np.zeros_like(truth)
    assert instances.average_precision(instances.matches(none, none)) == 1
    assert instances.average_precision(instances.matches(truth, none)) == 0
    assert instances.average_precision(instances.matches(none, truth)) == 0


def test_touching_discs_are_cut_apart_where_they_touch():
    truth = discs([(40, 30, 12), (40, 48, 12)])
    assert instances.components(truth > 0).max() == 1
    said = instances.watershed(truth > 0)
    assert said.max() == 2
    assert np.array_equal(said > 0, truth > 0)
    assert instances.matches(truth, said).best.min() > 0.9


def test_long_objects_stay_whole_and_a_single_pixel_is_one():
    bar = np.zeros((30, 80), bool)
    bar[10:18, 5:75] = True
    assert instances.watershed(bar).max() == 1
    dot = np.zeros((30, 80), bool)
    dot[0, 0] = dot[29, 79] = True
    assert instances.watershed(dot).max() == 2
    assert instances.watershed(np.ones((5, 5), bool)).max() == 1
    assert instances.watershed(np.zeros((5, 5), bool)).max() == 0


def test_a_layer_of_touching_discs_is_told_apart():
    grid = np.mgrid[12:150:14, 12:150:14].reshape(2, -1).T
    places = np.hstack([grid + np.random.default_rng(1).uniform(-1, 1, grid.shape), np.full((len(grid), 1), 7.5)])
    truth = discs(places, (160, 160))
    assert instances.components(truth > 0).max() < 10
    apart = instances.watershed(truth > 0)
    assert apart.max() == len(places)
    assert instances.average_precision(instances.matches(truth, apart)) > 0.8
