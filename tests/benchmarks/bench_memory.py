"""Peak memory of each stage on 1,000 and on 50,000 images of 28x28: it should not grow with the data.

    python tests/benchmarks/bench_memory.py [--counts 1000 50000]

Each stage is a process of its own and reads its peak from the kernel (run.json). The images are noise with a bright
square in half of them; the largest set takes about 20 minutes on two cores.
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

STAGES = ("ingest", "validate", "preprocess", "train-cnn", "evaluate")
SETTINGS = (
    "train.architectures=[cnn]",
    "train.epochs=1",
    "preprocess.size_px=[28, 28]",
    "train.hyper.cnn.filters=[16, 32]",
    "ingest.leaks=report",
)


def main() -> None:
    """Print the peaks and their ratios."""
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--counts", type=int, nargs=2, default=[1000, 50_000])
    few, many = options.parse_args().counts
    peaks = [measure(count) for count in (few, many)]
    for stage in STAGES:
        small, large = (peak[stage] for peak in peaks)
        print(f"{stage:10} {small:6.0f} MiB at {few}, {large:6.0f} MiB at {many}: {large / small:.2f}x")


def measure(count: int) -> dict[str, float]:
    """Return the peak memory of each stage, MiB."""
    with tempfile.TemporaryDirectory() as folder:
        project = Project(Path(folder))
        write(project.folder / "data/folder", count)
        words = [word for setting in SETTINGS for word in ("-S", setting)]
        project.run("medloop", "repro", "-p", "folder", *words, timeout=3 * 3600)
        records = {stage: project.folder / "artifacts/runs" / stage / "run.json" for stage in STAGES}
        return {stage: json.loads(path.read_text())["peak_memory_mib"] for stage, path in records.items()}


def write(folder: Path, count: int) -> None:
    """Write `count` images in two classes."""
    generator = np.random.default_rng(0)
    for number in range(count):
        image = generator.integers(0, 200, (28, 28), dtype=np.uint8)
        image[10:18, 10:18] //= 1 + number % 2
        path = folder / "ab"[number % 2] / f"{number:06}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        cv2.imwrite(str(path), image)


if __name__ == "__main__":
    main()
