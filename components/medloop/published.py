"""The files of MedMNIST v2 and MedMNIST+: found or downloaded, held against their digests, read piece by piece.

Addresses as published with Yang et al., MedMNIST v2, Scientific Data 2023, in the records of zenodo that it names.
"""

import hashlib
import os
import tempfile
import urllib.error
import urllib.request
import zipfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import IO

import numpy as np
from tqdm import tqdm

from medloop import manifest
from medloop.errors import Refused

ADDRESS = "https://zenodo.org/records/10519652/files/{file}?download=1"
CHUNK_BYTES = 2**20  # of values at a time
BLOCK_BYTES = 2**20  # of a download
TIMEOUT_S = 30


@dataclass(frozen=True)
class Dataset:
    """What is published of one set."""

    labels: str  # class names in label order
    digests: str  # MD5 of the file of each size
    multi_label: bool = False
    ordered: bool = False  # the classes are grades, from the lowest to the highest
    licence: str = "CC BY 4.0"

    @property
    def classes(self) -> tuple[str, ...]:
        return tuple(self.labels.split("; "))


@dataclass(frozen=True)
class File:
    """One file of a set: 28 pixels or voxels a side, or more."""

    name: str  # of the set
    side: int
    md5: str

    @property
    def file(self) -> str:
        return f"{self.name}.npz" if self.side == 28 else f"{self.name}_{self.side}.npz"


def path(root: Path, wanted: File) -> Path:
    """Return where the official file is: in `root`, $MEDLOOP_DATA or its subfolder of the set's name, or ~/.medmnist.

    Else it is downloaded to there.

    Raises:
        Refused: the file is not the official one, or there is none and no network.
    """
    if (there := _found(root, wanted)) is None:
        return _downloaded(wanted)
    _check(there, wanted, f"remove {there} and run again to download it")
    return there


def read(archive: Path, dataset: Dataset) -> Iterator[tuple[str, int, np.ndarray, list[str]]]:
    """Yield (split, index of the first, values (n, ...) uint8, label of each), about a megabyte at a time."""
    with zipfile.ZipFile(archive) as content:
        for split in manifest.SPLITS:
            names = _labels(_array(content, f"{split}_labels.npy"), dataset)
            with content.open(f"{split}_images.npy") as file:
                for start, values in _chunks(file):
                    yield split, start, values, names[start : start + len(values)]


def _found(root: Path, wanted: File) -> Path | None:
    folders = [root]
    if data := os.environ.get("MEDLOOP_DATA"):
        folders += [Path(data), Path(data) / wanted.name]
    paths = (folder / wanted.file for folder in (*folders, _home()))
    return next((path for path in paths if path.is_file()), None)


def _home() -> Path:
    return Path.home() / ".medmnist"


def _check(path: Path, wanted: File, remedy: str) -> None:
    """Compare the file with its official digest."""
    with path.open("rb") as file:
        came = hashlib.file_digest(file, lambda: hashlib.md5(usedforsecurity=False)).hexdigest()
    if came != wanted.md5:
        raise Refused(f"{wanted.file} is not the official file: wanted MD5 {wanted.md5}, got {came}; {remedy}")


def _downloaded(wanted: File) -> Path:
    """Fetch the official file to ~/.medmnist; a file that is not whole never gets its name."""
    path, address = _home() / wanted.file, ADDRESS.format(file=wanted.file)
    path.parent.mkdir(parents=True, exist_ok=True)
    number, partial_name = tempfile.mkstemp(dir=path.parent, prefix=f".{wanted.file}.")
    try:
        with os.fdopen(number, "wb") as file:
            _fetch(address, file, wanted.file)
        _check(Path(partial_name), wanted, f"{address} was cut short or has changed: try again")
        return Path(partial_name).rename(path)
    except (urllib.error.URLError, TimeoutError, ConnectionError) as error:
        raise Refused(
            f"{wanted.file} is not here, and {address} cannot be reached ({type(error).__name__}): download it "
            f"elsewhere and place it as {path}, or in a folder that $MEDLOOP_DATA names"
        ) from None
    finally:
        Path(partial_name).unlink(missing_ok=True)


def _fetch(address: str, file: IO[bytes], name: str) -> None:
    with urllib.request.urlopen(address, timeout=TIMEOUT_S) as response:  # noqa: S310  the address is ours
        size = int(response.headers.get("Content-Length") or 0) or None
        with tqdm(total=size, unit="B", unit_scale=True, desc=f"download {name}", disable=None) as bar:
            while block := response.read(BLOCK_BYTES):
                file.write(block)
                bar.update(len(block))


def _array(archive: zipfile.ZipFile, name: str) -> np.ndarray:
    with archive.open(name) as file:
        return np.lib.format.read_array(file, allow_pickle=False)


def _chunks(file: IO[bytes]) -> Iterator[tuple[int, np.ndarray]]:
    """Yield (index of the first, values (n, ...)) from an open .npy, a few at a time."""
    np.lib.format.read_magic(file)
    shape, fortran, dtype = np.lib.format.read_array_header_1_0(file)
    if fortran or dtype != np.uint8:
        raise Refused("MedMNIST values must be uint8 in C order: the file is none of the official ones")
    each = int(np.prod(shape[1:]))
    step = max(1, CHUNK_BYTES // each)
    for start in range(0, shape[0], step):
        count = min(step, shape[0] - start)
        yield start, np.frombuffer(file.read(count * each), np.uint8).reshape(count, *shape[1:])


def _labels(codes: np.ndarray, dataset: Dataset) -> list[str]:
    """Return class names for codes (N, 1), or (N, classes) of 0 and 1: those joined by "|", "" where there is none."""
    names = dataset.classes
    if not dataset.multi_label:
        return [names[code] for code in codes[:, 0]]
    return ["|".join(name for name, code in zip(names, row, strict=True) if code) for row in codes]
