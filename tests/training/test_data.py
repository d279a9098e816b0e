import json
import tracemalloc

import numpy as np
import pytest

from medloop.errors import Refused
from medloop.kinds import image
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


def test_segments_bound_memory_and_change_nothing(numbered, monkeypatch):
    section = Train(augment=Augment(flip_horizontal=True, shift=0.4, noise=0.5))
    [whole] = epoch(numbered, section)
    monkeypatch.setattr(data, "SEGMENT_BYTES", 3 * 32 * 2)
    parts = epoch(numbered, section)
    assert [len(part[0]) for part in parts] == [3, 3, 3, 1]
    for i in range(3):
        np.testing.assert_array_equal(np.concatenate([part[i] for part in parts]), whole[i])


def test_seed_and_epoch_alone_decide_order_and_augmentation(numbered):
    section = Train(augment=Augment(flip_horizontal=True, noise=0.2))
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


def test_normalisation_constants_are_those_of_train():
    images = np.random.default_rng(0).integers(0, 256, (50, 6, 7, 3), dtype=np.uint8)
    fitted = data.normalisation("train", data.Split(images, np.zeros(50, np.int32), None, image))
    np.testing.assert_allclose(fitted["mean"], images.mean(axis=(0, 1, 2)), rtol=1e-9)
    np.testing.assert_allclose(fitted["std"], images.std(axis=(0, 1, 2)), rtol=1e-9)
    assert data.normalisation("image", data.Split(images, np.zeros(50, np.int32), None, image)) == {"kind": "image"}


def test_memory_does_not_grow_with_the_set(monkeypatch):
    monkeypatch.setattr(data, "SEGMENT_BYTES", 2**21)
    monkeypatch.setattr(data, "COUNTED_PIXELS", 2**18)
    section = Train(augment=Augment(shift=0.1, noise=0.1))
    peaks = []
    for count in (800, 3200):
        split = data.Split(np.broadcast_to(np.uint8(7), (count, 64, 64, 1)), np.zeros(count, np.int32), None, image)
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


def test_the_parts_of_the_nodes_make_the_whole(numbered):
    section = Train(augment=Augment(flip_horizontal=True, noise=0.2), batch_size=30)
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
