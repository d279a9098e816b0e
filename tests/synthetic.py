"""Arrays as `preprocess` writes them: a blob on noise, brighter in class "b"."""

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from medloop import params, provenance

CLASSES = ["a", "b"]
FACTS = {
    "classes": CLASSES,
    "source": "synthetic",
    "simulated": True,
    "multi_label": False,
    "kind": "image",
    "split_in_time": False,
}


def write_arrays(folder, *, size=(12, 12, 1), train=90, val=40, seed=0, signal=30):
    """Write an arrays folder with its lineage, and return it.

    Args:
        folder: where.
        size: (H, W, C).
        train, val: number of images.
        seed: of the images.
        signal: gray levels by which blobs of class "b" are brighter.
    """
    about = {
        "schema_version": 2,
        "input_shape": list(size),
        "classes": CLASSES,
        "facts": FACTS,
        "counts": {},
        "preprocessing": {"size_px": list(size[:2]), "channels": size[2], "clip_percentiles": [0.0, 100.0]},
        "notes": [],
    }
    folder.parent.mkdir(parents=True, exist_ok=True)
    with provenance.writing("preprocess", params.Base(), params.Preprocess(), folder) as [partial]:
        for i, (name, count) in enumerate((("train", train), ("val", val))):
            about["counts"][name] = _write(partial / name, size, count, seed + i, signal)
        provenance.write_json(partial / "about.json", about)
    return folder


def _write(folder, size, count, seed, signal):
    random = np.random.default_rng(seed)
    labels = (np.arange(count) % 3 == 0).astype(np.int32)
    images = random.normal(90, 30, (count, *size))
    rows, columns = np.mgrid[: size[0], : size[1]]
    for i in range(count):
        y, x = random.uniform(0.25, 0.75, 2) * size[:2]
        blob = np.exp(-((rows - y) ** 2 + (columns - x) ** 2) / (2 * (size[0] / 8) ** 2))
        images[i] += (40 + signal * labels[i]) * blob[..., None]
    folder.mkdir()
    np.save(folder / "inputs.npy", np.clip(images, 0, 255).astype(np.uint8))
    np.save(folder / "labels.npy", labels)
    ids = [f"{folder.name}{i:04}" for i in range(count)]
    table = pa.table(
        {"sample_id": ids, "patient_id": ids, "label": [CLASSES[k] for k in labels], "content_sha256": ids}
    )
    pq.write_table(table, folder / "index.parquet")
    return {name: int((labels == k).sum()) for k, name in enumerate(CLASSES)}
