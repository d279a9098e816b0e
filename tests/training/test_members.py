from dataclasses import replace

import numpy as np
import pyarrow as pa
import pytest

from medloop.errors import Refused
from medloop.kinds import image, table
from medloop.params import Train
from medloop.training import data, members

ABOUT = {"facts": {"split_in_time": False}}


def split(labels, patients, first=0):
    """Images of two pixels that hold each its own number."""
    number = np.arange(first, first + len(labels))
    images = np.stack([number // 256, number % 256], axis=1).astype(np.uint8).reshape(-1, 1, 2, 1)
    columns = {"sample_id": [f"s{i}" for i in number], "content_sha256": [f"{i:064x}" for i in number]}
    index = pa.table(columns | {"patient_id": pa.array(patients, pa.string())})
    return data.Split(images, np.asarray(labels, np.int32), index, image)


@pytest.fixture
def arrays():
    """280 samples of 140 patients, two each; of 20 more the patient is unknown. A third is of class 1."""
    patients = [f"p{i // 2}" for i in range(280)] + [None] * 20
    labels = [int(i // 2 % 3 == 0) for i in range(300)]
    return data.Arrays(ABOUT, split(labels[:220], patients[:220]), split(labels[220:], patients[220:], first=220))


def numbers(images):
    return images[..., 0, 0, 0].astype(int) * 256 + images[..., 0, 1, 0]


def test_a_fold_knows_as_the_whole_does_which_moments_are_real(arrays):
    padded = data.Arrays(ABOUT, *(replace(each, mask=True) for each in (arrays.train, arrays.val)))
    for known, wanted in ((arrays, False), (padded, True)):
        [member, *_] = members.plan(known, Train(folds=4), seed=7)
        assert (member.arrays.train.mask, member.arrays.val.mask, members.whole(known).mask) == (wanted,) * 3


def test_copies_of_one_picture_share_a_fold_whoever_they_are_of():
    random = np.random.default_rng(0)
    pictures = random.integers(0, 256, (40, 28, 28, 1), dtype=np.uint8)
    images = np.concatenate([pictures, np.flip(pictures, axis=2)])  # each a second time, mirrored
    labels = np.tile(np.arange(40) % 2, 2).astype(np.int32)
    columns = {"sample_id": [f"s{i}" for i in range(80)], "content_sha256": [f"{i:064x}" for i in range(80)]}
    index = pa.table(columns | {"patient_id": pa.nulls(80, pa.string())})
    together = data.Split(images, labels, index, image)
    fold = members.dealt(together, 4, seed=1)
    np.testing.assert_array_equal(fold[:40], fold[40:])
    assert np.bincount(fold).tolist() == [20] * 4
    apart = members.dealt(replace(together, inputs=images[:, :20, :20]), 4, seed=1)  # too small to tell
    assert (apart[:40] != apart[40:]).any()


def test_what_holds_the_same_shares_a_fold_of_every_kind():
    digests = [f"{number // 2:064x}" for number in range(40)]
    columns = {"sample_id": [f"s{i}" for i in range(40)], "content_sha256": digests}
    index = pa.table(columns | {"patient_id": pa.nulls(40, pa.string())})
    values = np.zeros((40, 5), np.float32)
    fold = members.dealt(data.Split(values, np.arange(40, dtype=np.int32) // 2 % 2, index, table), 5, seed=0)
    np.testing.assert_array_equal(fold[::2], fold[1::2])
    assert set(fold) == set(range(5))


def test_synthetic_images_are_refused_in_folds(arrays):
    made = pa.array([i == 3 for i in range(len(arrays.train.labels))])
    train = replace(arrays.train, index=arrays.train.index.append_column("synthetic", made))
    real = pa.array([False] * len(arrays.val.labels))
    val = replace(arrays.val, index=arrays.val.index.append_column("synthetic", real))
    with pytest.raises(Refused, match=r"train\.folds must be 0 with synthetic images, of which there are 1"):
        members.plan(data.Arrays(ABOUT, train, val), Train(folds=4), seed=0)
    assert len(members.plan(data.Arrays(ABOUT, train, val), Train(members=2), seed=0)) == 2


def test_rows_of_two_arrays_read_like_one(arrays):
    both = np.concatenate([arrays.train.inputs, arrays.val.inputs])
    rows = np.random.default_rng(0).permutation(300)[:100]
    found, wanted = members.Rows([arrays.train.inputs, arrays.val.inputs], rows), both[rows]
    assert (found.shape, found.dtype, len(found)) == (wanted.shape, wanted.dtype, 100)
    for key in (slice(None), slice(90, 200), np.array([3, 99, 3]), (slice(5, 9), ..., 0)):
        np.testing.assert_array_equal(found[key], wanted[key])


def test_every_sample_is_validated_on_once_and_by_a_network_that_never_saw_its_patient(arrays):
    plan = members.plan(arrays, Train(folds=4), seed=7)
    assert [member.seed for member in plan] == [7, 8, 9, 10]
    assert sorted(np.concatenate([member.rows for member in plan])) == list(range(300))
    together = members.whole(arrays)
    for member in plan:
        train, val = member.arrays.train, member.arrays.val
        np.testing.assert_array_equal(numbers(val.inputs[:]), member.rows)
        np.testing.assert_array_equal(val.labels, together.labels[member.rows])
        assert val.index["sample_id"].to_pylist() == [f"s{i}" for i in member.rows]
        assert sorted([*numbers(train.inputs[:]), *member.rows]) == list(range(300))
        seen = set(train.index["patient_id"].to_pylist()) & set(val.index["patient_id"].to_pylist())
        assert seen <= {None}
        assert abs(val.labels.mean() - together.labels.mean()) < 0.08


def test_folds_differ_by_seed_and_are_the_same_for_one(arrays):
    together = members.whole(arrays)
    first, same, other = (members.dealt(together, 3, seed) for seed in (0, 0, 1))
    np.testing.assert_array_equal(first, same)
    assert (first != other).any()


def test_more_folds_than_patients_of_a_class_are_refused(arrays):
    few = data.Arrays(ABOUT, split([0] * 20 + [1] * 4, [f"p{i // 2}" for i in range(24)]), arrays.val)
    few = data.Arrays(ABOUT, few.train, split([0, 0], ["q0", "q1"], first=24))
    with pytest.raises(
        Refused, match=r"train\.folds must be at most 2, the number of patients of the rarest class, got 3"
    ):
        members.plan(few, Train(folds=3), seed=0)


def test_a_rare_one_of_several_labels_is_in_every_fold(arrays):
    common, rare = np.arange(120) % 2, np.arange(120) % 20 == 0
    both = split(np.stack([common, rare], axis=1), [f"p{i}" for i in range(120)])
    both = replace(both, labels=both.labels.astype(np.uint8))
    fold = members.dealt(both, 3, seed=0)
    assert np.bincount(fold[rare]).tolist() == [2, 2, 2]
    assert np.bincount(fold).tolist() == [40, 40, 40]
    with pytest.raises(Refused, match="at most 6, the number of patients of the rarest class, got 7"):
        members.dealt(both, 7, seed=0)


def test_without_folds_members_differ_in_their_seed(arrays):
    plan = members.plan(arrays, Train(members=3), seed=5)
    assert [(member.seed, member.rows) for member in plan] == [(5, None), (6, None), (7, None)]
    assert all(member.arrays is arrays for member in plan)


def test_windows_of_one_recording_are_not_dealt_to_folds(arrays):
    in_time = data.Arrays({"facts": {"split_in_time": True}}, arrays.train, arrays.val)
    with pytest.raises(Refused, match="the neighbours of a window would stand in other folds"):
        members.plan(in_time, Train(folds=2), seed=0)
    assert len(members.plan(in_time, Train(members=2), seed=0)) == 2
