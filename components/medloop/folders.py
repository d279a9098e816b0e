"""Folders with a file a sample: which files there are, and what a label table or their places say of them."""

from collections.abc import Sequence
from pathlib import Path

from medloop import labels, manifest
from medloop.errors import Refused
from medloop.fetching import data


def files(root: Path, table: Path | None, nouns: str) -> list[str]:
    """Return the files below `root`, sorted; hidden ones and the label table are none of the data."""
    if not root.is_dir():
        raise Refused(f"no folder {root}: set ingest.root to the folder with your {nouns}")
    listed = table.as_posix() if table else None
    return sorted(name for name in data.below(root) if name != listed and not _hidden(name))


def _hidden(path: str) -> bool:
    """Tell whether a file, or a folder above it, is hidden."""
    return path.startswith(".") or "/." in path


def rows(
    root: Path, files: Sequence[str], table: Path | None, *, split_folders: bool, source: str, noun: str, several: bool
) -> dict[str, labels.Row]:
    """Return what is known of each file: by the label table, else by the folder of its class.

    Args:
        root: of the files.
        files: below it.
        table: of labels, below it; None: <root>/<class>/...
        split_folders: without a table, <root>/<train, val or test>/<class>/...
        source: whose options the messages name.
        noun: of a sample.
        several: a sample may have several labels, or none, by the table.

    Raises:
        Refused: a file without a label, a row without a file, or folders that are no classes.
    """
    if table is None and several:
        raise Refused(f"several labels stand in a table: set ingest.options.{source}.labels, or several: false")
    if table is None:
        return _by_folder(files, split_folders, f"ingest.options.{source}", noun)
    found = labels.read(root / table, "path", several=several)
    labels.match({file: file for file in files}, found, root / table)
    return found


def _by_folder(files: Sequence[str], split_folders: bool, options: str, noun: str) -> dict[str, labels.Row]:
    depth = 2 if split_folders else 1
    if stray := sum(file.count("/") < depth for file in files):
        raise Refused(f"every {noun} must lie in the folder of its class, {stray} of {len(files)} do not")
    tops = {file.split("/", 1)[0] for file in files}
    if not split_folders:
        if tops <= {*manifest.SPLITS, "valid", "validation"} and files:
            raise Refused(
                f"the class folders are named like splits; set {options}.split_folders: true for "
                "<train, val or test>/<class>/..."
            )
        _check_not_patients(files, options, noun)
    elif not tops <= set(manifest.SPLITS):
        raise Refused(f"with split_folders the folders below the root must be {', '.join(manifest.SPLITS)}")
    known = dict[tuple[str, ...], labels.Row]()  # one of each, for all files of a folder
    found = dict[str, labels.Row]()
    for file in files:
        above = tuple(file.split("/", depth)[:depth])
        row = labels.Row(above[-1], split=above[0] if split_folders else None)
        found[file] = known.setdefault(above, row)
    return found


def _check_not_patients(files: Sequence[str], options: str, noun: str) -> None:
    """Refuse <patient>/<class>/...: a folder below the root names a class, and would be shown as one."""
    places: dict[str, set[str]] = {}
    for file in files:
        top, *below = file.split("/", 2)
        if len(below) > 1:
            places.setdefault(below[0], set()).add(top)
    shared = sum(len(above) > 1 for above in places.values())
    if shared > 1:
        raise Refused(
            f"the folders below the root must be classes, but {shared} folders inside them stand in several, as "
            f"classes do inside patients: sort the {noun}s by class, or give a label table ({options}.labels)"
        )
