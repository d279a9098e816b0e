"""Data sets of the UCR archive as text: a line a sequence, its class first, then its values; none has patients.

Values that are missing at a line's end are none: the archive fills up shorter sequences so.

NAME_TRAIN.txt and NAME_TEST.txt (or .tsv, .csv, each also as .gz) are looked for in `root`, in $MEDLOOP_DATA and in its
subfolder of that name. With both, the test set is the archive's own, and a share of train becomes val; with train alone
the content of each sequence decides its side.
"""

import gzip
import hashlib
import math
import os
import zlib
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import numpy as np
from pydantic import Field

from medloop import params
from medloop.errors import Refused
from medloop.sources import Item, Sample

KIND = "sequence"
SUFFIXES = (".txt", ".tsv", ".csv")


class Options(params.Section):
    """`ingest.options.ucr:`"""

    name: str = Field(description="e.g. ECG5000: of the files, and in small letters of the subfolder of $MEDLOOP_DATA")
    classes: dict[str, str] = Field({}, description="name by the number in the file, two may share one; none: numbers")
    leave: tuple[str, ...] = Field((), description="numbers of classes that are left out")
    val: float = Field(0.2, gt=0, lt=1, description="share of train that becomes val, where there is a test file")


def items(root: Path, options: Options, *, seed: int) -> Iterator[Item]:  # noqa: ARG001
    """Yield one item a line.

    Raises:
        Refused: no such file, or one that is damaged or no text.
    """
    folder, train = _found(root, options, "TRAIN")
    test = _file(folder, f"{options.name}_TEST")
    for path, official in ((train, "train" if test else None), (test, "test")):
        if path is None:
            continue
        for number, (place, line) in enumerate(_lines(path)):
            if _class(line) not in options.leave:
                key = f"{path.name}/{number}"
                yield Item(key, partial(_sample, key, place, line, official, options))


def notes(options: Options) -> list[str]:
    """Return what a reader must know."""
    return [
        f"UCR archive, {options.name}: the archive names no patients, so that sequences of one patient may stand "
        "on two sides. It states no licence; cite Dau et al., The UCR time series archive, 2019."
    ]


def _found(root: Path, options: Options, part: str) -> tuple[Path, Path]:
    folders = [root]
    if data := os.environ.get("MEDLOOP_DATA"):
        folders += [Path(data), Path(data) / options.name, Path(data) / options.name.lower()]
    for folder in folders:
        if path := _file(folder, f"{options.name}_{part}"):
            return folder, path
    listed = " or ".join(str(folder) for folder in folders)
    raise Refused(
        f"no {options.name}_{part}.txt in {listed}: set ingest.root to its folder, or MEDLOOP_DATA to the one around "
        "it; timeseriesclassification.com has it"
    )


def _file(folder: Path, stem: str) -> Path | None:
    names = (f"{stem}{suffix}{packed}" for suffix in SUFFIXES for packed in ("", ".gz"))
    return next((folder / name for name in names if (folder / name).is_file()), None)


def _lines(path: Path) -> Iterator[tuple[int, str]]:
    """Yield number and text of the lines that are not empty.

    Raises:
        Refused: the file turns out to be damaged, or no text.
    """
    opened = gzip.open if path.suffix == ".gz" else open
    try:
        with opened(path, "rt", encoding="utf-8-sig") as file:
            yield from ((place, line.rstrip("\n")) for place, line in enumerate(file, 1) if line.strip())
    except UnicodeDecodeError:
        raise Refused(f"{path.name} is no text: wanted a line a sequence, its class first, then its values") from None
    except (OSError, EOFError, zlib.error) as error:
        raise Refused(f"{path.name} cannot be read ({type(error).__name__})") from None


def _sample(key: str, place: int, line: str, official: str | None, options: Options) -> Iterator[Sample]:
    try:
        label, *values = map(float, _cells(line))
    except ValueError:
        raise Refused(f"line {place} is no row of numbers: its class first, then its values") from None
    while values and math.isnan(values[-1]):  # so the archive fills up shorter ones
        values.pop()
    if not all(map(math.isfinite, (label, *values))):
        raise Refused(f"line {place} has a class or a value that is no number")
    name = _class(line)
    if options.classes and name not in options.classes:
        known = ", ".join(options.classes)
        raise Refused(f"line {place} is of class {name}, ingest.options.ucr.classes names {known}")
    side = official
    if official == "train" and _share(line) < options.val:
        side = "val"
    signal = np.array(values, np.float32)[:, None]  # (T, 1)
    yield Sample(key, signal, label=options.classes.get(name, name), split=side)


def _class(line: str) -> str:
    """Return the number of its class as `ingest.options.ucr.classes` writes it; an empty text for none."""
    try:
        return f"{float(_cells(line)[0]):g}"
    except ValueError:
        return ""


def _cells(line: str) -> list[str]:
    return [cell.strip() for cell in line.split(",")] if "," in line else line.split()


def _share(line: str) -> float:
    """Return a number from 0 to 1 that the content of a line alone decides."""
    return int.from_bytes(hashlib.sha256(line.encode()).digest()[:8], "big") / 2**64
