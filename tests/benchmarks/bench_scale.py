"""The rates that docs/scale.md reckons with: what an image costs in CPU seconds and bytes, stage by stage.

    python tests/benchmarks/bench_scale.py

Seconds of CPU, of children too, do not depend on what else the machine does; S3 and DVC are told in seconds that pass.
"""

import hashlib
import os
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import bench_decode
import cv2
import numpy as np
import pandas as pd

import weed
from medloop import decoding, leaks, manifest, params, privacy, reading
from medloop.fetching.data import fetched
from medloop.kinds import image
from medloop.sources import dicom

DICOM, SIDE = 400, 512
COUNTS = (1000, 3000, 10_000)
COMPARED_PX = 96
SHARDS = 2
TRAINED = 4000


def main() -> None:
    os.environ.setdefault("MEDLOOP_KEY_FILE", str(Path(tempfile.gettempdir()) / "bench_scale.key"))
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        os.environ["MEDLOOP_STATE"] = str(folder / "state")
        decode(folder)
        preprocessing(folder)
        comparing(folder)
        with weed.serving(folder / "server") as env:
            os.environ |= env
            weed.client(env).create_bucket(Bucket="scale")
            fetching(folder)
            pushing(folder)
        training()


def cpu() -> float:
    """Return the CPU seconds of this process and of the children that have ended."""
    both = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return sum(each.ru_utime + each.ru_stime for each in both)


@contextmanager
def spent(seconds: Callable[[], float]) -> Iterator[list[float]]:
    """Yield a list that holds the seconds at the end."""
    found: list[float] = []
    began = seconds()
    yield found
    found.append(seconds() - began)


def decode(folder: Path) -> None:
    """In this process alone: those that `ingest` starts are not waited for, and their seconds are not known."""
    pseudonyms = privacy.Pseudonyms.load()
    for name, syntax in bench_decode.SYNTAXES.items():
        root = bench_decode.make(folder / name, DICOM, SIDE, syntax)
        kilobytes = sum(path.stat().st_size for path in root.glob("*.dcm")) / DICOM / 1000
        writer = manifest.ShardWriter(folder / f"packed {name}")
        with spent(cpu) as seconds, closing(writer):
            for item in dicom.items(root, dicom.Options(), seed=0):
                for digested in reading._read(item, "image").samples:
                    decoding._columns(digested, "dicom", pseudonyms)
                    writer.add(digested.sample.values)
        rate = DICOM / seconds[0]
        say(f"ingest {SIDE}x{SIDE}, 16 bits, {name}: {rate:.0f} images a core-second; a file {kilobytes:.0f} kB")


def say(line: str) -> None:
    print(line, flush=True)


def pseudonym(number: int) -> str:
    return hashlib.sha256(b"a%d" % number).hexdigest()[:16]


def table(count: int, side: int, writer: manifest.ShardWriter, bits: int) -> pd.DataFrame:
    """Write `count` distinct images, and return their rows."""
    rng = np.random.default_rng(0)
    base = [cv2.GaussianBlur(rng.normal(size=(side, side)), (0, 0), side / 16) for _ in range(20)]
    rows = []
    for number in range(count):
        image = base[number % 20] * 12 + rng.normal(size=(side, side)) * 0.3
        scaled = (image - image.min()) / np.ptp(image) * (2**bits - 1)
        place = writer.add(scaled.astype(np.uint8 if bits == 8 else np.uint16))
        split = ("test", "test", "val", *["train"] * 7)[number % 10]
        rows.append(
            {
                "sample_id": pseudonym(number),
                "patient_id": pseudonym(number // 2),
                "study_id": pseudonym(number),
                "source": "dicom",
                "site": None,
                "sex": "FM"[number % 2],
                "age_years": float(number % 90),
                "modality": "DX",
                "label": "ab"[number % 2],
                "split": split,
                "content_sha256": hashlib.sha256(b"%d" % number).hexdigest(),
                "perceptual_hash": int(rng.integers(2**63)),
                "shape": [side, side],
                "dtype": "uint8",
                "bit_depth": bits,
                "spacing_mm": [0.14, 0.14],
                "boxes": None,
                **place,
            }
        )
    writer.close()
    return pd.DataFrame(rows)


def preprocessing(folder: Path) -> None:
    samples = folder / "samples"
    rows = table(DICOM, SIDE, manifest.ShardWriter(samples), 16)
    pixels = manifest.Values(samples)
    with spent(cpu) as seconds:
        form = image.form(rows, pixels, manifest.Facts(("a", "b"), "dicom"), params.Preprocess())
        blocks = list(image.arrays(rows, pixels, form))
    size = sum(block.nbytes for block in blocks) / DICOM
    rate = DICOM / seconds[0]
    say(f"preprocess {SIDE}x{SIDE} to 64x64: {rate:.0f} images a core-second; an array {size:.0f} bytes")


def comparing(folder: Path) -> None:
    for count in COUNTS:
        samples = folder / f"compared-{count}"
        rows = table(count, COMPARED_PX, manifest.ShardWriter(samples), 8)
        if count == COUNTS[-1]:
            manifest.write(rows.to_dict("records"), manifest.Facts(classes=("a", "b"), source="dicom"), samples)
            say(f"manifest: {(samples / 'manifest.parquet').stat().st_size / count:.0f} bytes a row")
        with spent(cpu) as seconds:
            found = leaks.find(rows, manifest.Values(samples), params.LeakThresholds())
        sizes = rows["split"].value_counts()
        pairs = sizes["test"] * (sizes["val"] + sizes["train"]) + sizes["val"] * sizes["train"]
        say(
            f"leak search, {count:,} images of {COMPARED_PX}x{COMPARED_PX}: {seconds[0]:.1f} core-seconds, "
            f"{pairs / seconds[0] / 1e6:.2f} million pairs a core-second, {len(found)} found",
        )


def fetching(folder: Path) -> None:
    files = sorted((folder / "JPEG 2000").glob("*.dcm"))
    s3 = weed.client(os.environ)
    for path in files:
        s3.upload_file(str(path), "scale", f"wards/{path.name}")
    megabytes = sum(path.stat().st_size for path in files) / 1e6
    with spent(time.perf_counter) as seconds, fetched(params.Ingest(source="dicom", root="s3://scale/wards")):
        pass
    say(f"fetch from S3: {len(files) / seconds[0]:.0f} files a second, {megabytes / seconds[0]:.0f} MB/s")


def pushing(folder: Path) -> None:
    project = folder / "dvc"
    (project / "data").mkdir(parents=True)
    for number in range(SHARDS):
        (project / f"data/{number:05}.bin").write_bytes(os.urandom(manifest.SHARD_BYTES))

    def dvc(*words: str) -> None:
        subprocess.run([sys.executable, "-m", "dvc", *words], cwd=project, check=True, stdout=subprocess.DEVNULL)

    dvc("init", "-q", "--no-scm")
    dvc("config", "core.analytics", "false")
    dvc("remote", "add", "-q", "-d", "s3", "s3://scale/dvc")
    dvc("remote", "modify", "s3", "endpointurl", os.environ["AWS_ENDPOINT_URL"])
    megabytes = SHARDS * manifest.SHARD_BYTES / 1e6
    for words in (("add", "-q", "data"), ("push", "-q")):
        with spent(time.perf_counter) as seconds:
            dvc(*words)
        say(f"dvc {words[0]} of {SHARDS} packed shards: {megabytes / seconds[0]:.0f} MB/s")


def training() -> None:
    from medloop.training import backend

    backend.start("tensorflow", 0)
    from medloop.models import cnn

    network = cnn.build((64, 64, 1), 2)
    network.compile("adam", "mse")
    random = np.random.default_rng(0)
    images, wanted = random.random((TRAINED, 64, 64, 1), np.float32), random.random((TRAINED, 2), np.float32)
    network.fit(images[:256], wanted[:256], batch_size=32, verbose=0)
    with spent(cpu) as seconds:
        network.fit(images, wanted, batch_size=32, verbose=0)
    say(f"train cnn at 64x64: {TRAINED / seconds[0]:.0f} images a core-second")


if __name__ == "__main__":
    main()
