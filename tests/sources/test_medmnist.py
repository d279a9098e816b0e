import hashlib
import http.server
import threading
from dataclasses import replace
from io import BytesIO

import numpy as np
import pytest

from medloop import manifest, params, published
from medloop.errors import Refused
from medloop.sources import medmnist
from medloop.stages.ingest import ingest

NAME = "octmnist"  # a set that is on no machine of ours, filled with made-up images


def run(folder, root, name, leaks="report", **options):
    section = params.Ingest(
        source="medmnist", root=root, options={"medmnist": {"name": name} | options}, leaks=leaks, workers=2
    )
    report = ingest(params.Base(dataset="mine"), section, samples=folder / "samples")
    return report, *manifest.read(folder / "samples")


def made_up(shape=(28, 28), classes=4, multi_label=False):
    """The bytes of an .npz of the published layout."""
    rng, arrays = np.random.default_rng(0), {}
    for split, count in (("train", 50), ("val", 20), ("test", 30)):
        arrays[f"{split}_images"] = rng.integers(0, 256, (count, *shape)).astype(np.uint8)
        labels = rng.integers(0, 2, (count, classes)) if multi_label else np.arange(count)[:, None] % classes
        arrays[f"{split}_labels"] = labels.astype(np.uint8)
    buffer = BytesIO()
    np.savez_compressed(buffer, **arrays)
    return buffer.getvalue(), arrays


def declare(monkeypatch, name, content):
    """Let `content` be what was published as `name`."""
    digest = hashlib.md5(content).hexdigest()
    monkeypatch.setitem(medmnist.DATASETS, name, replace(medmnist.DATASETS[name], digests=" ".join([digest] * 4)))


@pytest.fixture(autouse=True)
def home(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.delenv("MEDLOOP_DATA", raising=False)
    monkeypatch.setattr(published, "ADDRESS", "http://127.0.0.1:9/{file}")  # nobody answers there
    return tmp_path / "home"


@pytest.fixture
def served(tmp_path, monkeypatch):
    """A server on this machine in place of the official one; yields its folder."""
    folder = tmp_path / "served"
    folder.mkdir()

    class Handler(http.server.SimpleHTTPRequestHandler):
        def __init__(self, *args):
            super().__init__(*args, directory=str(folder))

        def log_message(self, *args):
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        monkeypatch.setattr(published, "ADDRESS", f"http://127.0.0.1:{server.server_port}/{{file}}")
        yield folder
        server.shutdown()


def test_the_published_sets_are_all_there():
    assert len(medmnist.DATASETS) == 12
    for dataset in medmnist.DATASETS.values():
        digests = dataset.digests.split()
        assert all(len(digest) == 32 and int(digest, 16) for digest in digests)
        assert len(set(dataset.classes)) == len(dataset.classes) >= 2
    counts = {name: len(dataset.classes) for name, dataset in medmnist.DATASETS.items()}
    assert counts["pathmnist"] == 9
    assert counts["chestmnist"] == 14
    assert counts["organamnist"] == counts["organsmnist"] == counts["organcmnist"] == 11
    assert medmnist.DATASETS["dermamnist"].licence == "CC BY-NC 4.0"


def test_breastmnist_keeps_its_official_splits(tmp_path, shared_data):
    _, table, facts = run(tmp_path, shared_data / "breastmnist", "breastmnist")
    assert facts.classes == ("malignant", "normal, benign")
    assert facts.official_split
    assert not facts.has_patients
    assert not facts.multi_label
    assert table["split"].value_counts().to_dict() == {"train": 546, "val": 78, "test": 156}
    with np.load(shared_data / "breastmnist" / "breastmnist.npz") as arrays:
        store = manifest.Values(tmp_path / "samples")
        for split in manifest.SPLITS:
            rows = table[table["split"] == split]
            np.testing.assert_array_equal(np.stack(list(store.each(rows))), arrays[f"{split}_images"])
            assert rows["label"].tolist() == [facts.classes[code] for code in arrays[f"{split}_labels"][:, 0]]


@pytest.mark.parametrize("place", ["root", "data", "data/name", "home"])
def test_the_places_where_a_file_is_looked_for(tmp_path, monkeypatch, home, place):
    content, _ = made_up()
    declare(monkeypatch, NAME, content)
    monkeypatch.setenv("MEDLOOP_DATA", str(tmp_path / "data"))
    folders = {
        "root": tmp_path / "root",
        "data": tmp_path / "data",
        "data/name": tmp_path / "data" / NAME,
        "home": home / ".medmnist",
    }
    folders[place].mkdir(parents=True)
    (folders[place] / f"{NAME}.npz").write_bytes(content)
    assert len(run(tmp_path, tmp_path / "root", NAME)[1]) == 100


@pytest.mark.parametrize("size", medmnist.SIZES_PX)
def test_colour_and_larger_sizes(tmp_path, monkeypatch, size):
    content, arrays = made_up((size, size, 3))
    declare(monkeypatch, NAME, content)
    (tmp_path / (f"{NAME}.npz" if size == 28 else f"{NAME}_{size}.npz")).write_bytes(content)
    report, table, _ = run(tmp_path, tmp_path, NAME, size_px=size)
    assert {shape[2] for shape in table["shape"]} == {3}
    assert {shape[0] for shape in table["shape"]} == {size}
    came = np.stack(list(manifest.Values(tmp_path / "samples").each(table)))
    wanted = np.concatenate([arrays[f"{split}_images"] for split in manifest.SPLITS])
    np.testing.assert_array_equal(came, wanted)
    assert any(f"{size} px, licence CC BY 4.0" in note for note in report["notes"])


def test_several_labels_of_an_image_are_joined(tmp_path, monkeypatch):
    content, arrays = made_up(classes=14, multi_label=True)
    declare(monkeypatch, "chestmnist", content)
    (tmp_path / "chestmnist.npz").write_bytes(content)
    report, table, facts = run(tmp_path, tmp_path, "chestmnist")
    assert facts.multi_label
    assert len(facts.classes) == 14
    codes = arrays["train_labels"][7]
    wanted = "|".join(name for name, code in zip(facts.classes, codes, strict=True) if code)
    assert table["label"][7] == wanted
    assert report["counts"]["train"]["hernia"] == arrays["train_labels"][:, 13].sum()


def test_a_missing_file_is_downloaded_once(tmp_path, monkeypatch, home, served):
    content, _ = made_up()
    declare(monkeypatch, NAME, content)
    (served / f"{NAME}.npz").write_bytes(content)
    assert len(run(tmp_path, tmp_path, NAME)[1]) == 100
    assert [path.name for path in (home / ".medmnist").iterdir()] == [f"{NAME}.npz"]
    (served / f"{NAME}.npz").unlink()
    assert len(run(tmp_path, tmp_path, NAME)[1]) == 100


def test_a_download_that_is_not_whole_is_refused_and_not_kept(tmp_path, monkeypatch, home, served):
    content, _ = made_up()
    declare(monkeypatch, NAME, content)
    (served / f"{NAME}.npz").write_bytes(content[:-1])
    with pytest.raises(Refused, match=r"octmnist.npz is not the official file.*try again"):
        run(tmp_path, tmp_path, NAME)
    assert not list((home / ".medmnist").iterdir())


@pytest.mark.parametrize("answering", [True, False])
def test_without_a_network_the_file_to_place_is_named(tmp_path, home, request, answering):
    if answering:  # with 404
        request.getfixturevalue("served")
    with pytest.raises(Refused, match=r"octmnist_64.npz is not here") as refused:
        run(tmp_path, tmp_path, NAME, size_px=64)
    assert refused.match(f"place it as {home}/.medmnist/octmnist_64.npz")
    assert not list((home / ".medmnist").iterdir())


def test_a_file_with_another_digest_is_refused(tmp_path, monkeypatch):
    content, _ = made_up()
    declare(monkeypatch, NAME, content)
    damaged = bytearray(content)
    damaged[len(damaged) // 2] ^= 1
    (tmp_path / f"{NAME}.npz").write_bytes(damaged)
    with pytest.raises(Refused, match=r"wanted MD5 \w{32}, got \w{32}; remove .*octmnist.npz"):
        run(tmp_path, tmp_path, NAME)


@pytest.mark.parametrize("name", ["octmist", "adrenalmnist3d"])
def test_an_unknown_set_lists_those_that_exist(tmp_path, name):
    with pytest.raises(Refused, match=f"name: no such dataset; known: bloodmnist, breastmnist.*got '{name}'"):
        run(tmp_path, tmp_path, name)


def test_a_size_that_was_not_published_is_refused(tmp_path):
    with pytest.raises(Refused, match=r"ingest.options.medmnist: size_px"):
        run(tmp_path, tmp_path, NAME, size_px=32)


def test_images_stream_a_megabyte_at_a_time():
    buffer = BytesIO()
    np.save(buffer, np.zeros((100, 224, 224), np.uint8))
    buffer.seek(0)
    chunks = list(published._chunks(buffer))
    assert [start for start, _ in chunks] == [0, 20, 40, 60, 80]
    assert max(images.nbytes for _, images in chunks) <= published.CHUNK_BYTES
