"""Arrays with masks as `preprocess` writes them: bright discs, and squares where there are two classes, on noise."""

from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from medloop import params, provenance

BASE = params.Base(task="segmentation", dataset="toy")


def write(
    folder: Path, *, classes=("disc",), size=(24, 24), counts=(24, 12, 16), seed=0, spacing=0.5, instances=True, **facts
) -> Path:
    """Write `arrays`, `holdout`, `samples` and `validation` below `folder`, and return it.

    Args:
        folder: where.
        classes: their names.
        size: (H, W).
        counts: images of train, val and test; two a patient; every fifth one shows nothing.
        seed: of the images.
        spacing: mm; None: unknown.
        instances: whether the numbers of the discs are known.
    """
    about = {
        "schema_version": 2,
        "input_shape": [*size, 1],
        "classes": list(classes),
        "facts": {
            "classes": list(classes),
            "source": "toy",
            "kind": "image",
            "masks": True,
            "simulated": True,
            "multi_label": False,
            "split_in_time": False,
            "official_split": False,
            "has_patients": True,
            "leaks": "refuse",
            "leak_pairs": 0,
            **facts,
        },
        "counts": {},
        "patients": {},
        "preprocessing": {"size_px": list(size), "channels": 1, "clip_percentiles": [0.0, 100.0], "larger": "resize"},
        "notes": ["Made for tests."],
    }
    folder.mkdir(parents=True, exist_ok=True)
    result = {"success": True, "checks": []}
    _sealed("ingest", params.Ingest(), folder / "samples", lambda path: (path / "rows").write_text(str(seed)))
    _sealed(
        "validate",
        params.Validate(),
        folder / "validation",
        lambda path: provenance.write_json(path / "result.json", result),
        samples=folder / "samples",
    )
    upstream = {"samples": folder / "samples", "validation": folder / "validation"}
    made = {}
    for i, (name, count) in enumerate(zip(("train", "val", "test"), counts, strict=True)):
        made[name] = images(len(classes), size, count, seed * 10 + i)
        about["counts"][name], about["patients"][name] = {"all": count}, count // 2

    def write_splits(path, *names):
        for name in names:
            _write_split(path / name, *made[name], spacing, instances)
        provenance.write_json(path / "about.json", about)

    section = params.Preprocess()
    _sealed("preprocess", section, folder / "arrays", lambda path: write_splits(path, "train", "val"), **upstream)
    _sealed("preprocess", section, folder / "holdout", lambda path: write_splits(path, "test"), **upstream)
    return folder


def images(classes: int, size: tuple[int, int], count: int, seed: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return images (N, H, W, 1) uint8, masks (N, H, W) uint8 and the numbers of the objects (N, H, W) uint16."""
    random = np.random.default_rng(seed)
    rows, columns = np.mgrid[: size[0], : size[1]]
    pixels = random.normal(70, 15, (count, *size))
    masks, objects = np.zeros((count, *size), np.uint8), np.zeros((count, *size), np.uint16)
    for i in range(count):
        for number in range(1, 4 if i % 5 else 1):
            y, x = random.uniform(0.2, 0.8, 2) * size
            radius = random.uniform(0.1, 0.18) * size[0]
            kind = (i + number) % classes
            disc = (rows - y) ** 2 + (columns - x) ** 2 < radius**2
            shape = disc if kind == 0 else np.maximum(abs(rows - y), abs(columns - x)) < radius
            pixels[i][shape] += 70 + 60 * kind
            masks[i][shape], objects[i][shape] = 1 + kind, number
    return pixels.clip(0, 255).astype(np.uint8)[..., None], masks, objects


def _write_split(path: Path, inputs, masks, objects, spacing, instances) -> None:
    path.mkdir()
    np.save(path / "inputs.npy", inputs)
    np.save(path / "labels.npy", masks)
    if instances:
        np.save(path / "instances.npy", objects)
    count = len(inputs)
    ids = [f"{path.name}{i:04}" for i in range(count)]
    table = {
        "sample_id": ids,
        "patient_id": [f"{path.name}-p{i // 2:03}" for i in range(count)],
        "site": [("north", "south")[i // 2 % 2] for i in range(count)],
        "sex": [("F", "M")[i // 2 % 2] for i in range(count)],
        "age_years": [20.0 + i // 2 for i in range(count)],
        "label": pa.nulls(count, pa.string()),
        "content_sha256": ids,
        "height": [inputs.shape[1]] * count,
        "width": [inputs.shape[2]] * count,
        "spacing_y_mm": pa.array([spacing] * count, pa.float64()),
        "spacing_x_mm": pa.array([spacing] * count, pa.float64()),
    }
    pq.write_table(pa.table(table), path / "index.parquet")


def _sealed(stage: str, section: params.Section, folder: Path, write_to, **inputs: Path) -> None:
    with provenance.writing(stage, BASE, section, folder, inputs=inputs) as [partial]:
        write_to(partial)
