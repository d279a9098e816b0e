"""What is kept of maps, what is chosen by it, and the loss, each against a plain computation on the maps themselves."""

import cv2
import numpy as np
import pandas as pd
import pytest

import maps
from medloop import overlap, params
from medloop.answers import segmentation as answers
from medloop.errors import Refused
from medloop.tasks import segmentation as task
from medloop.training import backend

SECTION = params.Evaluate()


@pytest.fixture(scope="module")
def keras():
    return backend.start("tensorflow", seed=0)


def some_maps(classes=1, count=12, seed=0, sharpness=3.0):
    """Logits (N, H, W, 1 + C) that are mostly right, and masks (N, H, W)."""
    random = np.random.default_rng(seed)
    _, masks, _ = maps.images(classes, (24, 28), count, seed)
    logits = random.normal(0, 1.5, (*masks.shape, 1 + classes))
    logits += sharpness * np.eye(1 + classes)[masks]
    logits[..., 1:] -= 1.0
    return logits.astype(np.float32), masks


def card(classes=1, **chosen):
    return {"classes": ["a", "b", "c"][:classes], "input_shape": [24, 28, 1], **chosen}


def kept(logits, masks):
    return task.areas(masks, logits.shape[-1] - 1), task.reduced(logits, masks)


def mean_dice(masks, predicted, classes):
    counted = [overlap.counts(*pair, classes) for pair in zip(masks, predicted, strict=True)]
    return np.mean([overlap.dice(*each).mean() for each in counted])


@pytest.mark.parametrize("classes", [1, 3])
def test_what_is_kept_of_maps_gives_the_dice_of_the_maps(classes):
    logits, masks = some_maps(classes)
    labels, outputs = kept(logits, masks)
    wanted = mean_dice(masks, logits.argmax(axis=-1).astype(np.uint8), classes)
    assert task.score(labels, task.said(outputs, card(classes))) == pytest.approx(wanted)
    assert labels.tolist() == [[(mask == i).sum() for i in range(1, 1 + classes)] for mask in masks]


def test_the_threshold_is_that_of_the_highest_dice_and_the_decision_of_a_map_agrees_with_it():
    logits, masks = some_maps()
    logits[..., 1] -= 2
    labels, outputs = kept(logits, masks)
    chosen = task.chosen(labels, outputs, card(), SECTION)
    by_hand = [mean_dice(masks, (logits[..., 1] - logits[..., 0] >= each).astype(np.uint8), 1) for each in task.MARGINS]
    assert chosen["operating_point"]["validation_dice"] == pytest.approx(max(by_hand))
    assert max(by_hand) > by_hand[task.NO_MARGIN] + 0.005
    decided = np.stack([answers.decide(each, card(**chosen)) for each in logits])
    assert mean_dice(masks, decided, 1) == pytest.approx(max(by_hand))
    assert task.score(labels, task.said(outputs, card(**chosen))) == pytest.approx(max(by_hand))


@pytest.mark.parametrize("heat", [0.3, 1.0, 4.0])
@pytest.mark.parametrize("classes", [1, 2])
def test_the_temperature_is_the_one_that_the_logits_were_divided_by(heat, classes):
    random = np.random.default_rng(0)
    true = random.normal(0, 2, (6, 64, 64, 1 + classes))
    p = np.exp(true) / np.exp(true).sum(axis=-1, keepdims=True)
    masks = (random.random((6, 64, 64, 1)) > np.cumsum(p, axis=-1)).sum(axis=-1).astype(np.uint8)
    chosen = task.chosen(*kept((true * heat).astype(np.float32), masks), card(classes), SECTION)
    assert chosen["calibrated"]
    assert chosen["temperature"] == pytest.approx(heat, rel=0.12)
    assert (chosen["threshold"] is None) == (classes > 1)


def test_no_temperature_is_found_where_nothing_is_wrong():
    logits, masks = some_maps(sharpness=100.0)
    chosen = task.chosen(*kept(logits, masks), card(), SECTION)
    assert (chosen["temperature"], chosen["calibrated"]) == (1.0, False)


def test_a_class_to_be_positive_is_refused():
    with pytest.raises(Refused, match="positive_class must be null for task segmentation"):
        task.chosen(*kept(*some_maps()), card(), params.Evaluate(positive_class="a"))


def test_logits_that_are_no_numbers_are_refused():
    logits, masks = some_maps()
    logits[3, 5, 5, 0] = np.nan
    labels, outputs = kept(logits, masks)
    assert np.isnan(outputs[3]).all()
    assert np.isfinite(np.delete(outputs, 3, axis=0)).all()
    with pytest.raises(Refused, match="must be finite numbers, those of 1 of 12 images are not"):
        task.score(labels, task.said(outputs, card()))


def predictions(classes=2, spacing=(0.5, 0.7)):
    logits, masks = some_maps(classes)
    _, _, objects = maps.images(classes, (24, 28), 12, 0)
    each = [
        task.measured(logit, mask, numbers, spacing, card(classes, threshold=None), SECTION)
        for logit, mask, numbers in zip(logits, masks, objects, strict=True)
    ]
    ids = [f"s{i}" for i in range(12)]
    known = {"sample_id": ids, "patient_id": [f"p{i // 2}" for i in range(12)], "site": "north", "sex": "F"}
    table = pd.DataFrame(known | {"age_years": 50.0})
    return logits, masks, task.gathered(table, each, card(classes))


def test_metrics_are_means_over_images_and_those_of_all_pixels():
    logits, masks, found = predictions()
    said = logits.argmax(axis=-1).astype(np.uint8)
    metrics = {name: float(value[0]) for name, value in found.metrics().items()}
    assert set(metrics) == set(task.METRICS)
    assert metrics["dice"] == pytest.approx(mean_dice(masks, said, 2))
    pooled = np.sum([overlap.counts(*pair, 2) for pair in zip(masks, said, strict=True)], axis=0)
    assert metrics["dice_pooled"] == pytest.approx(overlap.dice(*pooled).mean())
    assert metrics["iou_pooled"] == pytest.approx(overlap.iou(*pooled).mean())
    far = [overlap.surfaces(a == i, b == i, tolerance=2).hd95 for a, b in zip(masks, said, strict=True) for i in (1, 2)]
    assert metrics["hd95_px"] == pytest.approx(np.mean(far))
    mm = [
        [overlap.surfaces(a == i, b == i, tolerance=2, spacing=(0.5, 0.7)) for i in (1, 2)]
        for a, b in zip(masks, said, strict=True)
    ]
    assert metrics["nsd_mm"] == pytest.approx(np.mean([one.nsd for row in mm for one in row]))
    together = np.array([[(one.near, one.pixels) for one in row] for row in mm]).sum(axis=0)  # (C, 2)
    assert metrics["nsd_mm_pooled"] == pytest.approx((together[:, 0] / together[:, 1]).mean())
    weights = np.zeros((1, 12))
    weights[0, 4] = 3
    assert found.metrics(weights)["dice"][0] == pytest.approx(mean_dice(masks[4:5], said[4:5], 2))


def test_predictions_are_read_as_they_were_written():
    _, _, found = predictions()
    again = task.read(found.frame(), card(2))
    for name, value in found.metrics().items():
        np.testing.assert_array_equal(again.metrics()[name], value)
    assert again.counts() == found.counts()
    np.testing.assert_array_equal(found.frame()[task.stored(["a", "b"])].to_numpy()[:, :2], found.shared)
    assert found.counts() == {
        "samples": 12,
        "patients": 6,
        "classes": {"a": int((found.labels[:, 0] > 0).sum()), "b": int((found.labels[:, 1] > 0).sum())},
        "objects": int(found.of_size.sum()),
    }


def test_each_class_has_metrics_of_its_own():
    _, _, found = predictions()
    by_label = found.by_label()
    both = np.mean([by_label[name].metrics()["dice"][0] for name in ("a", "b")])
    assert both == pytest.approx(found.metrics()["dice"][0])
    assert predictions(classes=1)[2].by_label() == {}


def test_without_spacings_there_are_no_millimetres():
    _, _, found = predictions(spacing=None)
    assert set(task.METRICS) - set(found.metrics()) == {"hd95_mm", "nsd_mm", "nsd_mm_pooled"}


def test_an_image_without_an_object_counts_and_is_right_when_nothing_is_predicted():
    none, logits = np.zeros((24, 28), np.uint8), np.zeros((24, 28, 2), np.float32)
    logits[..., 0] = 5
    found = task.measured(logits, none, None, None, card(threshold=0.5), SECTION)
    assert (found["hd95_px"], found["nsd_px"], found["average_precision_objects"]) == (0, 1, 1)
    logits[3, 4, 1] = 9
    found = task.measured(logits, none, None, None, card(threshold=0.5), SECTION)
    assert found["hd95_px"] == np.hypot(24, 28)
    assert (found["nsd_px"], found["average_precision_objects"]) == (0, 0)


def test_masks_of_the_served_model_are_compared_at_the_size_of_the_image():
    _, masks, _ = maps.images(2, (30, 20), 3, 0)
    other = np.roll(masks, 2, axis=1)
    encoded = [cv2.imencode(".png", each)[1].tobytes() for each in other]
    said = task.compared(encoded, list(masks), ["a", "b"])
    assert task.score(task.areas(masks, 2), said) == pytest.approx(mean_dice(masks, other, 2))
    with pytest.raises(Refused, match="must have the size of its image, 15x20, got 30x20"):
        task.compared(encoded, [mask[::2] for mask in masks], ["a", "b"])


def test_data_without_masks_and_training_for_labels_are_refused():
    with pytest.raises(Refused, match="needs a mask for every image"):
        task.check({"kind": "image", "source": "folder", "classes": ["a"], "masks": False})
    task.check({"kind": "image", "source": "folder", "classes": ["a"], "masks": True})
    with pytest.raises(Refused, match="at least one class beside the background"):
        task.outputs([])
    with pytest.raises(Refused, match=r"not for an image: set train\.mixup: 0, train\.sampling: natural"):
        task.loss(params.Train(mixup=0.2, sampling="balanced"))


def loss_by_hand(logits, masks, weights, gamma=0.0, smoothing=0.0):
    p = np.exp(logits.astype(np.float64))
    p /= p.sum(axis=-1, keepdims=True)
    total = 0.0
    for image in range(len(masks)):
        truth = np.eye(logits.shape[-1])[masks[image]]
        wanted = truth * (1 - smoothing) + smoothing / logits.shape[-1]
        of_pixels = -(wanted * (1 - p[image]) ** gamma * np.log(p[image])).sum(axis=-1).mean()
        ratios = [
            (2 * (truth[..., i] * p[image, ..., i]).sum() + 1) / ((truth[..., i] + p[image, ..., i]).sum() + 1)
            for i in range(1, logits.shape[-1])
        ]
        total += weights[image] * (of_pixels + 1 - np.mean(ratios))
    return total / len(masks)


@pytest.mark.parametrize("classes", [1, 2])
@pytest.mark.parametrize(("recipe", "by_hand"), [({}, {}), ({"loss": "focal", "focal_gamma": 1.5}, {"gamma": 1.5})])
def test_the_loss_is_that_of_pixels_and_one_less_soft_dice(keras, classes, recipe, by_hand):
    logits, masks = some_maps(classes, count=5)
    weights = np.array([0, 1, 2, 0.5, 1], np.float32)
    found = float(task.loss(params.Train(label_smoothing=0.1, **recipe))(masks, logits, weights))
    assert found == pytest.approx(loss_by_hand(logits, masks, weights, smoothing=0.1, **by_hand), rel=1e-4)
    assert float(task.loss()(masks, logits)) == pytest.approx(loss_by_hand(logits, masks, np.ones(5)), rel=1e-4)


def test_an_image_without_an_object_has_a_finite_slope_that_lowers_the_class(keras):
    import tensorflow as tf

    logits = tf.Variable(np.zeros((1, 8, 8, 2), np.float32))
    with tf.GradientTape() as tape:
        loss = task.loss()(np.zeros((1, 8, 8), np.uint8), logits)
    slope = tape.gradient(loss, logits).numpy()
    assert np.isfinite(slope).all()
    assert (slope[..., 1] > 0).all()
