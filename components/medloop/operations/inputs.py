"""The images that a prediction is asked for, one at a time: a file, a folder tree, or packed samples."""

import os
from collections.abc import Iterator
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path

import pydicom

from medloop import imaging, manifest, privacy
from medloop.errors import Refused
from medloop.operations.scoring import encoded

SUFFIXES = {".png", ".jpg", ".jpeg", ".tif", ".tiff", ".dcm", ".dicom", ".ima"}
HEADER = ["SOPInstanceUID", "NumberOfFrames"]
ROWS_MAPPED = 256  # after so many rows the shards are mapped anew, so that what was read leaves memory


@dataclass(frozen=True)
class Input:
    """One image, encoded, or the reason why there is none."""

    sample_id: str  # pseudonym
    path: str  # below the source; may hold a patient's name: shown on request alone
    content: bytes | None
    error: str | None = None


def count(source: Path) -> int:
    """Return how many files or samples `source` has; raise Refused where there is none."""
    folder = _packed(source)
    number = len(manifest.read(folder)[0]) if folder else sum(1 for _ in _files(source))
    if not number:
        kinds = ", ".join(sorted(SUFFIXES))
        raise Refused(f"no images found in the input: wanted files that end in {kinds}, DICOM files, or a manifest")
    return number


def read(source: Path) -> Iterator[Input]:
    """Yield every image of `source` in order, one at a time; of a multi-frame file every frame.

    The pseudonyms are those that `ingest` gives to the same files under the same key.

    Args:
        source: a DICOM, PNG, JPEG or TIFF file; a folder tree of such files; a samples folder or its manifest.parquet.
    """
    folder = _packed(source)
    if folder:
        yield from _samples(folder)
        return
    pseudonyms = privacy.Pseudonyms.load()
    root = source if source.is_dir() else source.parent
    for path in _files(source):
        name = path.relative_to(root).as_posix()
        try:
            content = path.read_bytes()
        except OSError as error:
            yield Input(pseudonyms.of("sample", name), name, None, f"cannot be read ({error.strerror})")
            continue
        if imaging.is_dicom(content):
            yield from _frames(content, name, pseudonyms)
        else:
            yield Input(pseudonyms.of("sample", name), name, content)


def _samples(folder: Path) -> Iterator[Input]:
    table, _ = manifest.read(folder)
    for begin in range(0, len(table), ROWS_MAPPED):
        pixels = manifest.Pixels(folder)
        for row in table.iloc[begin : begin + ROWS_MAPPED].itertuples():
            content = encoded(pixels[row], int(row.bit_depth))  # type: ignore[arg-type]
            yield Input(str(row.sample_id), str(row.sample_id), content)


def _frames(content: bytes, name: str, pseudonyms: privacy.Pseudonyms) -> Iterator[Input]:
    """Yield a DICOM file as it is, or where it has several frames each as a file of its own."""
    try:
        header = pydicom.dcmread(BytesIO(content), stop_before_pixels=True, specific_tags=HEADER)
        instance, frames = header.get("SOPInstanceUID") or name, int(header.get("NumberOfFrames") or 1)
        if frames == 1:
            yield Input(pseudonyms.of("sample", f"{instance}#0"), name, content)
            return
        for index, (pixels, bits) in enumerate(imaging.decode_dataset(pydicom.dcmread(BytesIO(content)))):
            yield Input(pseudonyms.of("sample", f"{instance}#{index}"), f"{name}#{index}", encoded(pixels, bits))
    except imaging.Unreadable as error:
        yield Input(pseudonyms.of("sample", name), name, None, str(error))
    except Exception as error:  # a damaged file raises anything, and the message may quote the header
        yield Input(pseudonyms.of("sample", name), name, None, f"cannot be decoded ({type(error).__name__})")


def _packed(source: Path) -> Path | None:
    """Return the samples folder that `source` is or names."""
    if source.name == "manifest.parquet":
        return source.parent
    return source if (source / "manifest.parquet").exists() else None


def _files(source: Path) -> Iterator[Path]:
    """Yield the images below `source` in order: what is named or made like one, hidden files left out."""
    if source.is_file():
        yield source
        return
    if not source.is_dir():
        raise Refused("the input is neither a file nor a folder: give an image, a folder of images or a manifest")
    for place, folders, names in os.walk(source):
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        for name in sorted(names):
            path = Path(place, name)
            if not name.startswith(".") and name != "DICOMDIR" and (path.suffix.lower() in SUFFIXES or _dicom(path)):
                yield path


def _dicom(path: Path) -> bool:
    """Tell whether a file without a telling suffix is a DICOM file; one that cannot be opened counts as one."""
    try:
        with path.open("rb") as file:
            return imaging.is_dicom(file.read(132))
    except OSError:
        return True
