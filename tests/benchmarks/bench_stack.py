"""The laptop stack: how fast it starts, promotes under twenty clients, and takes small images through DVC.

    python tests/benchmarks/bench_stack.py

A stack of its own is made in a temporary folder and removed. Packed shards against loose files is a ratio of two runs,
one after the other, on the same server.
"""

import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import boto3
import numpy as np

from laptop import Laptop, folder
from medloop import manifest, params
from medloop.operations.promote import promote
from medloop.tracking.connection import server
from toy_registry import Toy, registered

IMAGES, SIZE = 10_000, 64
ROUNDS = 3
CROWD = Path(__file__).resolve().parents[1] / "crowd.py"


def main() -> None:
    with folder() as path:
        laptop = Laptop(path / "stack")
        cold = seconds(laptop.up)
        laptop.run("down")
        warm = seconds(laptop.up)
        already = seconds(laptop.up)
        print(f"stack up: cold {cold:.1f} s, warm {warm:.1f} s, up already {already:.1f} s", flush=True)
        os.environ |= laptop.env
        try:
            promotions(path)
            images(path)
        finally:
            laptop.run("down")


def seconds(act) -> float:
    began = time.perf_counter()
    act()
    return time.perf_counter() - began


def promotions(path: Path) -> None:
    """Print how many promotions a second twenty clients got decided, and how long one waited."""
    waits, walls = [], []
    for number in range(ROUNDS):
        place = path / f"round-{number}"
        with server() as client:
            if client.search_registered_models("name = 'medloop-classification-toy'"):
                client.delete_registered_model("medloop-classification-toy")
        for noise in (0.3, 0.0, 0.01, 0.02):
            registered(place, noise=noise)
        promote(Toy().base, params.Promote(resamples=100), version="1", samples=place / "samples")
        (place / "results").mkdir()
        subprocess.run([sys.executable, CROWD, place / "samples", place / "results"], check=True, timeout=300)
        ends = [json.loads(each.read_text()) for each in (place / "results").glob("*.json")]
        assert sorted(code for code, *_ in ends) == [0] + [3] * 19, ends
        waits += [waited for _, _, waited, _ in ends]
        walls.append(max(waited for _, _, waited, _ in ends))
    rate, p99 = 20 / statistics.median(walls), np.quantile(waits, 0.99)
    print(
        f"20 promotions at once, {ROUNDS} rounds: {rate:.2f} a second, median {statistics.median(waits):.1f} s,",
        end=" ",
    )
    print(f"p99 {p99:.1f} s; one winner in {ROUNDS} of {ROUNDS}", flush=True)


def images(path: Path) -> None:
    """Print how fast images go through DVC to S3 and back, packed as `ingest` packs them and one file each."""
    random = np.random.default_rng(0)
    pixels = random.integers(0, 256, (IMAGES, SIZE, SIZE), np.uint8)
    results = {}
    for kind in ("packed", "loose"):
        project = path / kind
        (project / "data").mkdir(parents=True)
        if kind == "packed":
            writer = manifest.ShardWriter(project / "data")
            for image in pixels:
                writer.add(image)
            writer.close()
        else:
            for number, image in enumerate(pixels):
                (project / f"data/{number:05}.raw").write_bytes(image.tobytes())
        results[kind] = through_dvc(project, kind)
    for kind, (files, push, pull, objects) in results.items():
        rates = f"add and push {IMAGES / push:,.0f} images/s, pull {IMAGES / pull:,.0f} images/s"
        print(f"{IMAGES:,} images of {SIZE}x{SIZE} {kind}: {files:,} files, {objects:,} objects, {rates}")
    packed, loose = results["packed"], results["loose"]
    ratios = (loose[1] / packed[1], loose[2] / packed[2], loose[3] / packed[3])
    print("packed against loose: push {:.1f}x, pull {:.1f}x, {:.0f}x fewer objects".format(*ratios))


def through_dvc(project: Path, kind: str) -> tuple[int, float, float, int]:
    """Return the number of files, seconds to add and push, seconds to pull, and the number of objects."""

    def dvc(*words: str) -> None:
        subprocess.run([sys.executable, "-m", "dvc", *words], cwd=project, check=True, stdout=subprocess.DEVNULL)

    dvc("init", "-q", "--no-scm")
    dvc("config", "core.analytics", "false")
    dvc("remote", "add", "-q", "-d", "laptop", f"s3://dvc/{kind}")
    dvc("remote", "modify", "laptop", "endpointurl", os.environ["AWS_ENDPOINT_URL_S3"])
    files = sum(each.is_file() for each in (project / "data").rglob("*"))

    def push() -> None:
        dvc("add", "-q", "data")
        dvc("push", "-q")

    pushed = seconds(push)
    subprocess.run(["rm", "-rf", project / "data", project / ".dvc/cache"], check=True)
    pulled = seconds(lambda: dvc("pull", "-q"))
    assert sum(each.is_file() for each in (project / "data").rglob("*")) == files
    pages = boto3.client("s3").get_paginator("list_objects_v2").paginate(Bucket="dvc", Prefix=f"{kind}/")
    return files, pushed, pulled, sum(page["KeyCount"] for page in pages)


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as state:
        os.environ |= {"MEDLOOP_STATE": f"{state}/state", "MEDLOOP_KEY_FILE": f"{state}/pseudonym.key"}
        main()
