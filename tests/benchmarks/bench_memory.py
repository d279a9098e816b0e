"""Peak memory of each stage on few and on many samples, and on small and on large ones: it should not grow with them.

    python tests/benchmarks/bench_memory.py [--of KIND] [--counts 1000 50000] [--sides 28 28]

Each stage is a process of its own and reads its peak from the kernel (run.json). Samples are noise, and what tells
their class: a bright square, a bump, a cube, a higher first variable. With masks and boxes the networks see windows of
64x64, however large the image is. 50,000 images of 28x28 take about 20 minutes on two cores.
"""

import argparse
import json
import sys
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import cv2
import nibabel
import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from support import Project


@dataclass(frozen=True)
class Kind:
    """Samples of one kind: who makes them, and what trains on them."""

    write: Callable[[Path, int, int], None]  # into a folder: so many, of so many pixels, moments, variables or voxels
    network: str
    profile: str
    settings: tuple[str, ...]


ALWAYS = ("train.epochs=1", "train.folds=0", "ingest.leaks=report", "validate.max_missing=1.0")


def main() -> None:
    """Print the peaks and their ratios."""
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--of", choices=KINDS, default="images")
    options.add_argument("--counts", type=int, nargs=2, default=[1000, 50_000])
    options.add_argument(
        "--sides",
        type=int,
        nargs=2,
        default=[28, 28],
        help="pixels, of masks and boxes at least 64; moments; variables",
    )
    asked = options.parse_args()
    sets = list(zip(asked.counts, asked.sides, strict=True))
    peaks = [measure(KINDS[asked.of], *each) for each in sets]
    (few, short), (many, long) = sets
    for stage, small in peaks[0].items():
        large = peaks[1][stage]
        print(
            f"{stage:10} {small:6.0f} MiB at {few} of {short}, {large:6.0f} MiB at {many} of {long}: "
            f"{large / small:.2f}x, {1024 * (large - small) / max(many - few, 1):.2f} KiB more a sample"
        )


def measure(kind: Kind, count: int, side: int) -> dict[str, float]:
    """Return the peak memory of each stage, MiB."""
    with tempfile.TemporaryDirectory() as folder:
        project = Project(Path(folder))
        kind.write(project.folder / "data/made", count, side)
        settings = ["ingest.root=data/made", *ALWAYS, *kind.settings, f"train.architectures=[{kind.network}]"]
        words = [word for setting in settings for word in ("-S", setting.format(side=side))]
        project.run("medloop", "repro", "-p", kind.profile, *words, timeout=3 * 3600)
        stages = ("ingest", "validate", "preprocess", f"train-{kind.network}", "evaluate")
        records = {stage: project.folder / "artifacts/runs" / stage / "run.json" for stage in stages}
        return {stage: json.loads(path.read_text())["peak_memory_mib"] for stage, path in records.items()}


def write_folder(data: Path, count: int, side: int) -> None:
    """Write `count` images in two classes."""
    generator = np.random.default_rng(0)
    for number in range(count):
        image = generator.integers(0, 200, (side, side), dtype=np.uint8)
        image[10:18, 10:18] //= 1 + number % 2
        path = data / "ab"[number % 2] / f"{number:06}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        cv2.imwrite(str(path), image)


def write_drawn(data: Path, count: int, side: int) -> None:
    """Write `count` images with the mask and the box of a square each."""
    generator, size = np.random.default_rng(0), 24
    content = {"images": [], "annotations": [], "categories": [{"id": 1, "name": "square"}]}
    for folder in ("images", "masks"):
        (data / folder).mkdir(parents=True)
    for number in range(count):
        image, mask = generator.integers(0, 150, (side, side), dtype=np.uint8), np.zeros((side, side), np.uint8)
        x, y = (int(each) for each in generator.integers(0, side - size, 2))
        image[y : y + size, x : x + size] += 100
        mask[y : y + size, x : x + size] = 1
        cv2.imwrite(str(data / "images" / f"{number:06}.png"), image)
        cv2.imwrite(str(data / "masks" / f"{number:06}.png"), mask)
        content["images"].append({"id": number, "file_name": f"{number:06}.png", "height": side, "width": side})
        content["annotations"].append({"id": number, "image_id": number, "category_id": 1, "bbox": [x, y, size, size]})
    (data / "annotations.json").write_text(json.dumps(content))


def write_sequences(data: Path, count: int, side: int) -> None:
    """Write `count` sequences as the UCR archive does, in two classes."""
    generator = np.random.default_rng(0)
    data.mkdir(parents=True)
    with (data / "Made_TRAIN.txt").open("w") as file:
        for number in range(count):
            values = generator.normal(size=side)
            values[side // 3 : side // 2] += number % 2
            file.write(" ".join(f"{value:.7e}" for value in (1 + number % 2, *values)) + "\n")


def write_table(data: Path, count: int, side: int) -> None:
    """Write `count` records with the columns that the profile names, and so many more; age is higher in one class."""
    generator, named = np.random.default_rng(0), ("target", "age", "sex", "cp", "restecg", "slope", "thal")
    data.mkdir(parents=True)
    with (data / "made.csv").open("w") as file:
        file.write(",".join([*named, *(f"v{number}" for number in range(side))]) + "\n")
        for number in range(count):
            known = (number % 2, 50 + 10 * (number % 2) + int(generator.integers(9)), *generator.integers(0, 2, 5))
            file.write(",".join([*map(str, known), *(f"{value:.6f}" for value in generator.normal(size=side))]) + "\n")


def write_volumes(data: Path, count: int, side: int) -> None:
    """Write `count` volumes in two classes."""
    generator = np.random.default_rng(0)
    for number in range(count):
        volume = generator.integers(0, 100, (side, side, side), dtype=np.int16)
        volume[side // 3 : side // 2, side // 3 : side // 2, side // 3 : side // 2] += 50 * (number % 2)
        path = data / "ab"[number % 2] / f"{number:06}.nii"
        path.parent.mkdir(parents=True, exist_ok=True)
        image = nibabel.Nifti1Image(volume, np.eye(4))
        image.header.set_xyzt_units("mm")
        nibabel.save(image, path)


DRAWN = ("preprocess.size_px=[64, 64]", "preprocess.channels=1", "preprocess.larger=slide")
KINDS = {
    "images": Kind(write_folder, "cnn", "folder", ("preprocess.size_px=[28, 28]", "train.hyper.cnn.filters=[16, 32]")),
    "masks": Kind(
        write_drawn,
        "unet",
        "phantom_nodules",
        (
            *DRAWN,
            "ingest.source=masks",
            "ingest.options={{masks: {{classes: [square]}}}}",
            "train.hyper.unet.filters=[8, 16]",
        ),
    ),
    "boxes": Kind(
        write_drawn,
        "fcos",
        "bccd",
        (
            *DRAWN,
            "ingest.source=coco",
            "ingest.options={{coco: {{annotations: annotations.json, masks: false}}}}",
            "validate.size_px=null",
            "train.hyper.fcos={{filters: [8, 16, 16], finest: 8, width: 16}}",
        ),
    ),
    "sequences": Kind(
        write_sequences,
        "resnet1d",
        "ecg5000",
        ("ingest.options.ucr.name=Made", "train.hyper.resnet1d.filters=[8, 16, 16]"),
    ),
    "tables": Kind(write_table, "mlp", "heart", ("ingest.options.table.files=[{{path: made.csv}}]",)),
    "volumes": Kind(
        write_volumes,
        "cnn3d",
        "nifti",
        (
            "preprocess.volume={{size: [{side}, {side}, {side}], spacing_mm: [1.0, 1.0, 1.0]}}",
            "train.hyper.cnn3d={{filters: [4, 8], units: 8}}",
        ),
    ),
}


if __name__ == "__main__":
    main()
