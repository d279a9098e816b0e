"""Decode and pack DICOM files through the product, against a plain single-thread pydicom loop.

Prints the ratio of times (median of interleaved runs, the pool's start included) and how peak memory grows from 1,000
to 10,000 images.
"""

import argparse
import csv
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

import cv2
import numpy as np
import pydicom
from pydicom.dataset import FileDataset, FileMetaDataset
from pydicom.pixels import apply_modality_lut, apply_voi_lut
from pydicom.uid import ExplicitVRLittleEndian, JPEG2000Lossless, SecondaryCaptureImageStorage, generate_uid

from medloop import decoding, packing, params, privacy
from medloop.sources import dicom

DISTINCT = 20  # images; the others repeat them under identifiers of their own
SYNTAXES = {"JPEG 2000": JPEG2000Lossless, "uncompressed": ExplicitVRLittleEndian}
WANTED = {"JPEG 2000": 1.7, "uncompressed": 1.3}


def main() -> None:
    arguments = argparse.ArgumentParser(description=__doc__)
    arguments.add_argument("--images", type=int, default=1000)
    arguments.add_argument("--runs", type=int, default=5)
    arguments.add_argument("--once", nargs=3, metavar=("WAY", "ROOT", "OUTPUT"), help="the process that is measured")
    given = arguments.parse_args()
    os.environ.setdefault("MEDLOOP_KEY_FILE", str(Path(tempfile.gettempdir()) / "bench_decode.key"))
    if given.once:
        once(given.once[0], Path(given.once[1]), Path(given.once[2]))
        return
    with tempfile.TemporaryDirectory() as folder:
        for name, syntax in SYNTAXES.items():
            compare(name, make(Path(folder) / name, given.images, 512, syntax), Path(folder) / "out", given.runs)
            shutil.rmtree(Path(folder) / name)
        memory(Path(folder), given.images)


def once(way: str, root: Path, output: Path) -> None:
    """Print the seconds of one way, its imports apart."""
    if way == "one thread":  # some decoders start threads of their own
        os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})
    start = time.perf_counter()
    (product if way == "product" else plain)(root, output)
    print(time.perf_counter() - start)


def compare(name: str, root: Path, output: Path, runs: int) -> None:
    """Print the seconds of each way, in processes of their own, and the ratios."""
    seconds: dict[str, list[float]] = {"one thread": [], "one loop": [], "product": []}
    for _ in range(runs):
        for way, found in seconds.items():
            shutil.rmtree(output, ignore_errors=True)
            output.mkdir()
            command = [sys.executable, __file__, "--once", way, str(root), str(output)]
            found.append(float(subprocess.run(command, capture_output=True, text=True, check=True).stdout))
    ratios = {
        way: statistics.median(a / b for a, b in zip(seconds[way], seconds["product"], strict=True)) for way in seconds
    }
    medians = ", ".join(f"{way} {statistics.median(times):.2f} s" for way, times in seconds.items())
    print(
        f"{name}: {ratios['one thread']:.2f}x against a loop on one core (wanted {WANTED[name]}x), "
        f"{ratios['one loop']:.2f}x against a loop whose decoder may use threads ({medians})",
        flush=True,
    )


def plain(root: Path, output: Path) -> None:
    """Read, show and write one file after the other, as pydicom's documentation has it."""
    with (output / "pixels.bin").open("wb") as file:
        for path in sorted(root.rglob("*.dcm")):
            ds = pydicom.dcmread(path)
            shown = apply_voi_lut(apply_modality_lut(ds.pixel_array, ds), ds)
            if ds.PhotometricInterpretation == "MONOCHROME1":
                shown = shown.max() - shown
            file.write((shown - shown.min()).astype(np.uint16).tobytes())


def product(root: Path, output: Path) -> None:
    """List, decode on all cores and pack."""
    section = params.Ingest(source="dicom", root=root)
    items = dicom.items(root, dicom.Options(), seed=0)
    decode = decoding.Decoding(section, pseudonyms := privacy.Pseudonyms.load())
    packed = packing.pack(decode.entries(items, decoding.Listing(pseudonyms)), output, None)
    if packed.rejected or not packed.keys:
        raise RuntimeError(f"{len(packed.rejected)} files were rejected")


def memory(folder: Path, images: int) -> None:
    """Print the peak of resident memory, parent and children together, for few and for many images."""
    peaks = []
    for count in (images, 10 * images):
        root = make(folder / "memory", count, 256, ExplicitVRLittleEndian)
        (folder / "packed").mkdir()
        peaks.append(peak_bytes([sys.executable, __file__, "--once", "product", str(root), str(folder / "packed")]))
        shutil.rmtree(folder / "packed")
        shutil.rmtree(root)
    few, many = (peak / 2**20 for peak in peaks)
    growth = many / few - 1
    print(
        f"peak memory: {few:.0f} MiB for {images}, {many:.0f} MiB for {10 * images} ({growth:+.1%}, wanted at most 20%)"
    )


def peak_bytes(command: list[str]) -> int:
    """Return the largest sum of resident memory of a command and its descendants, sampled every 20 ms."""
    peak, page = 0, os.sysconf("SC_PAGE_SIZE")
    with subprocess.Popen(command, stdout=subprocess.DEVNULL) as process:
        done = threading.Event()
        threading.Thread(target=lambda: (process.wait(), done.set()), daemon=True).start()
        while not done.wait(0.02):
            peak = max(peak, page * sum(_resident(pid) for pid in _family(process.pid)))
    if process.returncode:
        raise RuntimeError(f"packing failed with exit code {process.returncode}")
    return peak


def _family(pid: int) -> list[int]:
    try:
        children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    except OSError:  # it has ended
        return []
    return [pid, *(each for child in children for each in _family(int(child)))]


def _resident(pid: int) -> int:
    try:
        return int(Path(f"/proc/{pid}/statm").read_text().split()[1])
    except OSError:  # it has ended
        return 0


def make(root: Path, count: int, side: int, syntax: pydicom.uid.UID) -> Path:
    """Write `count` files with 16 bits stored, a window, and MONOCHROME1, and their labels."""
    root.mkdir()
    datasets = [_dataset(seed, side, syntax) for seed in range(min(DISTINCT, count))]
    for index in range(count):
        ds = datasets[index % len(datasets)]
        ds.SOPInstanceUID = ds.file_meta.MediaStorageSOPInstanceUID = generate_uid(entropy_srcs=[str(index)])
        ds.save_as(root / f"{index:05}.dcm")
    with (root / "labels.csv").open("w", newline="") as file:
        csv.writer(file).writerows(
            [("path", "label"), *((f"{index:05}.dcm", "ab"[index % 2]) for index in range(count))]
        )
    return root


def _dataset(seed: int, side: int, syntax: pydicom.uid.UID) -> FileDataset:
    rng = np.random.default_rng(seed)
    smooth = cv2.GaussianBlur(rng.normal(size=(side, side)), (0, 0), side / 16)
    image = (smooth - smooth.min()) / np.ptp(smooth) * 40_000 + 5000 + rng.normal(0, 60, (side, side))
    meta = FileMetaDataset()
    meta.TransferSyntaxUID, meta.MediaStorageSOPClassUID = ExplicitVRLittleEndian, SecondaryCaptureImageStorage
    ds = FileDataset("", {}, file_meta=meta, preamble=bytes(128))
    ds.SOPClassUID, ds.PatientID, ds.StudyInstanceUID, ds.Modality = (
        meta.MediaStorageSOPClassUID,
        str(seed),
        "1.2.3",
        "DX",
    )
    ds.SamplesPerPixel, ds.PhotometricInterpretation, ds.PixelRepresentation = 1, "MONOCHROME1", 0
    ds.Rows, ds.Columns, ds.BitsAllocated, ds.BitsStored, ds.HighBit = side, side, 16, 16, 15
    ds.RescaleSlope, ds.RescaleIntercept, ds.WindowCenter, ds.WindowWidth = 1, -1024, 24_000, 40_000
    ds.PixelData = image.astype(np.uint16).tobytes()
    ds["PixelData"].VR = "OW"
    if syntax.is_compressed:
        ds.compress(syntax)
    return ds


if __name__ == "__main__":
    main()
