"""The samples that a prediction is asked for, one at a time: a file, a folder tree, or packed samples."""

import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

from medloop import kinds, manifest, plugins, privacy
from medloop.errors import Refused

ROWS_MAPPED = 256  # after so many rows the shards are mapped anew, so that what was read leaves memory


@dataclass(frozen=True)
class Input:
    """One sample, encoded, or the reason why there is none."""

    sample_id: str  # pseudonym
    path: str  # below the source; may hold a patient's name: shown on request alone
    content: bytes | None
    error: str | None = None
    file: bytes | None = None  # that it is taken from,
    frame: int | None = None  # and which of several it is, counted from 0


def count(source: Path, kind: str = "image") -> int:
    """Return how many files or samples `source` has; raise Refused where there is none."""
    folder = _packed(source)
    plugin = plugins.load(kinds, kind)
    number = len(manifest.read(folder)[0]) if folder else sum(1 for _ in _files(source, plugin))
    if not number:
        raise Refused(f"no {plugin.NOUNS} found in the input: wanted {plugin.WANTED}, or a manifest")
    return number


def read(source: Path, kind: str = "image", preprocessing: Mapping[str, Any] | None = None) -> Iterator[Input]:
    """Yield every sample of `source` in order, one at a time; of a multi-frame file every frame, of a signal windows.

    The pseudonyms are those that `ingest` gives to the same files under the same key.

    Args:
        source: a DICOM, PNG, JPEG or TIFF file, a signal or a volume; a folder tree of such files; a samples folder or
            its manifest.parquet.
        kind: of sample.
        preprocessing: of the model, as its card has it: how long a window is.
    """
    plugin = plugins.load(kinds, kind)
    folder = _packed(source)
    if folder:
        yield from _samples(folder, plugin, preprocessing or {})
        return
    pseudonyms = privacy.Pseudonyms.load()
    root = source if source.is_dir() else source.parent
    for path in _files(source, plugin):
        name = path.relative_to(root).as_posix()
        try:
            content = plugin.opened(path, preprocessing or {}) if hasattr(plugin, "opened") else path.read_bytes()
            for number, (key, cell, part) in enumerate(plugin.cells(content, name, preprocessing or {})):
                whole = part is content
                yield Input(pseudonyms.of("sample", key), cell, part, None, content, None if whole else number)
        except plugin.Unreadable as error:
            yield Input(pseudonyms.of("sample", name), name, None, str(error))
        except OSError as error:
            yield Input(pseudonyms.of("sample", name), name, None, f"cannot be read ({error.strerror})")
        except Exception as error:  # a damaged file raises anything, and the message may quote the header
            yield Input(pseudonyms.of("sample", name), name, None, f"cannot be decoded ({type(error).__name__})")


def _samples(folder: Path, kind: ModuleType, preprocessing: Mapping[str, Any]) -> Iterator[Input]:
    table, _ = manifest.read(folder)
    for begin in range(0, len(table), ROWS_MAPPED):
        values = manifest.Values(folder)
        for row in list[Any](table.iloc[begin : begin + ROWS_MAPPED].itertuples()):
            for place, content in kind.encoded(row, values[row], preprocessing):
                name = row.sample_id if place is None else f"{row.sample_id}#{place}"
                yield Input(name, name, content)


def _packed(source: Path) -> Path | None:
    """Return the samples folder that `source` is or names."""
    if source.name == "manifest.parquet":
        return source.parent
    return source if (source / "manifest.parquet").exists() else None


def _files(source: Path, kind: ModuleType) -> Iterator[Path]:
    """Yield the samples below `source` in order: what is named or made like one, hidden files left out."""
    if source.is_file():
        yield source
        return
    if not source.is_dir():
        raise Refused(
            f"the input is neither a file nor a folder: give {kind.NOUNS}, a folder of {kind.NOUNS} or a manifest"
        )
    for place, folders, names in os.walk(source):
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        yield from (path for name in sorted(names) if kind.is_input(path := Path(place, name)) and name[0] != ".")
