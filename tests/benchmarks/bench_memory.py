"""Peak memory of each stage on few and on many images, and on small and on large ones: it should not grow with them.

    python tests/benchmarks/bench_memory.py [--of images | masks | boxes] [--counts 1000 50000] [--sides 28 28]

Each stage is a process of its own and reads its peak from the kernel (run.json). The images are noise; a bright square
stands in half of them, and in all that have masks or boxes. With masks and boxes the networks see windows of 64x64,
however large the image is. 50,000 images of 28x28 take about 20 minutes on two cores.
"""

import argparse
import json
import sys
import tempfile
from pathlib import Path

import cv2
import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from support import Project

NETWORKS = {"images": "cnn", "masks": "unet", "boxes": "fcos"}
SETTINGS = {
    "images": ("-p", "folder", "preprocess.size_px=[28, 28]", "train.hyper.cnn.filters=[16, 32]"),
    "masks": ("-p", "phantom_nodules", "ingest.source=masks", "train.hyper.unet.filters=[8, 16]"),
    "boxes": (
        *("-p", "bccd", "ingest.source=coco", "validate.size_px=null"),
        "train.hyper.fcos={filters: [8, 16, 16], finest: 8, width: 16}",
    ),
}
DRAWN = ("ingest.root=data/drawn", "preprocess.size_px=[64, 64]", "preprocess.channels=1", "preprocess.larger=slide")
ALWAYS = ("train.epochs=1", "ingest.leaks=report", "validate.max_missing=1.0")


def main() -> None:
    """Print the peaks and their ratios."""
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--of", choices=NETWORKS, default="images")
    options.add_argument("--counts", type=int, nargs=2, default=[1000, 50_000])
    options.add_argument("--sides", type=int, nargs=2, default=[28, 28], help="pixels; of masks and boxes at least 64")
    asked = options.parse_args()
    sets = list(zip(asked.counts, asked.sides, strict=True))
    peaks = [measure(asked.of, *each) for each in sets]
    (few, short), (many, long) = sets
    for stage, small in peaks[0].items():
        large = peaks[1][stage]
        print(
            f"{stage:10} {small:6.0f} MiB at {few} of {short} x {short}, "
            f"{large:6.0f} MiB at {many} of {long} x {long}: {large / small:.2f}x"
        )


def measure(kind: str, count: int, side: int) -> dict[str, float]:
    """Return the peak memory of each stage, MiB."""
    with tempfile.TemporaryDirectory() as folder:
        project = Project(Path(folder))
        write = write_folder if kind == "images" else write_drawn
        write(project.folder / "data", count, side)
        profile, name, *own = SETTINGS[kind]
        settings = [*own, *(DRAWN if kind != "images" else ()), *ALWAYS, f"train.architectures=[{NETWORKS[kind]}]"]
        if kind == "masks":
            settings.append("ingest.options={masks: {classes: [square]}}")
        if kind == "boxes":
            settings.append("ingest.options={coco: {annotations: annotations.json, masks: false}}")
        words = [word for setting in settings for word in ("-S", setting)]
        project.run("medloop", "repro", profile, name, *words, timeout=3 * 3600)
        stages = ("ingest", "validate", "preprocess", f"train-{NETWORKS[kind]}", "evaluate")
        records = {stage: project.folder / "artifacts/runs" / stage / "run.json" for stage in stages}
        return {stage: json.loads(path.read_text())["peak_memory_mib"] for stage, path in records.items()}


def write_folder(data: Path, count: int, side: int) -> None:
    """Write `count` images in two classes."""
    generator = np.random.default_rng(0)
    for number in range(count):
        image = generator.integers(0, 200, (side, side), dtype=np.uint8)
        image[10:18, 10:18] //= 1 + number % 2
        path = data / "folder" / "ab"[number % 2] / f"{number:06}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        cv2.imwrite(str(path), image)


def write_drawn(data: Path, count: int, side: int) -> None:
    """Write `count` images with the mask and the box of a square each."""
    generator, size, root = np.random.default_rng(0), 24, data / "drawn"
    content = {"images": [], "annotations": [], "categories": [{"id": 1, "name": "square"}]}
    for folder in ("images", "masks"):
        (root / folder).mkdir(parents=True)
    for number in range(count):
        image, mask = generator.integers(0, 150, (side, side), dtype=np.uint8), np.zeros((side, side), np.uint8)
        x, y = (int(each) for each in generator.integers(0, side - size, 2))
        image[y : y + size, x : x + size] += 100
        mask[y : y + size, x : x + size] = 1
        cv2.imwrite(str(root / "images" / f"{number:06}.png"), image)
        cv2.imwrite(str(root / "masks" / f"{number:06}.png"), mask)
        content["images"].append({"id": number, "file_name": f"{number:06}.png", "height": side, "width": side})
        content["annotations"].append({"id": number, "image_id": number, "category_id": 1, "bbox": [x, y, size, size]})
    (root / "annotations.json").write_text(json.dumps(content))


if __name__ == "__main__":
    main()
