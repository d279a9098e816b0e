"""Files that hold a table: what stands in which column, and its records one after the other.

CSV and TSV (also as .gz), Parquet, and h5ad as anndata writes it now and wrote it before 0.7. A file is read a few
records at a time, but for text whose lines are variables, and for matrices that h5ad stores by columns.
"""

import csv
import gzip
import zlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from fnmatch import fnmatchcase
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from medloop.errors import Refused

BLOCK = 256  # records of a binary file read at once
TEXT = (".csv", ".tsv", ".txt", ".data")
SUFFIXES = (*TEXT, *(f"{suffix}.gz" for suffix in TEXT), ".parquet", ".h5ad")
UNREADABLE = (OSError, EOFError, ValueError, KeyError, csv.Error, zlib.error)  # their messages may quote the file
Record = tuple[str, Mapping[str, str], Sequence[Any] | np.ndarray]  # where it stands, what it says, values (V,)


@dataclass(frozen=True)
class Layout:
    """How a file is read."""

    said: frozenset[str]  # columns that say something of a record, and are no variables
    leave: tuple[str, ...] = ()  # patterns of columns that are left out
    variable: str | None = None  # of a file whose lines are variables: the column that names them
    matrix: str = "X"  # of h5ad

    def left(self, name: str) -> bool:
        """Tell whether a column is left out."""
        return any(fnmatchcase(name, pattern) for pattern in self.leave)


@dataclass(frozen=True)
class Table:
    """A file that has been looked into."""

    said: tuple[str, ...]  # the columns that say something of a record
    variables: tuple[str, ...]
    records: Callable[[], Iterator[Record]]


def look(path: Path, layout: Layout) -> Table:
    """Return what the columns of a file are.

    Raises:
        Refused: it cannot be read, its suffix is unknown, or two columns have one name.
    """
    suffix = path.suffixes[-2] if path.suffix == ".gz" and len(path.suffixes) > 1 else path.suffix
    try:
        if suffix == ".parquet":
            table = _parquet(path, layout)
        elif suffix == ".h5ad":
            table = _h5ad(path, layout)
        elif suffix in TEXT:
            table = _by_variable(path, layout) if layout.variable else _text(path, layout)
        else:
            raise Refused(f"{path.name} must end in {', '.join(SUFFIXES)}")
    except Refused:
        raise
    except UNREADABLE as error:
        raise _unreadable(path, error) from None
    if not table.variables:
        raise Refused(f"{path.name} has no column of values")
    if "" in table.variables:
        raise Refused(
            f"{path.name} has a column without a name, as pandas writes its index: name it, or leave it out, "
            "leave: ['']"
        )
    names = set[str]()
    for name in (*table.said, *table.variables):
        if name in names:
            raise Refused(f"{path.name}: two columns are called {name}: rename one, or name it under leave")
        names.add(name)
    return replace(table, records=partial(_all, path, table.records))


def _all(path: Path, records: Callable[[], Iterator[Record]]) -> Iterator[Record]:
    """Yield the records of a file; raise Refused where it turns out to be damaged further on."""
    try:
        yield from records()
    except Refused:
        raise
    except UNREADABLE as error:
        raise _unreadable(path, error) from None


def _unreadable(path: Path, error: Exception) -> Refused:
    return Refused(f"{path.name} is no readable table ({type(error).__name__})")


def lines(path: Path) -> Iterator[tuple[int, list[str]]]:
    """Yield number and cells of each line that is not empty, the header first; cells are stripped.

    Raises:
        Refused: a line has more or fewer cells than the header.
    """
    width = 0
    suffix = path.suffixes[-2] if path.suffix == ".gz" else path.suffix
    with (
        gzip.open(path, "rt", encoding="utf-8-sig", newline="")
        if path.suffix == ".gz"
        else path.open(encoding="utf-8-sig", newline="") as file
    ):
        reader = csv.reader(file, delimiter="\t" if suffix == ".tsv" else ",", skipinitialspace=True)
        for cells in reader:
            if not any(cells):
                continue
            width = width or len(cells)
            if len(cells) != width:
                raise Refused(f"{path.name}, line {reader.line_num}: {len(cells)} cells, the first line has {width}")
            yield reader.line_num, [cell.strip() for cell in cells]


def _text(path: Path, layout: Layout) -> Table:
    header = _header(path)
    said = [place for place, name in enumerate(header) if name in layout.said]
    kept = [place for place, name in enumerate(header) if name not in layout.said and not layout.left(name)]

    def records() -> Iterator[Record]:
        for number, cells in _below_header(path):
            yield f"line {number}", {header[place]: cells[place] for place in said}, [cells[place] for place in kept]

    return Table(tuple(header[place] for place in said), tuple(header[place] for place in kept), records)


def _by_variable(path: Path, layout: Layout) -> Table:
    header = _header(path)
    if layout.variable not in header:
        raise Refused(f"{path.name} has no column {layout.variable!r} that names the variables")
    names = header.index(layout.variable)
    kept = [place for place, name in enumerate(header) if place != names and not layout.left(name)]
    rows = [cells for _, cells in _below_header(path)]

    def records() -> Iterator[Record]:
        for place in kept:
            yield f"column {place + 1}", {layout.variable or "": header[place]}, [cells[place] for cells in rows]

    return Table((layout.variable or "",), tuple(cells[names] for cells in rows), records)


def _header(path: Path) -> list[str]:
    found = next(lines(path), None)
    if found is None:
        raise Refused(f"{path.name} is empty")
    _, names = found
    if len(names) == 1 and any(mark in names[0] for mark in "\t;|"):
        raise Refused(f"{path.name} has one column: cells must stand apart by commas, or in a .tsv by tabs")
    return names


def _below_header(path: Path) -> Iterator[tuple[int, list[str]]]:
    found = lines(path)
    next(found)
    yield from found


def _parquet(path: Path, layout: Layout) -> Table:
    import pyarrow.parquet as pq

    schema = pq.ParquetFile(path).schema_arrow
    index = (schema.pandas_metadata or {}).get("index_columns", [])  # a name each, or a range: no variables
    said = [name for name in schema.names if name in layout.said]
    kept = [name for name in schema.names if name not in (*layout.said, *index) and not layout.left(name)]

    def records() -> Iterator[Record]:
        number = 0
        for batch in pq.ParquetFile(path).iter_batches(BLOCK, columns=[*said, *kept]):
            columns = batch.to_pydict()
            for place in range(len(batch)):
                number += 1
                what = {name: _as_text(columns[name][place]) for name in said}
                yield f"row {number}", what, [columns[name][place] for name in kept]

    return Table(tuple(said), tuple(kept), records)


def _h5ad(path: Path, layout: Layout) -> Table:
    import h5py

    with h5py.File(path) as file:
        if layout.matrix not in file:
            there = [name for name in ("X", "raw/X", "raw.X") if name in file]
            layers = [f"layers/{name}" for name in file.get("layers", ())]
            raise Refused(f"{path.name} has no matrix {layout.matrix}; it has {', '.join([*there, *layers])}")
        said = {name: _column(file, "obs", name) for name in _columns(file, "obs") if name in layout.said}
        names = [_as_text(name) for name in _index(file, layout.matrix)]
    kept = [place for place, name in enumerate(names) if not layout.left(name)]

    def records() -> Iterator[Record]:
        with h5py.File(path) as file:
            for begin, block in _blocks(file[layout.matrix], len(names)):
                for place, values in enumerate(block[:, kept], begin):
                    yield f"row {place + 1}", {name: column[place] for name, column in said.items()}, values

    return Table(tuple(said), tuple(names[place] for place in kept), records)


def _columns(file: Any, table: str) -> list[str]:
    found = file[table]
    return list(found.dtype.names) if hasattr(found, "dtype") else list(found)


def _index(file: Any, matrix: str) -> np.ndarray:
    """Return the names of the columns of a matrix: `raw` has its own."""
    first = matrix.replace(".", "/").split("/")[0]
    place = next(name for name in ("raw.var", "raw/var", "var") if name in file and (first == "raw") == (name != "var"))
    table = file[place]
    if hasattr(table, "dtype"):
        return np.asarray(table[table.dtype.names[0]])
    return np.asarray(table[table.attrs["_index"]])


def _column(file: Any, table: str, name: str) -> list[str]:
    """Return a column of h5ad as text, categories by their names."""
    found = file[table]
    if hasattr(found, "dtype"):  # before 0.7: one array of records, categories elsewhere
        codes, names = found[name], file.get(f"uns/{name}_categories")
    elif hasattr(found[name], "dtype"):
        codes, names = found[name][:], found.get(f"__categories/{name}")
    else:
        codes, names = found[f"{name}/codes"][:], found[f"{name}/categories"]
    if names is None:
        return [_as_text(value) for value in codes]
    known = [_as_text(value) for value in names[:]]
    return [known[code] if code >= 0 else "" for code in codes]


def _blocks(found: Any, width: int) -> Iterator[tuple[int, np.ndarray]]:
    """Yield where a block of rows begins, and its values (n, V) float32."""
    if hasattr(found, "dtype"):
        for begin in range(0, len(found), BLOCK):
            yield begin, np.asarray(found[begin : begin + BLOCK], np.float32)
        return
    how = _as_text(found.attrs.get("encoding-type", found.attrs.get("h5sparse_format", "")))
    starts = found["indptr"][:]
    if how.startswith("csc"):
        from scipy.sparse import csc_matrix

        rows = int(found.attrs.get("shape", found.attrs.get("h5sparse_shape"))[0])
        whole = csc_matrix((found["data"][:], found["indices"][:], starts), (rows, width)).tocsr()
        for begin in range(0, rows, BLOCK):
            yield begin, whole[begin : begin + BLOCK].toarray().astype(np.float32)
        return
    for begin in range(0, len(starts) - 1, BLOCK):
        bounds = starts[begin : begin + BLOCK + 1]
        block = np.zeros((len(bounds) - 1, width), np.float32)
        part = slice(bounds[0], bounds[-1])
        rows_of = np.repeat(np.arange(len(block)), np.diff(bounds))
        block[rows_of, found["indices"][part]] = found["data"][part]
        yield begin, block


def _as_text(value: Any) -> str:
    if value is None or (isinstance(value, float | np.floating) and np.isnan(value)):
        return ""
    return value.decode() if isinstance(value, bytes) else str(value)
