"""Masks on the way through training: in segments, in folds, in views, and in memory."""

import tracemalloc
from dataclasses import replace

import numpy as np
import pytest

import maps
from medloop import params
from medloop.errors import Refused
from medloop.inference import Network
from medloop.kinds import image
from medloop.tasks import segmentation as task
from medloop.training import backend, data, members

TURNED = params.Augment(flip_horizontal=True, flip_vertical=True, shift=0.2)


@pytest.fixture(scope="module")
def arrays(tmp_path_factory):
    return data.read(maps.write(tmp_path_factory.mktemp("maps"), classes=("a", "b")) / "arrays")


@pytest.fixture(scope="module")
def plain():
    backend.start("tensorflow", seed=0)
    from medloop.training import network

    return network.build(network.Spec("unet", (13, 18, 1), 3, {"filters": [4, 8]}, {"kind": "image"}))


def epoch(split, section, number=1):
    weights = data.sample_weights(split.labels, 2, section.class_weights, section.sampling)
    return list(data.epoch_segments(split, weights, section, seed=0, epoch=number))


def test_masks_are_mapped_into_memory_and_move_with_their_images(arrays):
    assert isinstance(arrays.train.labels, np.memmap)
    shown = replace(arrays.train, inputs=100 * np.asarray(arrays.train.labels)[..., None])
    [(inputs, masks, weights)] = epoch(shown, params.Train(batch_size=8, augment=TURNED))
    assert (masks.shape, masks.dtype, weights.shape) == ((3, 8, 24, 24), np.uint8, (3, 8))
    assert (weights == 1).all()
    nearest = np.abs(inputs[..., 0] - 100.0 * masks)
    assert (nearest < 50).mean() > 0.97  # between two classes the image is blurred, and the mask is not
    assert set(np.unique(masks)) == {0, 1, 2}
    still = [mask.tobytes() for mask in arrays.train.labels]
    assert sum(mask.tobytes() in still for mask in masks.reshape(-1, 24, 24)) < 12


def test_seed_and_epoch_alone_decide_how_masks_move(arrays):
    section = params.Train(batch_size=8, augment=TURNED)
    first, same, other = epoch(arrays.train, section), epoch(arrays.train, section), epoch(arrays.train, section, 2)
    np.testing.assert_array_equal(first[0][1], same[0][1])
    assert not np.array_equal(first[0][1], other[0][1])


def test_memory_grows_neither_with_the_number_of_masks_nor_with_that_of_maps(monkeypatch):
    monkeypatch.setattr(data, "SEGMENT_BYTES", 2**19)
    peaks = []
    for count in (64, 512):
        masks = np.broadcast_to(np.uint8(1), (count, 64, 64))
        split = data.Split(np.broadcast_to(np.uint8(7), (count, 64, 64, 1)), masks, None, image)
        tracemalloc.start()
        for _ in data.epoch_segments(split, np.ones(count, np.float32), params.Train(), seed=0, epoch=1):
            pass
        from medloop.training import judging

        parts = ((slice(i, i + 8), np.zeros((8, 64, 64, 2), np.float32)) for i in range(0, count, 8))
        found = judging.outputs(parts, masks, task)
        assert len(found) == count
        peaks.append(tracemalloc.get_traced_memory()[1] - found.nbytes)
        tracemalloc.stop()
    assert peaks[1] < 1.2 * peaks[0]


def test_folds_deal_the_classes_of_masks_and_keep_patients_together(arrays):
    plan = members.plan(arrays, params.Train(folds=3), seed=0)
    together = members.whole(arrays)
    assert sorted(np.concatenate([member.rows for member in plan])) == list(range(36))
    for member in plan:
        train, val = member.arrays.train, member.arrays.val
        np.testing.assert_array_equal(val.labels[:], together.labels[member.rows])
        np.testing.assert_array_equal(task.areas(val.labels, 2), task.areas(together.labels[member.rows], 2))
        assert not set(train.index["patient_id"].to_pylist()) & set(val.index["patient_id"].to_pylist())
        assert data.presence(val.labels, 2).any(axis=0).all()
    with pytest.raises(
        Refused, match=r"train\.folds must be at most 1[0-9], the number of patients of the rarest class"
    ):
        members.plan(arrays, params.Train(folds=20), seed=0)


def test_masks_of_no_class_or_without_one_are_refused(tmp_path):
    folder = maps.write(tmp_path, classes=("a", "b")) / "arrays"
    masks = np.load(folder / "train/labels.npy")
    np.save(folder / "train/labels.npy", np.minimum(masks, 1))
    with pytest.raises(Refused, match="split train needs masks with every class, none of its masks has: b"):
        data.read(folder)
    masks[3, 4, 5] = 7
    np.save(folder / "train/labels.npy", masks)
    with pytest.raises(Refused, match="masks must hold 0 to 2, the number of classes, got 7"):
        data.read(folder)


def test_maps_of_flipped_views_are_turned_back_in_keras_and_in_onnx(plain, tmp_path):
    from medloop.training import export, views

    network = views.averaged(plain, params.Views(flip_horizontal=True, flip_vertical=True))
    images = np.random.default_rng(0).integers(0, 256, (5, 13, 18, 1), dtype=np.uint8)
    wanted = []
    for rows in (1, -1):
        for columns in (1, -1):
            seen = np.asarray(plain(np.ascontiguousarray(images[:, ::rows, ::columns])))
            wanted.append(seen[:, ::rows, ::columns])
    wanted = np.mean(wanted, axis=0)
    np.testing.assert_allclose(network(images), wanted, atol=1e-5)
    assert np.abs(wanted - plain(images)).max() > 1e-3
    export.save_keras(network, tmp_path / "model.keras")
    export.save_onnx(tmp_path / "model.keras", tmp_path / "model.onnx")
    exported = Network(tmp_path / "model.onnx")
    np.testing.assert_allclose(exported.outputs(images), wanted, atol=1e-4)
    np.testing.assert_array_equal(np.concatenate(list(exported.parts(images, 2))).shape, (5, 13, 18, 3))


def test_maps_are_predicted_a_few_at_a_time(plain):
    from medloop.training import engine

    assert engine.batch_of((None, 256, 256, 2)) == 16
    assert engine.batch_of((None, 2048, 2048, 2)) == 1
    assert engine.batch_of((None, 2)) == engine.batch_of((None, 28, 28, 2)) == 256
    images = np.random.default_rng(0).integers(0, 256, (7, 13, 18, 1), dtype=np.uint8)
    predict = engine.Predictor(plain)
    predict._batch = 3
    parts = list(predict.parts(images))
    assert [(rows.start, rows.stop) for rows, _ in parts] == [(0, 3), (3, 6), (6, 7)]
    np.testing.assert_allclose(np.concatenate([part for _, part in parts]), plain(images), atol=1e-4)
