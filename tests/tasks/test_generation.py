"""What is measured of images that a model makes, against the reference library and against plain computations."""

import numpy as np
import pandas as pd
import pytest
from sklearn.metrics import roc_auc_score
from sklearn.metrics.pairwise import polynomial_kernel

from medloop import kernel_distance, memorisation, params, study
from medloop.answers.classification import probabilities
from medloop.errors import Refused
from medloop.operations.verdict import Scores, Standing, verdict
from medloop.tasks import generation as task
from medloop.training import data, feeding

RANDOM = np.random.default_rng(0)
CARD = {"classes": ["a", "b"], "input_shape": [6, 6, 1]}


def features(count, shift=0.0):
    return (np.abs(RANDOM.normal(0, 1, (count, task.FEATURES))) + shift).astype(np.float32)


def by_reference(first, second):
    """KID of Binkowski et al. by scikit-learn's kernel."""
    both = [polynomial_kernel(*pair, degree=3, coef0=1) for pair in ((first, first), (second, second), (first, second))]
    n, m = len(first), len(second)
    own = [(k.sum() - np.trace(k)) / (len(k) * (len(k) - 1)) for k in both[:2]]
    return sum(own) - 2 * both[2].sum() / (n * m)


@pytest.mark.parametrize("shift", [0.0, 0.5])
def test_the_kernel_distance_is_that_of_the_reference(shift, monkeypatch):
    monkeypatch.setattr(kernel_distance, "BLOCK", 7)
    real, made = features(30), features(20, shift)
    wanted = by_reference(real.astype(np.float64), made.astype(np.float64))
    found = kernel_distance.distance(
        real, kernel_distance.cross(real, made), kernel_distance.own(made), np.ones((1, 30))
    )
    assert found[0] == pytest.approx(wanted, rel=1e-6)
    assert (found[0] > 0.05) == (shift > 0)


def test_under_weights_it_is_that_of_the_images_drawn_without_pairs_of_one_and_the_same():
    real = features(12)
    weights = RANDOM.multinomial(12, np.full(12, 1 / 12), 5).astype(float)
    found = kernel_distance.weighted(real, weights)
    for row, value in zip(weights, found, strict=True):
        rows = np.repeat(np.arange(12), row.astype(int))
        kernel = polynomial_kernel(real[rows].astype(float), degree=3, coef0=1)
        assert value == pytest.approx(kernel[rows[:, None] != rows].mean())
    assert np.isnan(kernel_distance.weighted(real, np.eye(12)[:1]))[0]
    means = [
        kernel_distance.weighted(real, RANDOM.multinomial(12, np.full(12, 1 / 12), 4000).astype(float)).mean(),
        kernel_distance.weighted(real, np.ones((1, 12)))[0],
    ]
    assert means[0] == pytest.approx(means[1], rel=0.02)  # resampling alone moves it nowhere


def predictions(count=40, shift=0.3):
    real, made, train = features(count), features(25, shift), features(50)
    labels = np.resize([0, 1], count)
    about = study.said(real, made, train, 0.04)
    logits = RANDOM.normal(0, 1, (count, 4)) + labels[:, None] * [0, 3, 0, 1]
    outputs = np.concatenate([about, logits], axis=1)
    ids = [f"s{i}" for i in range(count)]
    table = pd.DataFrame({"sample_id": ids, "patient_id": ids, "site": "n", "sex": "F", "age_years": 50.0})
    return real, made, train, logits, labels, task.predictions(table, labels, outputs, CARD)


def test_metrics_are_those_of_the_sets_and_of_both_classifiers():
    real, made, train, logits, labels, found = predictions()
    got = {name: float(value[0]) for name, value in found.metrics().items()}
    assert list(got) == list(task.METRICS)
    assert got["kid"] == pytest.approx(by_reference(real.astype(float), made.astype(float)))
    assert got["kid_train"] == pytest.approx(by_reference(real.astype(float), train.astype(float)))
    auc = {
        name: roc_auc_score(labels, probabilities(part)[:, 1])
        for name, part in (("real", logits[:, :2]), ("synthetic", logits[:, 2:]))
    }
    assert got["auc_real"] == pytest.approx(auc["real"])
    assert got["auc_synthetic"] == pytest.approx(auc["synthetic"])
    assert got["auc_lost"] == pytest.approx(auc["real"] - auc["synthetic"])
    wanted = got["kid"] / got["kid_train"] if got["kid_train"] > 0 else np.nan
    assert got["kid_ratio"] == pytest.approx(wanted, nan_ok=True)
    assert task.score(labels, found.said) == pytest.approx(got["kid"])


def test_predictions_are_read_as_they_were_written():
    *_, found = predictions()
    again = task.read(found.frame(), CARD)
    for name, value in found.metrics().items():
        np.testing.assert_array_equal(again.metrics()[name], value)
    np.testing.assert_array_equal(found.frame()[task.stored(["a", "b"])].to_numpy(), found.said)
    assert found.counts() == {"samples": 40, "patients": 40, "classes": {"a": 20, "b": 20}}


def standing(version):
    return Standing(version, "generation", ("a", "b"), True, "refuse")


def decided(candidate, champion=None, **rule):
    *_, labels, _ = predictions()
    wanted = params.Promote(min_samples=5, min_per_class=2, resamples=200, **rule)
    patients = pd.Series([f"p{i}" for i in range(40)])
    scores = Scores(labels, patients, candidate, champion)
    return verdict(standing("2"), standing("1") if champion is not None else None, scores, wanted, task)


def said(shift, near=0.0):
    random = np.random.default_rng(5)
    real, made, train = (np.abs(random.normal(0, 1, (n, task.FEATURES))) for n in (40, 60, 60))
    return study.said(real, made + shift, train, near)


def test_the_verdict_wants_a_lower_distance_and_no_copies():
    good, bad = said(0.0), said(0.1)
    assert decided(good).ok
    refused = decided(bad)
    assert not refused.ok
    assert "is more than promote.max_kid_ratio 2 times that of the train images" in refused.reason
    assert decided(bad, max_kid_ratio=100).ok
    copies = decided(said(0.0, near=0.01))
    assert not copies.ok
    assert "it memorises: 1.00% of its images are nearer to a train image" in copies.reason
    assert decided(said(0.0, near=0.01), max_near=0.02).ok


def test_a_champion_gives_way_to_a_lower_distance_alone():
    good, bad = said(0.0), said(0.2)
    better = decided(good, bad, max_kid_ratio=100)
    assert better.ok
    assert "better (lower) than champion version 1" in better.reason
    worse = decided(bad, good, max_kid_ratio=100)
    assert not worse.ok
    assert "it may be inferior" in worse.reason


def images(count, seed=0):
    return np.random.default_rng(seed).integers(0, 255, (count, 30, 30, 1), np.uint8)


def test_the_nearest_is_that_of_a_plain_search(monkeypatch):
    monkeypatch.setattr(memorisation, "BLOCK", 4)
    made, train = images(10, 1), images(15)
    found = memorisation.nearest(made, train)
    away = np.sqrt(((made[:, None].astype(float) - train[None]) ** 2).mean(axis=(2, 3, 4)))
    np.testing.assert_allclose(found.distance, away.min(axis=1))
    np.testing.assert_array_equal(found.place, away.argmin(axis=1))


def test_copies_in_train_are_no_neighbours_and_copies_of_train_are_found():
    smooth = np.stack([np.kron(each[:10, :10], np.ones((3, 3, 1), np.uint8)) for each in images(24)])
    train = np.concatenate([smooth, np.clip(smooth[:4].astype(int) + 2, 0, 255).astype(np.uint8)])
    known, twice = memorisation.among(train)
    assert twice == 8
    assert memorisation.limit(known.distance) > 50  # as far as two pictures are, not as two copies
    assert (known.place >= 0).all()
    made = np.concatenate([smooth[3:5][:, :, ::-1], images(3, 9)])  # mirrored: far in pixels, and yet a copy
    assert memorisation.nearest(made, train).distance.min() > memorisation.limit(known.distance) / 2
    assert set(memorisation.copies(made, train)[:, 0]) == {0, 1}
    assert memorisation.limit(np.full(3, np.inf)) == 0


def test_what_judges_a_model_is_asked_for_as_train_has_its_classes(monkeypatch):
    monkeypatch.setattr(study, "MOST", 20)
    labels, seeds = study.asked(np.repeat([1, 0, 2], [60, 20, 20]))
    assert np.bincount(labels).tolist() == [4, 12, 4]
    assert seeds.tolist() == list(range(20))


def test_a_network_is_given_pictures_noise_times_and_classes():
    pixels, labels = images(8), np.resize([0, 1], 8)
    given = task.fed(pixels, labels, np.random.default_rng(0))
    assert given.shape == (8, *task.fed_shape((30, 30, 1)))
    assert given.dtype == np.float32
    np.testing.assert_allclose((given[..., 0] + 1) * 127.5, pixels[..., 0], atol=1e-3)
    assert abs(given[..., 1].mean()) < 0.05
    assert np.sort(np.floor(given[:, 0, 0, 2] * 8)).tolist() == list(range(8))  # one of each eighth
    np.testing.assert_array_equal(given[:, 3, 4, 3], labels)
    again = task.fed(pixels, labels, np.random.default_rng(0))
    np.testing.assert_array_equal(given, again)


def test_an_epoch_is_cut_into_smaller_parts_of_the_same_batches(monkeypatch):
    pixels, labels = images(24).reshape(4, 6, 30, 30, 1), np.resize([0, 1], 24).reshape(4, 6)
    segment = (pixels, labels, np.ones((4, 6), np.float32))
    monkeypatch.setattr(feeding, "SEGMENT_BYTES", 3 * 4 * 6 * 30 * 30 * 4)
    parts = list(feeding.segments(iter([segment]), task, [0, 1, 0]))
    assert [len(part[0]) for part in parts] == [3, 1]
    np.testing.assert_array_equal(np.concatenate([part[1] for part in parts]), labels)
    np.testing.assert_allclose((parts[1][0][0, ..., 0] + 1) * 127.5, pixels[3, ..., 0], atol=1e-3)
    other = next(feeding.segments(iter([segment]), task, [0, 2, 0]))
    assert not np.array_equal(other[0][..., 1], parts[0][0][..., 1])  # another epoch has other noise


def test_validation_images_have_the_same_noise_whichever_are_asked_for():
    split = data.Split(images(9), np.resize([0, 1], 9), None, None)
    fed = feeding.Fed(split, task)
    assert len(fed) == 9
    np.testing.assert_array_equal(fed[2:5], fed[0:9][2:5])
    assert not np.array_equal(fed[0:1][..., 1], fed[1:2][..., 1])


def test_what_the_task_cannot_score_or_train_is_refused():
    with pytest.raises(Refused, match="makes images of one class each, source 'x' gives no label"):
        task.check({"source": "x", "classes": []})
    with pytest.raises(Refused, match="gives several labels an image"):
        task.check({"source": "x", "classes": ["a", "b"], "multi_label": True})
    with pytest.raises(Refused, match="needs two or more, got 1"):
        task.outputs(["a"])
    with pytest.raises(Refused, match=r"set train\.mixup: 0, train\.folds: 0, train\.tta"):
        task.loss(params.Train(mixup=0.2, folds=3, tta=params.Views(flip_horizontal=True)))
    with pytest.raises(Refused, match="positive_class must be null for task generation"):
        task.chosen(np.zeros(1), np.zeros((1, 1)), CARD, params.Evaluate(positive_class="a"))
    with pytest.raises(Refused, match="KID needs at least two real images, got 1"):
        task.score(np.zeros(1), np.ones((1, task.SEEN)))
    with pytest.raises(Refused, match="features must be finite numbers, those of 1 of 3 images"):
        task.score(np.zeros(3), np.where(np.arange(3)[:, None] == 1, np.nan, np.ones((3, task.SEEN))))
