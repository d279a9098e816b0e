import json
import tracemalloc

import numpy as np
import pytest

from medloop.errors import Refused
from medloop.kinds import image, sequence
from medloop.params import Augment, Train
from medloop.training import data
from synthetic import write_arrays


@pytest.fixture
def numbered():
    """300 images of which each holds its own number."""
    count = np.arange(300)
    images = np.stack([count // 256, count % 256], axis=1).astype(np.uint8).reshape(300, 1, 2, 1)
    return data.Split(images, (count % 2).astype(np.int32), None, image)


def numbers(images):
    return images[..., 0, 0, 0].astype(int) * 256 + images[..., 0, 1, 0]


def epoch(split, section=Train(), seed=0, number=1, weights=None):  # noqa: B008
    weights = np.ones(len(split.labels), np.float32) if weights is None else weights
    return list(data.epoch_segments(split, weights, section, seed=seed, epoch=number))


def test_an_epoch_shows_every_sample_once_and_fills_the_last_batch_with_weight_zero(numbered):
    [(images, labels, weights)] = epoch(numbered, weights=np.arange(1, 301, dtype=np.float32))
    assert images.shape == (10, 32, 1, 2, 1)
    seen, counted = numbers(images), weights > 0
    assert sorted(seen[counted]) == list(range(300))
    np.testing.assert_array_equal(weights[counted], seen[counted] + 1)
    np.testing.assert_array_equal(labels, seen % 2)
    assert not counted[-1, -20:].any()


@pytest.mark.parametrize("recipe", [{}, {"mixup": 0.4, "sampling": "balanced"}])
def test_segments_bound_memory_and_change_nothing(numbered, monkeypatch, recipe):
    section = Train(augment=Augment(flip_horizontal=True, shift=0.4, noise=0.5), **recipe)
    [whole] = epoch(numbered, section)
    monkeypatch.setattr(data, "SEGMENT_BYTES", 3 * 32 * 2)
    parts = epoch(numbered, section)
    assert [len(part[0]) for part in parts] == [3, 3, 3, 1]
    for i in range(3):
        np.testing.assert_array_equal(np.concatenate([part[i] for part in parts]), whole[i])


@pytest.mark.parametrize("recipe", [{}, {"mixup": 0.4}, {"sampling": "balanced"}])
def test_seed_and_epoch_alone_decide_order_augmentation_and_mixing(numbered, recipe):
    section = Train(augment=Augment(flip_horizontal=True, noise=0.2), **recipe)
    first, same = epoch(numbered, section)[0], epoch(numbered, section)[0]
    for one, other in zip(first, same, strict=True):
        np.testing.assert_array_equal(one, other)
    assert not np.array_equal(first[1], epoch(numbered, section, number=2)[0][1])
    assert not np.array_equal(first[1], epoch(numbered, section, seed=1)[0][1])


def test_a_batch_is_never_larger_than_the_set(numbered):
    [(images, _, weights)] = epoch(numbered, Train(batch_size=4096))
    assert images.shape[:2] == (1, 300)
    assert weights.all()


def test_balanced_weights_give_every_class_the_same_sum():
    labels = np.array([0] * 90 + [1] * 10, np.int32)
    weights = data.sample_weights(labels, 2, "balanced")
    assert weights[labels == 0].sum() == pytest.approx(weights[labels == 1].sum())
    assert weights.mean() == pytest.approx(1)
    assert (data.sample_weights(labels, 2, "none") == 1).all()
    assert (data.sample_weights(labels, 2, "balanced", "balanced") == 1).all()


def test_balanced_sampling_shows_as_many_samples_of_every_class():
    labels = np.repeat(np.arange(3, dtype=np.int32), [70, 8, 22])
    split = data.Split(np.arange(100, dtype=np.uint8).reshape(100, 1, 1, 1), labels, None, image)
    majority = []
    for number in (1, 2):
        [(images, shown, weights)] = epoch(split, Train(sampling="balanced", batch_size=16), number=number)
        seen, counted = images[..., 0, 0, 0], weights > 0
        assert counted.sum() == 100
        np.testing.assert_array_equal(shown, labels[seen])
        assert np.bincount(shown[counted]).tolist() == [34, 33, 33]
        times = np.bincount(seen[counted], minlength=100)
        assert set(times[labels == 0]) == {0, 1}
        assert set(times[labels == 1]) == {4, 5}
        assert set(times[labels == 2]) == {1, 2}
        majority.append(set(seen[labels[seen] == 0]))
    assert majority[0] != majority[1]


def test_mixing_gives_an_image_and_its_label_the_same_proportion():
    labels = (np.arange(300) % 2).astype(np.int32)
    split = data.Split((255 * labels).astype(np.uint8).reshape(300, 1, 1, 1), labels, None, image)
    [(images, shares, weights)] = epoch(split, Train(mixup=0.5))
    assert (images.shape, shares.shape, shares.dtype) == ((10, 32, 1, 1, 1), (10, 32, 2), np.float32)
    np.testing.assert_allclose(shares[..., 1], images[..., 0, 0, 0] / 255, atol=0.5 / 255 + 1e-6)
    mixed = (shares > 0.01).all(axis=-1)
    assert 0.1 < mixed.mean() < 0.6
    np.testing.assert_array_equal(weights.ravel() == 0, np.arange(320) >= 300)
    np.testing.assert_allclose(weights.ravel()[:300], 1, rtol=1e-6)


def test_mixing_keeps_what_each_class_counts():
    labels = (np.arange(300) % 3 == 0).astype(np.int32)
    weights = data.sample_weights(labels, 2, "balanced")
    split = data.Split(np.zeros((300, 1, 1, 1), np.uint8), labels, None, image)
    found = [epoch(split, Train(mixup=1.0, batch_size=30), weights=weights, number=number)[0] for number in range(20)]
    total = sum((shares * scale[..., None]).sum(axis=(0, 1)) for _, shares, scale in found)
    assert total[0] == pytest.approx(total[1], rel=0.03)


def test_normalisation_constants_are_those_of_train():
    images = np.random.default_rng(0).integers(0, 256, (50, 6, 7, 3), dtype=np.uint8)
    fitted = data.normalisation("train", data.Split(images, np.zeros(50, np.int32), None, image))
    np.testing.assert_allclose(fitted["mean"], images.mean(axis=(0, 1, 2)), rtol=1e-9)
    np.testing.assert_allclose(fitted["std"], images.std(axis=(0, 1, 2)), rtol=1e-9)
    assert data.normalisation("image", data.Split(images, np.zeros(50, np.int32), None, image)) == {"kind": "image"}


def test_bounds_are_those_of_train_and_of_its_real_moments_alone():
    windows = np.random.default_rng(0).normal(size=(40, 9, 3)).astype(np.float32)
    windows[..., 2] = np.arange(9) < 6
    windows[:, 6:, :2] = 1000
    split = data.Split(windows, np.zeros(40, np.int32), None, sequence)
    fitted = data.normalisation("clipped", split, mask=True)
    real = windows[:, :6, :2]
    assert fitted["mask"]
    np.testing.assert_array_equal(fitted["low"], real.min(axis=(0, 1)))
    np.testing.assert_array_equal(fitted["high"], real.max(axis=(0, 1)))
    np.testing.assert_allclose(fitted["std"], real.std(axis=(0, 1)), rtol=1e-6)


@pytest.mark.parametrize("dtype", [np.uint8, np.float32])
def test_a_constant_channel_is_divided_by_one(dtype):
    inputs = np.random.default_rng(0).integers(0, 9, (20, 5, 2)).astype(dtype)
    inputs[..., 1] = 7
    mean, std = data.mean_and_std(inputs)
    assert (mean[1], std[1]) == (7, 1)
    np.testing.assert_allclose(std[0], inputs[..., 0].std(), rtol=1e-6)


def test_memory_does_not_grow_with_the_set(monkeypatch):
    monkeypatch.setattr(data, "SEGMENT_BYTES", 2**21)
    monkeypatch.setattr(data, "COUNTED_PIXELS", 2**18)
    section = Train(augment=Augment(shift=0.1, noise=0.1), mixup=0.2, sampling="balanced")
    peaks = []
    for count in (800, 3200):
        split = data.Split(
            np.broadcast_to(np.uint8(7), (count, 64, 64, 1)), np.arange(count, dtype=np.int32) % 2, None, image
        )
        tracemalloc.start()
        data.mean_and_std(split.inputs)
        for _ in data.epoch_segments(split, np.ones(count, np.float32), section, seed=0, epoch=1):
            pass
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
    assert peaks[1] < 1.2 * peaks[0]


def test_arrays_are_mapped_into_memory(tmp_path):
    read = data.read(write_arrays(tmp_path / "arrays"))
    assert isinstance(read.train.inputs, np.memmap)
    assert (read.shape, read.classes, len(read.val.labels)) == ((12, 12, 1), ["a", "b"], 40)


def test_missing_arrays_another_version_or_an_absent_class_are_refused(tmp_path):
    with pytest.raises(Refused, match=r"no arrays in .*: run `medloop preprocess` first"):
        data.read(tmp_path)
    folder = write_arrays(tmp_path / "arrays")
    np.save(folder / "val/labels.npy", np.zeros(40, np.int32))
    with pytest.raises(Refused, match="split val needs samples of every class, it has none of: b"):
        data.read(folder)
    about = json.loads((folder / "about.json").read_text())
    (folder / "about.json").write_text(json.dumps(about | {"schema_version": 9}))
    with pytest.raises(Refused, match="has schema version 9, this medloop reads 2"):
        data.read(folder)


@pytest.mark.parametrize("recipe", [{}, {"mixup": 0.4, "sampling": "balanced"}])
def test_the_parts_of_the_nodes_make_the_whole(numbered, recipe):
    section = Train(augment=Augment(flip_horizontal=True, noise=0.2), batch_size=30, **recipe)
    [whole] = epoch(numbered, section)
    three = section.model_copy(update={"nodes": 3, "backend": "jax"})
    ones = np.ones(300, np.float32)
    parts = [next(data.epoch_segments(numbered, ones, three, seed=0, epoch=1, node=node)) for node in range(3)]
    for i, wanted in enumerate(whole):
        np.testing.assert_array_equal(np.concatenate([part[i] for part in parts], axis=1), wanted)


def test_a_set_that_the_devices_cannot_share_is_refused(numbered):
    section = Train(nodes=7, backend="jax", batch_size=700)
    with pytest.raises(Refused, match=r"300 training samples make one batch, which 7 devices .* to 294 or less"):
        data.batch_size(numbered, section)


def test_a_moment_is_real_that_one_of_two_mixed_sequences_has():
    real = np.array([[1, 1, 0, 0], [1, 1, 1, 0]] * 8, np.float32)[..., None]
    inputs = np.concatenate([real * 2, real], axis=-1)
    split = data.Split(inputs, np.arange(16, dtype=np.int32) % 2, None, sequence, mask=True)
    weights = np.ones(16, np.float32)
    section = Train(mixup=1.0, batch_size=16, augment=Augment(contrast=0.2, noise=0.1))
    [(found, _, _)] = data.epoch_segments(split, weights, section, seed=0, epoch=1)
    masks, values = found[0, ..., 1], found[0, ..., 0]
    assert {tuple(mask) for mask in masks} == {(1, 1, 0, 0), (1, 1, 1, 0)}
    assert not values[masks == 0].any()
