"""Boxes on the way through training: in segments, in folds, in memory, and out of windows."""

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest

import box_images
from medloop import imaging, manifest, params
from medloop.errors import Refused
from medloop.kinds import image
from medloop.tasks import detection as task
from medloop.training import data, members

COUNT = 24


def split(seed):
    pixels, found = box_images.images((40, 40), COUNT, seed)
    index = {
        "sample_id": [f"{seed}-{i}" for i in range(COUNT)],
        "content_sha256": [f"{seed}{i:063x}" for i in range(COUNT)],
        "patient_id": [f"{seed}-p{i // 2}" for i in range(COUNT)],
    }
    return data.Split(pixels[..., None], box_images.packed(found), pa.table(index), image)


@pytest.fixture(scope="module")
def arrays():
    about = {"classes": box_images.CLASSES, "facts": {"split_in_time": False}}
    return data.Arrays(about, split(0), split(1))


def epoch(arrays, number=1):
    section = params.Train(batch_size=8, augment=params.Augment(flip_horizontal=True, shift=0.1, zoom=0.1))
    weights = data.sample_weights(arrays.train.labels, 2, section.class_weights, section.sampling)
    assert (weights == 1).all()
    return list(data.epoch_segments(arrays.train, weights, section, seed=0, epoch=number))


def test_boxes_move_with_their_images_and_seed_and_epoch_decide_how(arrays):
    [(inputs, boxes, _)] = epoch(arrays)
    assert (boxes.shape, boxes.dtype) == ((3, 8, 3, 5), np.float32)
    seen = 0
    for pixels, own in zip(inputs.reshape(-1, 40, 40), boxes.reshape(-1, 3, 5), strict=True):
        for x0, y0, x1, y1, kind in own[own[:, 4] > 0]:
            inside = pixels[round(y0) + 3 : round(y1) - 3, round(x0) + 3 : round(x1) - 3]
            assert inside.mean() > 160 if kind == 2 else inside.mean() < 60
            seen += 1
    assert seen > 40
    np.testing.assert_array_equal(epoch(arrays)[0][1], boxes)
    assert not np.array_equal(epoch(arrays, 2)[0][1], boxes)


def test_folds_deal_the_classes_of_boxes_and_keep_patients_together(arrays):
    plan, together = members.plan(arrays, params.Train(folds=3), seed=0), members.whole(arrays)
    assert sorted(np.concatenate([member.rows for member in plan])) == list(range(2 * COUNT))
    for member in plan:
        train, val = member.arrays.train, member.arrays.val
        np.testing.assert_array_equal(val.labels[:], together.labels[member.rows])
        np.testing.assert_array_equal(task.areas(val.labels, 2), task.areas(together.labels[member.rows], 2))
        assert not set(train.index["patient_id"].to_pylist()) & set(val.index["patient_id"].to_pylist())
        assert data.presence(val.labels, 2).any(axis=0).all()


def test_a_class_without_a_box_in_train_is_refused(arrays):
    labels = arrays.train.labels.copy()
    labels[labels[..., 4] == 2] = 0
    with pytest.raises(Refused, match="split train needs boxes with every class, none of its boxes has: square"):
        data._refuse_unseen(box_images.CLASSES, labels)


def test_windows_have_the_boxes_that_they_show_enough_of():
    """Windows of 20 x 20 in 20 x 30 pixels: the first box lies in both, the second in one, of the third a fifth."""
    rows = pd.DataFrame(
        {
            "boxes": [[[12, 2, 18, 8], [0, 0, 6, 6], [18, 10, 28, 20]], []],
            "box_labels": [["a", "b", "b"], []],
            "shape": [(20, 30), (20, 30)],
        }
    )
    facts = manifest.Facts(("a", "b"), "voc", boxes=True)
    section = params.Preprocess(size_px=(20, 20), larger="slide", overlap=0.5)
    form = image.form(rows, None, facts, section)
    assert form.boxes == 3
    found = image.boxes(rows, form, facts.classes)
    assert (found.shape, found.dtype) == ((4, 3, 5), np.float32)
    assert found[0].tolist() == [[12, 2, 18, 8, 1], [0, 0, 6, 6, 2], [0] * 5]
    assert found[1].tolist() == [[2, 2, 8, 8, 1], [8, 10, 18, 20, 2], [0] * 5]
    assert (found[2:] == 0).all()


def test_fitted_boxes_stand_where_fitted_images_show_them():
    moved = imaging.fit_boxes(np.array([[10.0, 0, 20, 10, 3]]), (10, 20), (40, 40))
    assert moved.tolist() == [[20, 10, 40, 30, 3]]  # five rows are added above, then all is doubled
