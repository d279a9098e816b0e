"""Networks that find objects, and their losses."""

import numpy as np
import pytest

from medloop import models, pairing, params, plugins
from medloop.networks import box_losses
from medloop.training import backend, engine

NAMES = ["fcos", "retinanet"]
TINY = {"filters": (4, 6, 8), "finest": 4, "width": 6, "depth": 1}


@pytest.fixture(scope="module", autouse=True)
def keras():
    return backend.start("tensorflow", seed=0)


@pytest.fixture(scope="module", params=NAMES)
def built(request):
    return request.param, plugins.load(models, request.param).build((24, 40, 1), 3, **TINY)


def test_every_place_has_a_reference_a_box_logits_and_how_well_it_lies(built):
    name, model = built
    places = (6 * 10 + 3 * 5) * (6 if name == "retinanet" else 1)
    assert model.output_shape == (None, places, 8 + 3 + 1)
    outputs = np.asarray(model(np.random.default_rng(0).normal(size=(2, 24, 40, 1)).astype("float32")))
    np.testing.assert_array_equal(outputs[0, :, :4], outputs[1, :, :4])
    middle = (outputs[0, :, :2] + outputs[0, :, 2:4]) / 2
    fine = np.unique(middle[: places * 4 // 5].round(3), axis=0)
    wanted = np.array([(x, y) for x in np.arange(2, 40, 4) for y in np.arange(2, 24, 4)])
    np.testing.assert_allclose(fine, wanted, atol=1e-5)
    assert (outputs[..., 6:8] > outputs[..., 4:6]).all()
    p = 1 / (1 + np.exp(-outputs[..., 8:11]))
    assert abs(p.mean() - box_losses.PRIOR) < 0.005
    assert (pairing.given(models, name), pairing.assigned(models, name, "GIVES")) == ("boxes", "boxes")


def test_a_few_images_are_predicted_at_a_time():
    assert engine.batch_of((None, 1500, 12)) == 10
    assert engine.batch_of((None, 100_000, 12)) == 1


@pytest.mark.parametrize("name", NAMES)
def test_in_square_images_too_places_lie_in_rows_and_columns(name):
    model = plugins.load(models, name).build((16, 16, 1), 1, **TINY)
    outputs = np.asarray(model(np.zeros((1, 16, 16, 1), np.float32)))[0]
    middle = (outputs[:, :2] + outputs[:, 2:4]) / 2
    assert len(np.unique(middle.round(3), axis=0)) == 16 + 4


def test_sides_that_are_no_multiples_are_filled_up_and_a_finest_level_that_there_is_not_is_refused(built):
    name, _ = built
    build = plugins.load(models, name).build
    assert build((21, 35, 1), 3, **TINY).output_shape == build((24, 40, 1), 3, **TINY).output_shape
    with pytest.raises(ValueError, match="finest must be one of 4, 8, got 2"):
        build((24, 40, 1), 3, **{**TINY, "finest": 2})


def test_a_step_lowers_the_loss_and_an_image_of_weight_zero_changes_nothing(built, keras):
    name, model = built
    loss = getattr(box_losses, pairing.assigned(models, name, "LOSS"))(params.Train())
    images, labels = np.zeros((2, 24, 40, 1), np.float32), np.zeros((2, 2, 5), np.float32)
    images[0, 4:14, 6:16], labels[0, 0] = 1, [6, 4, 16, 14, 2]
    outputs = model(images)
    both, first = (float(loss(labels, outputs, np.array(w, np.float32))) for w in ([1, 1], [2, 0]))
    assert float(loss(labels, outputs)) == pytest.approx(both)
    assert first == pytest.approx(float(loss(labels[:1], outputs[:1])))
    advance = engine.trainer(model, keras.optimizers.AdamW(0.01), loss, loop=False)
    losses = advance((np.stack([images] * 12), np.stack([labels] * 12), np.ones((12, 2), np.float32)))
    assert np.isfinite(losses).all()
    assert losses[-1] < 0.8 * losses[0]


@pytest.mark.parametrize(
    ("one", "other", "wanted"),
    [
        ([0, 0, 2, 2], [0, 0, 2, 2], 1.0),
        ([0, 0, 2, 2], [1, 0, 3, 2], 2 / 6),  # hull 6, joint area 6
        ([0, 0, 1, 1], [2, 0, 3, 1], -1 / 3),  # apart: 0 - (3 - 2) / 3
        ([0, 0, 2, 2], [1, 1, 3, 3], 1 / 7 - 2 / 9),
    ],
)
def test_giou_of_cases_by_hand(one, other, wanted):
    assert float(box_losses.giou(np.array([one], np.float32), np.array([other], np.float32))[0]) == pytest.approx(
        wanted
    )


def places(step, rows, columns):
    """Return the references (A, 4) of points."""
    x, y = np.meshgrid((np.arange(columns) + 0.5) * step, (np.arange(rows) + 0.5) * step)
    half = box_losses.SPAN * step / 2
    return np.stack([x - half, y - half, x + half, y + half], axis=-1).reshape(-1, 4)


def test_points_are_of_the_smallest_object_of_their_level_that_they_lie_in_the_middle_of():
    reference = np.concatenate([places(4, 10, 10), places(8, 5, 5)]).astype(np.float32)
    boxes = np.array([[[4, 4, 24, 24], [8, 8, 16, 16], [0, 0, 40, 40], [0, 0, 0, 0], [33, 33, 34, 34]]], np.float32)
    cost = np.asarray(box_losses._costs(reference, boxes, np.array([[1, 2, 1, 0, 3]])))[0]
    point = (reference[:, :2] + reference[:, 2:]) / 2
    of = [point[cost[:, j] < box_losses.FAR] for j in range(5)]
    assert sorted(map(tuple, of[0].tolist())) == [(x, y) for x in (10, 14, 18) for y in (10, 14, 18)]
    assert sorted(map(tuple, of[1].tolist())) == [(x, y) for x in (10, 14) for y in (10, 14)]
    assert (len(of[2]), np.abs(of[2] - 20).max()) == (9, 8)  # of the coarse level alone
    assert len(of[3]) == 0  # only fills up
    assert of[4].tolist() == [[34, 34]]  # smaller than a step: the nearest
    assert cost.argmin(axis=1)[np.flatnonzero((point == 10).all(axis=1))[0]] == 1


def test_the_loss_of_points_by_hand():
    """One image of four points, one of which is of an object."""
    reference = places(4, 2, 2)
    truth = np.array([[[0.5, 0, 3.5, 4, 1]]], np.float32)  # around the first point, 2 / 2
    outputs = np.zeros((1, 4, 8 + 1 + 1), np.float32)
    outputs[0, :, :4], outputs[0, :, 4:8], outputs[0, :, 8], outputs[0, :, 9] = reference, [0, 0, 4, 4], -1.0, 0.5
    p = 1 / (1 + np.exp(1))
    focal = 0.25 * (1 - p) ** 2 * -np.log(p) + 3 * 0.75 * p**2 * -np.log(1 - p)
    overlap = 1 - 12 / 16  # GIoU: the hull is the box itself
    middle = np.log1p(np.exp(0.5)) - 0.5  # it lies in the middle: centredness 1
    found = float(box_losses.of_points(params.Train())(truth, outputs))
    assert found == pytest.approx(focal + overlap + middle, rel=1e-4)
    empty = float(box_losses.of_points(params.Train())(np.zeros((1, 1, 5), np.float32), outputs))
    assert empty == pytest.approx(4 * 0.75 * p**2 * -np.log(1 - p), rel=1e-4)


def test_the_loss_of_anchors_by_hand():
    """Four anchors: the best one of an object, one that does not count, and two of none."""
    anchors = np.array([[0, 0, 10, 10], [0, 0, 10, 22], [30, 30, 40, 40], [50, 0, 60, 10]], np.float32)
    truth = np.array([[[0, 0, 10, 10, 2], [0, 0, 0, 0, 0]]], np.float32)
    outputs = np.zeros((1, 4, 8 + 2 + 1), np.float32)
    outputs[0, :, :4], outputs[0, :, 4:8], outputs[0, :, 10] = anchors, anchors + np.array([0, 0, 0, 10]), 20
    lost = [0.25 * 0.5**2 * np.log(2), 0.75 * 0.5**2 * np.log(2)]
    focal = lost[0] + lost[1] + 2 * 2 * lost[1]
    found = float(box_losses.of_anchors(params.Train())(truth, outputs))
    assert found == pytest.approx(focal + 0.5, rel=1e-4)
