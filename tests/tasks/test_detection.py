"""What is said of boxes: average precision against pycocotools, FROC by hand, and all under weights of images."""

import numpy as np
import pandas as pd
import pytest

from medloop import box_measures, params
from medloop.answers import detection as answers
from medloop.errors import Refused
from medloop.tasks import detection as task

COCO = [  # seed; mAP@.5:.95, @.5, small, medium, large; AP@.5 of each class: of pycocotools 2.0 on the same boxes
    (
        0,
        0.2125909529,
        0.3927684743,
        0.3013791159,
        0.1617070059,
        0.3385019931,
        (0.4337339074, 0.2450249671, 0.4995465484),
    ),
    (1, 0.2003317469, 0.350277365, 0.3066485, 0.180706726, 0.3280317867, (0.3482891146, 0.3325553746, 0.3699876058)),
]
CARD = {"classes": ["a", "b", "c"], "threshold": 0.5}


def scene(seed, images=16, classes=3):
    """Return true boxes (M, 5) and detections (D, 6), the highest score first, of each image; the first has no box."""
    random = np.random.default_rng(seed)
    found = []
    for image in range(images):
        count = int(random.integers(0, 12)) if image else 0
        corner = random.uniform(0, 300, (count, 2))
        side = random.choice([12, 40, 110], (count, 1)) * random.uniform(0.7, 1.4, (count, 2))
        truth = np.column_stack([corner, corner + side, random.integers(1, classes + 1, count)])
        near = truth[random.random(count) < 0.8]
        near[:, :4] += random.normal(0, 0.08, (len(near), 4)) * np.tile(near[:, 2:4] - near[:, :2], 2)
        wrong = random.random(len(near)) < 0.15
        near[wrong, 4] = random.integers(1, classes + 1, wrong.sum())
        corner, side = random.uniform(0, 300, (6, 2)), random.uniform(8, 120, (6, 2))
        other = np.column_stack([corner, corner + side, random.integers(1, classes + 1, 6)])
        boxes = np.concatenate([near, near[:2] + np.array([1, 0, 1, 0, 0]), other])
        score = np.round(random.uniform(0, 1, len(boxes)), 4)
        rows = np.column_stack([boxes[:, :4], score, boxes[:, 4]])
        found.append((truth, rows[np.argsort(-score, kind="stable")]))
    return found


def gathered(found, card=CARD):
    count = len(found)
    table = pd.DataFrame(
        {"sample_id": [f"s{i}" for i in range(count)], "patient_id": [f"p{i // 2}" for i in range(count)]}
    )
    table[["site", "sex", "age_years"]] = None
    return task.gathered(table, (task.measured(rows, truth, card) for truth, rows in found), card)


def numbers(found, classes=3):
    """Return the labels and what is said of a scene, as `reduced` and `compared` make them."""
    texts = [answers.written(rows, CARD["classes"][:classes]) for _, rows in found]
    truths = [truth for truth, _ in found]
    labels = np.concatenate([task.areas(truth[None], classes) for truth in truths])
    return labels, task.compared(texts, truths, CARD["classes"][:classes])


@pytest.mark.parametrize(("seed", "average", "at_half", "small", "medium", "large", "each"), COCO)
def test_average_precision_is_that_of_pycocotools(seed, average, at_half, small, medium, large, each):
    found = gathered(scene(seed))
    metrics = {name: value[0] for name, value in found.metrics().items()}
    assert set(metrics) == set(task.METRICS)
    wanted = {"map": average, "map_50": at_half, "map_small": small, "map_medium": medium, "map_large": large}
    assert {name: metrics[name] for name in wanted} == pytest.approx(wanted, abs=1e-9)
    by_label = [one.metrics()["map_50"][0] for one in found.by_label().values()]
    assert by_label == pytest.approx(each, abs=1e-9)


def test_weights_of_images_are_copies_of_images():
    scenes, times = scene(3), np.random.default_rng(0).integers(0, 4, 16)
    copies = gathered([each for each, count in zip(scenes, times, strict=True) for _ in range(count)])
    weights = np.stack([times, np.ones(16)]).astype(float)
    found, alone = gathered(scenes).metrics(weights), gathered(scenes).metrics()
    for name, value in copies.metrics().items():
        assert found[name] == pytest.approx([value[0], alone[name][0]]), name


def test_the_gate_is_the_metric_of_the_report_and_what_is_stored_says_it_again():
    scenes = scene(4)
    found, (labels, said) = gathered(scenes), numbers(scenes)
    assert task.score(labels, said) == pytest.approx(found.metrics()["map_50"][0], abs=1e-3)  # JSON rounds
    table = found.frame()
    np.testing.assert_array_equal(table[task.stored(CARD["classes"])].to_numpy()[:, :100], found.scores)
    again = task.read(table.assign(sex=None, site=None, age_years=None), CARD)
    assert {name: value[0] for name, value in again.metrics().items()} == pytest.approx(
        {name: value[0] for name, value in found.metrics().items()}
    )
    weights = np.random.default_rng(1).integers(0, 3, (50, 16)).astype(float)
    stored = table[task.stored(CARD["classes"])].to_numpy(np.float64)
    np.testing.assert_allclose(task.gate(labels, stored, weights), found.metrics(weights)["map_50"])
    with pytest.raises(Refused, match="must be finite numbers, those of 1 of 16 images are not"):
        task.score(labels, np.where(np.arange(16)[:, None] == 2, np.nan, said))


def box(x, score=None, kind=1):
    return (x, 0, x + 10, 10, kind) if score is None else (x, 0, x + 10, 10, score, kind)


def test_froc_and_the_operating_point_of_a_case_by_hand():
    """Two images, three objects: found at .9 and .6, missed; false boxes at .8, .7 and .3."""
    scenes = [
        (np.array([box(0), box(50)]), np.array([box(1, 0.9), box(200, 0.8), box(300, 0.7)])),
        (np.array([box(0)]), np.array([box(0, 0.6), box(200, 0.3)])),
    ]
    card = {"classes": ["a"], "threshold": 0.65}
    found = gathered(scenes, card)
    metrics = {name: value[0] for name, value in found.metrics().items()}
    assert "map_medium" not in metrics
    below_one, from_one = 1 / 3, 2 / 3  # sensitivity at 1/8, 1/4 and 1/2 false boxes an image; and from 1 on
    assert metrics["froc"] == pytest.approx((3 * below_one + 4 * from_one) / 7)
    assert metrics["sensitivity"] == pytest.approx(1 / 3)
    assert metrics["ppv"] == pytest.approx(1 / 3)
    assert metrics["f1"] == pytest.approx(1 / 3)
    assert metrics["false_positives"] == 1
    assert metrics["map_50"] == pytest.approx((34 * 1 + 33 * 0.5) / 101)  # recall 1/3 and 2/3, precision 1 and 2/4
    assert found.counts() == {"samples": 2, "patients": 1, "classes": {"a": 2}, "objects": {"a": 3}}


def test_an_object_is_found_once_and_by_the_surest_box():
    truth, rows = np.array([box(0)]), np.array([box(2, 0.9), box(0, 0.8)])
    hits, _, counted = box_measures.matched(rows, truth, 1)
    assert counted.tolist() == [1]
    assert hits.tolist() == [0b0000001111, 0b1111110000]  # the first has an IoU of 8 / 12


def test_the_threshold_is_that_of_the_best_f1_on_validation_data():
    scenes = [
        (np.array([box(0)]), np.array([box(0, 0.8), box(90, 0.55)])),
        (np.array([box(0)]), np.array([box(0, 0.6)])),
    ]
    labels, said = numbers(scenes, 1)
    card = {"classes": ["a"]}
    chosen = task.chosen(labels, said, card, params.Evaluate())
    assert 0.55 < chosen["threshold"] <= 0.6
    assert chosen["operating_point"] == {"validation_f1": 1.0}
    assert (chosen["temperature"], chosen["calibrated"]) == (1.0, False)
    with pytest.raises(Refused, match="positive_class must be null for task detection"):
        task.chosen(labels, said, card, params.Evaluate(positive_class="a"))


def test_images_without_an_object_count_and_false_boxes_in_them_cost():
    right = (np.array([box(0)]), np.array([box(0, 0.6)]))
    nothing, wrong = np.zeros((0, 5)), np.array([box(0, 0.9)])
    card = {"classes": ["a"], "threshold": 0.5}
    assert gathered([right, (nothing, wrong[:0])], card).metrics()["map_50"][0] == 1
    assert gathered([right, (nothing, wrong)], card).metrics()["map_50"][0] == 0.5
    alone = gathered([(nothing, wrong)], card).metrics()
    assert np.isnan(alone["map_50"][0])
    assert alone["false_positives"][0] == 1


def test_outputs_that_are_no_numbers_are_told_from_those_that_are():
    outputs = np.zeros((2, 6, 8 + 3 + 1), np.float32)
    outputs[1, 0, 9] = np.nan
    kept = task.reduced(outputs, np.zeros((2, 1, 5), np.float32))
    assert np.isfinite(kept).all(axis=1).tolist() == [True, False]


def test_data_without_boxes_and_training_for_labels_are_refused():
    with pytest.raises(Refused, match="needs a list of boxes for every image"):
        task.check({"kind": "image", "source": "folder", "classes": ["a"], "boxes": False})
    task.check({"kind": "image", "source": "voc", "classes": ["a"], "boxes": True})
    with pytest.raises(Refused, match="at least one class"):
        task.outputs([])
    wanted = r"not for an image: set train\.mixup: 0, train\.sampling: natural"
    with pytest.raises(Refused, match=wanted):
        task.loss(params.Train(architectures=("fcos",), mixup=0.2, sampling="balanced"))
