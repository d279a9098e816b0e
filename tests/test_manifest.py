import numpy as np
import pyarrow.parquet as pq
import pytest

from medloop import manifest
from medloop.errors import Refused

FACTS = manifest.Facts(classes=("a", "b"), source="folder")


def row(place: dict, pixels: np.ndarray, **more) -> dict:
    row = dict.fromkeys(manifest.SCHEMA.names)
    row |= {"sample_id": "s", "source": "folder", "label": "a", "split": "train", "content_sha256": "0"}
    row |= {"perceptual_hash": 2**63 + 1, "shape": list(pixels.shape), "dtype": pixels.dtype.name}
    return row | {"bit_depth": 8 * pixels.dtype.itemsize} | place | more


@pytest.mark.parametrize(
    ("shape", "dtype"), [((4, 6), "uint8"), ((5, 3), "uint16"), ((2, 7, 3), "uint8"), ((3, 3, 3), "uint16")]
)
def test_pixels_come_back_as_they_were_packed(tmp_path, shape, dtype):
    rng = np.random.default_rng(0)
    images = [rng.integers(0, np.iinfo(dtype).max, shape, dtype) for _ in range(3)]
    writer = manifest.ShardWriter(tmp_path, limit=100)
    rows = [row(writer.add(pixels, mask=pixels.reshape(*shape[:2], -1)[..., 0] > 9), pixels) for pixels in images]
    writer.close()
    manifest.write(rows, FACTS, tmp_path)
    table, facts = manifest.read(tmp_path)
    pixels = manifest.Values(tmp_path)
    assert facts == FACTS
    for wanted, got in zip(images, table.itertuples(), strict=True):
        np.testing.assert_array_equal(pixels[got], wanted)
        np.testing.assert_array_equal(pixels.mask(got), wanted.reshape(*shape[:2], -1)[..., 0] > 9)


def test_a_full_shard_is_followed_by_another(tmp_path):
    writer = manifest.ShardWriter(tmp_path, limit=10)
    places = [writer.add(np.zeros((3, 4), "uint8")) for _ in range(3)]
    writer.close()
    assert [(place["shard"], place["offset"]) for place in places] == [
        ("shards/00000.bin", 0),
        ("shards/00001.bin", 0),
        ("shards/00002.bin", 0),
    ]


def test_values_are_the_same_however_few_shards_are_mapped_and_rows_are_held(tmp_path, monkeypatch):
    monkeypatch.setattr(manifest, "READ", 2)
    images = [np.full((3, 4), number, np.uint8) for number in range(7)]
    writer = manifest.ShardWriter(tmp_path, limit=10)
    manifest.write([row(writer.add(each), each, sample_id=f"{i}") for i, each in enumerate(images)], FACTS, tmp_path)
    writer.close()
    table, _ = manifest.read(tmp_path)
    assert [each.sample_id for each in manifest.rows(table)] == list("0123456")
    values = manifest.Values(tmp_path)
    assert [int(each[0, 0]) for each in values.each(table)] == list(range(7))
    assert len(values._shards) == manifest.OPEN
    shuffled = table.iloc[[6, 0, 3, 6, 1, 0, 5]]
    first = values[next(manifest.rows(shuffled))]
    assert [int(each[0, 0]) for each in values.each(shuffled)] == [6, 0, 3, 6, 1, 0, 5]
    assert (first == 6).all(), "a view stays what it is when its shard is let go"


def test_another_schema_version_is_refused_with_what_to_do(tmp_path):
    manifest.write([], FACTS, tmp_path)
    path = tmp_path / "manifest.parquet"
    pq.write_table(pq.read_table(path).replace_schema_metadata({"schema_version": "99", "facts": "{}"}), path)
    with pytest.raises(Refused, match=r"schema version 99.*run `medloop ingest` again"):
        manifest.read(tmp_path)


def test_a_missing_manifest_is_refused(tmp_path):
    with pytest.raises(Refused, match="no manifest"):
        manifest.read(tmp_path)


def test_masks_and_instance_maps_come_back_and_may_be_absent(tmp_path):
    values, writer = np.arange(15, dtype=np.uint8).reshape(3, 5), manifest.ShardWriter(tmp_path)
    mask, objects = (values % 3).astype(np.uint8), values.astype(np.uint16) * 300
    layers = [(mask, objects), (mask, None), (None, None)]
    rows = [row(writer.add(values, *each), values, box_labels=["a", "b"]) for each in layers]
    writer.close()
    manifest.write(rows, manifest.Facts(("a", "b"), "masks", masks=True), tmp_path)
    table, facts = manifest.read(tmp_path)
    store = manifest.Values(tmp_path)
    assert facts.masks
    assert list(table["box_labels"][0]) == ["a", "b"]
    for got, wanted in zip(table.itertuples(), layers, strict=True):
        for found, layer in zip((store.mask(got), store.instances(got)), wanted, strict=True):
            assert (found is None) == (layer is None)
            if layer is not None:
                np.testing.assert_array_equal(found, layer)
                assert found.dtype == layer.dtype


def test_columns_that_came_later_are_null_in_an_older_manifest(tmp_path):
    writer = manifest.ShardWriter(tmp_path)
    manifest.write([row(writer.add(np.zeros((2, 2), np.uint8)), np.zeros((2, 2), np.uint8))], FACTS, tmp_path)
    writer.close()
    path = tmp_path / "manifest.parquet"
    pq.write_table(pq.read_table(path).drop_columns(["box_labels", "instances_offset", "synthetic"]), path)
    table, _ = manifest.read(tmp_path)
    assert table.columns.tolist() == manifest.SCHEMA.names
    assert manifest.Values(tmp_path).instances(table.iloc[0]) is None
