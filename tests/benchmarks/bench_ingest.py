"""Ingest small DICOM files at once, in three shards, and again after a few came: ratios of wall time.

Three shards on one machine share its cores, so that nothing is to be gained by them here: the ratio tells what a shard
costs, processes side by side as the local runner starts them. Imports are not counted.
"""

import argparse
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

import support
from medloop import params
from medloop.stages.ingest import ingest, ingest_part

BASE, SHARDS = params.Base(), 3


def main() -> None:
    arguments = argparse.ArgumentParser(description=__doc__)
    arguments.add_argument("--images", type=int, default=2000)
    arguments.add_argument("--size", type=int, default=256, help="pixels a side")
    arguments.add_argument("--runs", type=int, default=3)
    arguments.add_argument("--part", nargs=3, metavar=("ROOT", "SHARD", "PART"), help="the process of one shard")
    given = arguments.parse_args()
    if given.part:
        root, shard, part = given.part
        sys.stdin.readline()  # imports are done
        ingest_part(BASE, section(root), part=Path(part), shard=int(shard), shards=SHARDS)
        return
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        os.environ |= {"MEDLOOP_KEY_FILE": str(folder / "key"), "MEDLOOP_STATE": str(folder / "state")}
        measure(folder, given.images, given.size, given.runs)


def section(root: str | Path) -> params.Ingest:
    return params.Ingest(source="dicom", root=str(root), leaks="report")


def measure(folder: Path, images: int, size: int, runs: int) -> None:
    """Print the medians of interleaved runs and their ratios."""
    root, samples = folder / "data", folder / "samples"
    add(root, range(images), size)
    seconds: dict[str, list[float]] = {"at once": [], f"{SHARDS} shards": [], "nothing new": [], "1% new": []}
    for number in range(runs):
        seconds["at once"].append(timed(lambda: ingest(BASE, section(root), samples=samples)))
        seconds[f"{SHARDS} shards"].append(sharded(root, folder / f"run-{number}"))
        for what in ("nothing new", "1% new"):
            if what == "1% new":
                add(root, range(images + number * images // 100, images + (number + 1) * images // 100), size)
            seconds[what].append(timed(lambda: ingest(BASE, section(root), samples=samples, previous=samples)))
    medians = {what: statistics.median(times) for what, times in seconds.items()}
    for what, median in medians.items():
        ratios = [full / part for full, part in zip(seconds["at once"], seconds[what], strict=True)]
        print(f"{images} files of {size} px, {what}: {median:.2f} s, {statistics.median(ratios):.2f}x of at once")


def sharded(root: Path, folder: Path) -> float:
    """Return the seconds of all shards side by side and of putting them together, their imports left out."""
    parts = [folder / f"part-{shard}" for shard in range(SHARDS)]
    commands = [[sys.executable, __file__, "--part", str(root), str(n), str(part)] for n, part in enumerate(parts)]
    processes = [subprocess.Popen(command, stdin=subprocess.PIPE) for command in commands]
    time.sleep(10)  # for the imports
    start = time.perf_counter()
    for process in processes:
        process.stdin.close()
    if {process.wait() for process in processes} != {0}:
        raise RuntimeError("a shard failed")
    ingest(BASE, section(root), samples=folder / "samples", parts=parts)
    return time.perf_counter() - start


def timed(work) -> float:
    start = time.perf_counter()
    work()
    return time.perf_counter() - start


def add(root: Path, patients: range, size: int) -> None:
    """Write one file a patient, and all of them on the label table."""
    root.mkdir(exist_ok=True)
    table = root / "labels.csv"
    lines = table.read_text().splitlines() if table.exists() else ["path,label"]
    for patient in patients:
        support.dicom(patient, finding=patient % 2 == 0, size=size).save_as(root / f"{patient:06}.dcm")
        lines.append(f"{patient:06}.dcm,{'ab'[patient % 2]}")
    table.write_text("\n".join(lines) + "\n")


if __name__ == "__main__":
    main()
