"""From logits of windows to masks of the image's own size."""

import cv2
import numpy as np
import pytest

from medloop import imaging
from medloop.answers import segmentation as answers

CARD = {"classes": ["cell"], "temperature": 1.0, "threshold": 0.5}


def preprocessing(size=(32, 48), **changed):
    return {"size_px": list(size), "channels": 1, "clip_percentiles": [0.0, 100.0], **changed}


def bright(arrays):
    """A network that says of each pixel how bright it is, and notes what it was given."""
    bright.seen.append(arrays.shape)
    values = arrays.astype(np.float32) - 127.5
    return np.concatenate([-values, values], axis=-1)


@pytest.fixture(autouse=True)
def _unseen():
    bright.seen = []


def image(height, width, seed=0):
    noise = np.random.default_rng(seed).random((height, width)).astype(np.float32)
    smooth = cv2.GaussianBlur(noise, (0, 0), 5)
    return np.rint(255 * (smooth - smooth.min()) / np.ptp(smooth)).astype(np.uint8)


@pytest.mark.parametrize("size", [(100, 130), (33, 48), (20, 300), (7, 9), (32, 48), (32, 30)])
def test_windows_decide_every_pixel_as_the_whole_image_would(size):
    pixels = image(*size)
    card = CARD | {"preprocessing": preprocessing(larger="slide", overlap=0.5)}
    found = answers.mask(pixels, 8, imaging, bright, card)
    assert found.dtype == np.uint8
    np.testing.assert_array_equal(found, pixels > 127)
    assert all(shape[0] <= answers.WINDOWS and shape[1:] == (32, 48, 1) for shape in bright.seen)


@pytest.mark.parametrize(("size", "overlap"), [((100, 130), 0.5), ((64, 96), 0.0), ((65, 96), 0.25), ((32, 48), 0.9)])
def test_windows_cover_the_image_and_overlap_as_wanted(size, overlap):
    at = imaging.places(size, (32, 48), overlap)
    covered = np.zeros(size, int)
    for top, left in at:
        covered[top : top + 32, left : left + 48] += 1
    assert covered.min() >= 1
    for axis, side in ((0, 32), (1, 48)):
        starts = np.unique([each[axis] for each in at])
        assert (side - np.diff(starts) >= overlap * side - 1).all()
        assert starts[0] == 0
        assert starts[-1] == size[axis] - side


def test_where_windows_disagree_the_one_in_whose_middle_a_pixel_lies_counts_most():
    left, right = np.full((8, 8, 1), 1.0, np.float32), np.full((8, 8, 1), 3.0, np.float32)
    joined = answers.stitched(iter([left, right]), [(0, 0), (0, 4)], (8, 12))[..., 0]
    np.testing.assert_allclose(joined[:, :4], 1, rtol=1e-5)
    np.testing.assert_allclose(joined[:, 8:], 3, rtol=1e-5)
    assert (np.diff(joined[4]) >= -1e-5).all()
    assert joined[4, 4] < 1.5
    assert joined[4, 7] > 2.5


@pytest.mark.parametrize("size", [(64, 96), (90, 60), (31, 200), (128, 128)])
def test_a_mask_comes_back_at_the_size_and_place_of_the_image_that_was_resized(size):
    rows, columns = np.mgrid[: size[0], : size[1]]
    disc = (rows - 0.4 * size[0]) ** 2 + (columns - 0.6 * size[1]) ** 2 < (0.3 * min(size)) ** 2
    card = CARD | {"preprocessing": preprocessing((64, 64))}
    found = answers.mask((255 * disc).astype(np.uint8), 8, imaging, bright, card)
    assert found.shape == size
    shared = (found & disc).sum()
    assert 2 * shared / (found.sum() + disc.sum()) > 0.93
    assert bright.seen == [(1, 64, 64, 1)]
    middle = np.argwhere(found).mean(axis=0)
    np.testing.assert_allclose(middle, np.argwhere(disc).mean(axis=0), atol=1)


def test_an_image_that_needs_no_fitting_is_decided_as_it_is():
    pixels = image(32, 48)
    found = answers.mask(pixels, 8, imaging, bright, CARD | {"preprocessing": preprocessing()})
    np.testing.assert_array_equal(found, pixels > 127)


def test_probabilities_are_the_softmax_and_threshold_and_temperature_count():
    logits = np.random.default_rng(0).normal(0, 3, (5, 6, 3)).astype(np.float32)
    wanted = np.exp(logits / 2) / np.exp(logits / 2).sum(axis=-1, keepdims=True)
    np.testing.assert_allclose(answers.said(logits, {"temperature": 2.0}), wanted, rtol=1e-5)
    two = logits[..., :2]
    p = 1 / (1 + np.exp((two[..., 0] - two[..., 1]) / 2))
    found = answers.decide(two, {"temperature": 2.0, "threshold": 0.8})
    np.testing.assert_array_equal(found, p >= 0.8)
    np.testing.assert_array_equal(answers.decide(logits, {"threshold": None}), logits.argmax(axis=-1))


def test_columns_hold_masks_and_the_area_of_each_class():
    card = {"classes": ["a", "b"]}
    masks = [np.array([[0, 1, 2], [2, 2, 0]], np.uint8), np.zeros((4, 5), np.uint8)]
    found = answers.columns_of(masks, card)
    assert set(found) == set(answers.columns(card)) == {"mask", "area_a", "area_b"}
    assert (found["area_a"].tolist(), found["area_b"].tolist()) == ([1, 0], [3, 0])
    for content, mask in zip(found["mask"], masks, strict=True):
        np.testing.assert_array_equal(cv2.imdecode(np.frombuffer(content, np.uint8), cv2.IMREAD_UNCHANGED), mask)
