"""How masks agree, against sums and distances written out pixel by pixel."""

import numpy as np
import pytest
from scipy.spatial.distance import cdist

from medloop import overlap


def blobs(seed, size=(40, 50), count=4):
    random = np.random.default_rng(seed)
    rows, columns = np.mgrid[: size[0], : size[1]]
    mask = np.zeros(size, bool)
    for _ in range(count):
        (y, x), radius = random.uniform(0, 1, 2) * size, random.uniform(3, 9)
        mask |= (rows - y) ** 2 + (columns - x) ** 2 < radius**2
    return mask


def edge_by_hand(mask):
    padded = np.pad(mask, 1)
    found = []
    for y, x in np.argwhere(mask):
        four = padded[y, x + 1], padded[y + 2, x + 1], padded[y + 1, x], padded[y + 1, x + 2]
        if not all(four):
            found.append((y, x))
    return np.array(found, float)


@pytest.mark.parametrize("seed", range(5))
def test_dice_and_iou_are_those_of_sets(seed):
    random = np.random.default_rng(seed)
    truth, said = random.integers(0, 4, (2, 20, 30)).astype(np.uint8)
    shared, predicted, true = overlap.counts(truth, said, 3)
    for i in range(3):
        a = set(map(tuple, np.argwhere(truth == i + 1)))
        b = set(map(tuple, np.argwhere(said == i + 1)))
        assert (shared[i], predicted[i], true[i]) == (len(a & b), len(b), len(a))
        assert overlap.dice(shared, predicted, true)[i] == pytest.approx(2 * len(a & b) / (len(a) + len(b)))
        assert overlap.iou(shared, predicted, true)[i] == pytest.approx(len(a & b) / len(a | b))


@pytest.mark.parametrize("seed", range(6))
@pytest.mark.parametrize("spacing", [(1.0, 1.0), (0.7, 1.9)])
def test_distances_are_those_between_all_pixels_of_both_edges(seed, spacing):
    truth, said = blobs(seed), blobs(seed + 100)
    a, b = (edge_by_hand(mask) * spacing for mask in (truth, said))
    apart = cdist(a, b)
    there, back = apart.min(axis=1), apart.min(axis=0)
    found = overlap.surfaces(truth, said, tolerance=2.5, spacing=spacing)
    assert found.hd95 == pytest.approx(max(np.percentile(there, 95), np.percentile(back, 95)))
    assert (found.near, found.pixels) == ((there <= 2.5).sum() + (back <= 2.5).sum(), len(a) + len(b))
    assert found.nsd == pytest.approx(((there <= 2.5).sum() + (back <= 2.5).sum()) / (len(a) + len(b)))
    assert overlap.surfaces(said, truth, tolerance=2.5, spacing=spacing) == pytest.approx(found)


def test_a_mask_that_is_moved_lies_as_far_away_as_it_was_moved():
    truth = np.zeros((40, 40), bool)
    truth[10:20, 10:20] = True
    found = overlap.surfaces(truth, np.roll(truth, 3, axis=1), tolerance=3)
    assert found == (3, 1, 72, 72)
    assert overlap.surfaces(truth, np.roll(truth, 3, axis=1), tolerance=2.9).nsd < 1
    assert overlap.surfaces(truth, truth, tolerance=0) == (0, 1, 72, 72)


def test_empty_masks_follow_the_rule():
    none, some = np.zeros((30, 40), bool), np.ones((30, 40), bool)
    assert overlap.surfaces(none, none, tolerance=1) == (0, 1, 0, 0)
    assert overlap.surfaces(some, none, tolerance=1) == (50, 0, 0, 136)
    assert overlap.surfaces(none, some, tolerance=1, spacing=(2, 0)) == (60, 0, 0, 136)
    for truth, said, wanted in ((none, none, 1), (some, none, 0), (none, some, 0)):
        counted = overlap.counts(truth.astype(np.uint8), said.astype(np.uint8), 1)
        assert (overlap.dice(*counted), overlap.iou(*counted)) == (wanted, wanted)
