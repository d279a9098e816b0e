import numpy as np
import pytest

from medloop import manifest, params
from medloop.errors import Refused
from medloop.sources import medmnist3d
from medloop.stages.ingest import ingest


def run(folder, root, name, **options):
    section = params.Ingest(
        source="medmnist3d", root=str(root), options={"medmnist3d": {"name": name} | options}, workers=2
    )
    report = ingest(params.Base(kind="volume", dataset="mine"), section, samples=folder / "samples")
    return report, *manifest.read(folder / "samples")


def test_the_published_sets_are_all_there():
    assert len(medmnist3d.DATASETS) == 6
    for dataset in medmnist3d.DATASETS.values():
        digests = dataset.digests.split()
        assert len(set(digests)) == len(medmnist3d.SIZES)
        assert all(len(digest) == 32 and int(digest, 16) for digest in digests)
    counts = {name: len(dataset.classes) for name, dataset in medmnist3d.DATASETS.items()}
    assert counts["organmnist3d"] == 11
    assert counts["fracturemnist3d"] == 3
    assert medmnist3d.Options(name="nodulemnist3d", size=64).wanted.file == "nodulemnist3d_64.npz"


def test_adrenalmnist3d_keeps_its_official_splits_and_has_no_copies(tmp_path, shared_data):
    report, table, facts = run(tmp_path, shared_data / "adrenalmnist3d", "adrenalmnist3d")
    assert facts.classes == ("normal", "hyperplasia")
    assert facts.official_split
    assert report["counts"]["train"] == {"normal": 929, "hyperplasia": 259}
    assert table["split"].value_counts().to_dict() == {"train": 1188, "val": 98, "test": 298}
    assert report["leaks"] == []
    assert table["spacing_mm"].isna().all()
    with np.load(shared_data / "adrenalmnist3d" / "adrenalmnist3d.npz") as arrays:
        rows = table[table["split"] == "val"]
        stored = np.stack(list(manifest.Values(tmp_path / "samples").each(rows)))
        np.testing.assert_array_equal(stored, arrays["val_images"])
        assert rows["label"].tolist() == [facts.classes[code] for code in arrays["val_labels"][:, 0]]


def test_another_file_of_that_name_is_refused_by_its_digest(tmp_path):
    (tmp_path / "vesselmnist3d.npz").write_bytes(b"something else")
    with pytest.raises(
        Refused, match=r"vesselmnist3d\.npz is not the official file: wanted MD5 b41fd4f7e7e2feedddb201585ecafa1b, got"
    ):
        run(tmp_path, tmp_path, "vesselmnist3d")
    with pytest.raises(Refused, match="no such dataset; known: adrenalmnist3d, fracturemnist3d"):
        run(tmp_path, tmp_path, "pneumoniamnist")
