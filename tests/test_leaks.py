"""Copies planted in real and simulated images, and the copies that public sets are known to hold."""

import hashlib
from collections.abc import Callable, Iterable
from pathlib import Path

import cv2
import numpy as np
import pandas as pd
import pytest

from medloop import leaks, manifest, params, twins
from medloop.phantom.options import Options
from medloop.sources import phantom

THRESHOLDS = params.LeakThresholds()
Image = tuple[str, str, str, np.ndarray]  # id, split, label, pixels


def find(folder: Path, images: Iterable[Image], thresholds: params.LeakThresholds = THRESHOLDS) -> pd.DataFrame:
    """Pack `images` and return the leaks between them."""
    writer = manifest.ShardWriter(folder)
    rows = []
    for name, split, label, pixels in images:
        digest = hashlib.sha256(f"{pixels.shape} {pixels.dtype}".encode() + pixels.tobytes()).hexdigest()
        row = {"sample_id": name, "source": "test", "label": label, "split": split, "content_sha256": digest}
        row |= {"perceptual_hash": 0, "shape": list(pixels.shape), "dtype": pixels.dtype.name}
        row |= {"bit_depth": 8 * pixels.itemsize}
        rows.append(row | writer.add(pixels))
    writer.close()
    manifest.write(rows, manifest.Facts(classes=("0", "1"), source="test"), folder)
    return leaks.find(manifest.read(folder)[0], manifest.Values(folder), thresholds)


def public(shared_data: Path, name: str) -> list[Image]:
    with np.load(shared_data / name / f"{name}.npz") as file:
        return [
            (f"{split}-{i}", split, str(label[0]), pixels)
            for split in manifest.SPLITS
            for i, (pixels, label) in enumerate(zip(file[f"{split}_images"], file[f"{split}_labels"], strict=True))
        ]


def originals(shared_data: Path, name: str, count: int) -> list[np.ndarray]:
    images = [pixels for _, split, _, pixels in public(shared_data, name) if split == "train"]
    return [images[i] for i in np.random.default_rng(0).permutation(len(images))[:count]]


def shift(pixels: np.ndarray, down: int, right: int, border: int = cv2.BORDER_REPLICATE) -> np.ndarray:
    move = np.array([[1, 0, right], [0, 1, down]], np.float32)
    return cv2.warpAffine(pixels, move, pixels.shape[::-1], flags=cv2.INTER_NEAREST, borderMode=border)


def jpeg(pixels: np.ndarray, quality: int = 75) -> np.ndarray:
    return cv2.imdecode(cv2.imencode(".jpg", pixels, [cv2.IMWRITE_JPEG_QUALITY, quality])[1], cv2.IMREAD_GRAYSCALE)


def brighter(pixels: np.ndarray, contrast: float, brightness: float) -> np.ndarray:
    return np.clip(pixels * contrast + brightness, 0, 255).astype(np.uint8)


PLANTED: dict[str, Callable[[np.ndarray], np.ndarray]] = {
    "same": lambda x: x,
    "re-encoded": jpeg,
    "up": lambda x: shift(x, -1, 0),
    "down": lambda x: shift(x, 1, 0),
    "left": lambda x: shift(x, 0, -1),
    "right": lambda x: shift(x, 0, 1),
    "askew": lambda x: shift(x, 1, -1),
    "askew, black border": lambda x: shift(x, -1, -1, cv2.BORDER_CONSTANT),
    "rolled": lambda x: np.roll(x, 1, axis=1),
    "left to right": lambda x: x[:, ::-1],
    "upside down": lambda x: x[::-1],
    "turned": lambda x: x[::-1, ::-1],
    "darker": lambda x: brighter(x, 0.7, 0),
    "brighter": lambda x: brighter(x, 1.0, 20),
    "flatter": lambda x: brighter(x, 0.6, 50),
    "gamma": lambda x: (255 * (x / 255) ** 0.8).astype(np.uint8),
    "mirrored and re-encoded": lambda x: jpeg(np.ascontiguousarray(x[:, ::-1])),
    "shifted and re-encoded": lambda x: jpeg(shift(x, 0, 1)),
    "16 bits": lambda x: x.astype(np.uint16) * 257,
    "colour": lambda x: np.repeat(x[..., None], 3, axis=2),
}


def recall(folder: Path, images: list[np.ndarray], ways: Iterable[str]) -> tuple[dict[str, float], pd.DataFrame]:
    """Return the share of `images` found again among copies changed in each of `ways`, and all pairs."""
    table: list[Image] = [(f"{i}", "test", "0", pixels) for i, pixels in enumerate(images)]
    for way in ways:
        copies = (np.ascontiguousarray(PLANTED[way](pixels)) for pixels in images)
        table += [(f"{i}/{way}", "train", "0", pixels) for i, pixels in enumerate(copies)]
    pairs = find(folder, table)
    found = set(zip(pairs["sample_a"], pairs["sample_b"], strict=True))
    return {way: np.mean([(f"{i}", f"{i}/{way}") in found for i in range(len(images))]) for way in ways}, pairs


@pytest.mark.parametrize("name", ["pneumoniamnist", "breastmnist"])
def test_planted_copies_are_found(tmp_path, shared_data, name):
    shares, pairs = recall(tmp_path, originals(shared_data, name, 200), PLANTED)
    assert {way: share for way, share in shares.items() if share < 0.99} == {}
    same = pairs["sample_b"] == pairs["sample_a"] + "/same"
    assert set(pairs.loc[same, "kind"]) == {"identical"}
    assert set(pairs.loc[pairs["sample_b"].str.endswith("/re-encoded"), "kind"]) == {"near"}


def test_planted_copies_of_larger_images_are_found_and_nothing_else(tmp_path):
    options = Options(patients=60)
    patients = (item.read() for item in phantom.items(tmp_path, options, seed=5))
    samples = [next(iter(read)) for read in patients]  # one image a patient
    images = [(sample.values >> (sample.bit_depth - 8)).astype(np.uint8) for sample in samples]
    ways = ["re-encoded", "askew", "askew, black border", "left to right", "darker", "shifted and re-encoded"]
    shares, pairs = recall(tmp_path, images, ways)
    assert {way: share for way, share in shares.items() if share < 0.99} == {}
    assert (pairs["sample_b"].str.partition("/")[0] == pairs["sample_a"]).all()


def test_blocks_of_any_size_find_the_same(tmp_path, monkeypatch):
    patients = (item.read() for item in phantom.items(tmp_path, Options(patients=14), seed=5))
    images = [(s.values >> (s.bit_depth - 8)).astype(np.uint8) for s in (next(iter(read)) for read in patients)]
    table = [(f"{i}", "test", "0", pixels) for i, pixels in enumerate(images)]
    table += [(f"{i}/left to right", "train", "0", PLANTED["left to right"](pixels)) for i, pixels in enumerate(images)]
    thresholds = THRESHOLDS.model_copy(update={"candidate": -1.0})  # all are looked at
    whole = find(tmp_path / "whole", table, thresholds)
    for name, size in (("FIRST", 4), ("SECOND", 3), ("ROUGH", 7), ("PAIRS", 2), ("WRITTEN", 3)):
        monkeypatch.setattr(twins, name, size)
    parts = find(tmp_path / "parts", table, thresholds)
    assert len(whole) >= 14
    pd.testing.assert_frame_equal(parts, whole, rtol=1e-4)


def test_products_are_taken_a_part_at_a_time(monkeypatch):
    monkeypatch.setattr(twins, "ROUGH", 7)
    random = np.random.default_rng(0)
    first, second = random.normal(size=(2, 9, 5)).astype(np.float32)
    row, column = random.integers(0, 9, (2, 40))
    wanted = (first @ second.T)[row, column]
    np.testing.assert_allclose(twins._products(first, second, row, column), wanted, rtol=1e-4, atol=1e-6)


def test_a_copy_of_another_size_is_found(tmp_path, shared_data):
    images = originals(shared_data, "pneumoniamnist", 20)
    larger = [cv2.resize(pixels, (56, 56), interpolation=cv2.INTER_CUBIC) for pixels in images]
    table = [(f"{i}", "test", "0", pixels) for i, pixels in enumerate(images)]
    table += [(f"{i}", "val", "0", pixels) for i, pixels in enumerate(larger)]
    pairs = find(tmp_path, table)
    assert list(pairs["sample_a"]) == list(pairs["sample_b"]) == [f"{i}" for i in range(20)]


def test_breastmnist_leaks(tmp_path, shared_data):
    images = public(shared_data, "breastmnist")
    pairs = find(tmp_path, images)
    [identical] = pairs[pairs["kind"] == "identical"].itertuples()
    assert (identical.split_a, identical.correlation, identical.conflicting) == ("test", 1.0, True)
    assert identical.label_a != identical.label_b
    beside_train = pairs[(pairs["split_a"] == "test") & (pairs["split_b"] == "train")]
    assert beside_train["sample_a"].nunique() >= 45
    pixels = {name: (image - image.mean()).ravel() for name, _, _, image in images}
    plain = [np.corrcoef(pixels[row.sample_a], pixels[row.sample_b])[0, 1] for row in beside_train.itertuples()]
    assert np.mean(np.array(plain) > 0.95) > 0.9  # without any alignment of ours
    assert pairs["conflicting"].equals(pairs["label_a"] != pairs["label_b"])


def test_pneumoniamnist_has_almost_none(tmp_path, shared_data):
    pairs = find(tmp_path, public(shared_data, "pneumoniamnist"))
    sides = pairs.groupby(["split_a", "split_b"]).size()
    assert sides.get(("test", "train"), 0) <= 2
    same = pairs[pairs["kind"] == "identical"]
    assert set(same["split_a"]) == {"val"}
    assert same["sample_a"].nunique() == 8


def test_copies_within_a_split_are_no_leak(tmp_path):
    image = np.random.default_rng(0).integers(0, 255, (28, 28)).astype(np.uint8)
    pairs = find(tmp_path, [("a", "train", "0", image), ("b", "train", "1", image), ("c", "test", "0", 255 - image)])
    assert pairs.empty
    assert list(pairs.columns) == leaks.COLUMNS


def test_constant_images_are_not_near(tmp_path):
    images = [np.full((28, 28), value, np.uint8) for value in (0, 9, 200)]
    assert find(tmp_path, zip("abc", manifest.SPLITS, "000", images, strict=True)).empty


def test_the_thresholds_decide(tmp_path, shared_data):
    image = originals(shared_data, "breastmnist", 1)[0]
    noise = np.random.default_rng(0).normal(0, 12, image.shape)
    images = [("a", "test", "0", image), ("b", "train", "0", np.clip(image + noise, 0, 255).astype(np.uint8))]
    (tmp_path / "strict").mkdir()
    (tmp_path / "lax").mkdir()
    assert find(tmp_path / "strict", images, THRESHOLDS.model_copy(update={"detail": 0.999})).empty
    assert len(find(tmp_path / "lax", images, params.LeakThresholds(candidate=0.3, correlation=0.5, detail=0.1))) == 1


def table(*pairs: tuple[str, str]) -> pd.DataFrame:
    """Return pairs of ids whose first letters name their splits."""
    split = {"t": "train", "v": "val", "x": "test"}
    rows = [
        (a, b, split[a[0]], split[b[0]], "sick", "well" if b.endswith("!") else "sick", "near", 0.97, b.endswith("!"))
        for a, b in pairs
    ]
    return pd.DataFrame(rows, columns=leaks.COLUMNS)


@pytest.mark.parametrize(
    ("pairs", "dropped"),
    [
        ([("x1", "t1")], {"t1"}),
        ([("x1", "v1")], {"v1"}),
        ([("v1", "t1")], {"t1"}),
        ([("x1", "v1"), ("v1", "t1")], {"v1"}),  # once v1 is gone, t1 has no copy left
        ([("x1", "v1"), ("v1", "t1"), ("x1", "t1")], {"v1", "t1"}),
        ([("x1", "v1"), ("v2", "t1")], {"v1", "t1"}),
        ([], set()),
    ],
)
def test_to_drop_leaves_no_pair_and_spares_the_test_set(pairs, dropped):
    assert leaks.to_drop(table(*pairs)) == dropped
    assert not [pair for pair in pairs if not dropped & set(pair)]


def test_to_drop_ends_the_leaks_of_breastmnist(tmp_path, shared_data):
    images = public(shared_data, "breastmnist")
    (tmp_path / "before").mkdir()
    (tmp_path / "after").mkdir()
    dropped = leaks.to_drop(find(tmp_path / "before", images))
    assert find(tmp_path / "after", [image for image in images if image[0] not in dropped]).empty
    assert {name.partition("-")[0] for name in dropped} == {"train", "val"}


def test_several_labels_in_another_order_are_no_conflict():
    rows = pd.DataFrame({"sample_id": list("abcd"), "split": ["test", "test", "train", "train"]})
    rows["label"] = ["mass|nodule", "", "nodule|mass", "mass"]
    pairs = leaks._described(rows, pd.DataFrame({"a": [0, 1], "b": [2, 3], "kind": "near", "correlation": 1.0}))
    assert pairs["conflicting"].tolist() == [False, True]


def test_the_refusal_counts_names_and_helps():
    message = leaks.refusal(table(("x1", "t1"), ("x2", "t2!"), ("v1", "t3")))
    assert "3 pairs" in message
    assert "2 near between test and train" in message
    assert "1 near between val and train" in message
    assert "1 with conflicting labels" in message
    assert "x2 (test, sick) = t2! (train, well)" in message
    assert "ingest.leaks: drop" in message
    assert "report" in message
