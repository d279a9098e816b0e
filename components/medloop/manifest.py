"""The sample table and the packed values beside it.

A samples folder holds `manifest.parquet`, one row a sample, and `shards/NNNNN.bin`: the raw values of one sample after
the other (pixels of an image, a stretch of a signal), so that a reader maps a shard into memory and takes what a row
points to. What has no meaning for a kind of sample is null.
"""

import json
import mmap
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from medloop.errors import Refused

SCHEMA_VERSION = 2
SPLITS = ("train", "val", "test")
SHARD_BYTES = 256 * 2**20
OPEN = 2  # shards that are mapped at once
KEYS = "samples.csv"  # in the private folder of where `ingest` ran: the file that each sample came from
WHICH_FILES = f".medloop/private/{KEYS}, where `ingest` ran, says which files"
READ = 1000  # samples: what was read of mapped files counts as memory of the process, and is given back after so many

SCHEMA = pa.schema(
    [
        pa.field("sample_id", pa.string(), nullable=False),  # pseudonym
        pa.field("patient_id", pa.string()),  # pseudonym; null: the source has no patients
        pa.field("study_id", pa.string()),  # pseudonym
        pa.field("source", pa.string(), nullable=False),
        pa.field("site", pa.string()),
        pa.field("sex", pa.string()),  # F, M, O
        pa.field("age_years", pa.float64()),  # over 89 stands as 90
        pa.field("modality", pa.string()),
        pa.field("label", pa.string()),  # null: the data set has no classes
        pa.field("target", pa.float64()),  # a number to predict; null: none, or it follows from the values
        pa.field("split", pa.string(), nullable=False),  # train, val, test
        pa.field("content_sha256", pa.string(), nullable=False),  # of shape, type and values
        pa.field("shape", pa.list_(pa.int32()), nullable=False),  # (H, W) or (H, W, 3); (T, C); (D, H, W); (V,)
        pa.field("dtype", pa.string(), nullable=False),  # uint8, uint16, int16, float32
        pa.field("perceptual_hash", pa.uint64()),  # of images
        pa.field("bit_depth", pa.int8()),  # bits in use, of images
        pa.field("spacing_mm", pa.list_(pa.float64())),  # along each axis of space
        pa.field("rate_hz", pa.float64()),  # of a signal
        pa.field("unit", pa.string()),  # of the values, e.g. mV
        pa.field("start", pa.int64()),  # of a stretch of a signal: its first place in the recording
        pa.field("shard", pa.string(), nullable=False),  # file below the samples folder
        pa.field("offset", pa.int64(), nullable=False),  # bytes
        pa.field("mask_offset", pa.int64()),  # bytes; (H, W) uint8 in the same shard
        pa.field("boxes", pa.list_(pa.list_(pa.float64(), 4))),  # x0, y0, x1, y1 in pixels, ends exclusive
        pa.field("box_labels", pa.list_(pa.string())),  # the class of each box
        pa.field("instances_offset", pa.int64()),  # bytes; (H, W) uint16 in the same shard
        pa.field("synthetic", pa.bool_()),  # true: it carries the mark of an image that a model made; null: none seen
    ]
)


@dataclass(frozen=True)
class Facts:
    """What holds for the whole table."""

    classes: tuple[str, ...]  # in label order; none: a number is predicted; of masks, those of the foreground
    source: str
    kind: str = "image"  # of sample, a file of medloop/kinds
    variables: tuple[str, ...] = ()  # names of the values, where each has one: genes, findings
    record: dict[str, Any] = field(default_factory=dict)  # how a record with these names is read
    question: str | None = None  # the clinical one, that the data set stands for
    simulated: bool = False
    multi_label: bool = False
    masks: bool = False  # every sample has one, whose value i stands for classes[i - 1], 0 for none of them
    boxes: bool = False  # every sample has a list of them, and `box_labels` are of the classes
    ordered: bool = False  # the classes are grades, from the lowest to the highest
    official_split: bool = False
    split_in_time: bool = False  # recordings are cut: a patient may stand on two sides, a moment may not
    has_patients: bool = True
    leaks: str = "refuse"  # the regime that the samples were made under
    leak_pairs: int = 0  # test samples with a copy in train or validation that were left in ("report")
    key_fingerprint: str | None = None


def write(rows: Sequence[dict[str, Any]] | pd.DataFrame, facts: Facts, folder: Path) -> None:
    """Write `rows` as `folder/manifest.parquet`."""
    if isinstance(rows, pd.DataFrame):
        table = pa.Table.from_pandas(rows, schema=SCHEMA, preserve_index=False)
    else:
        table = pa.Table.from_pylist(list(rows), schema=SCHEMA)
    about = {"schema_version": str(SCHEMA_VERSION), "facts": json.dumps(facts.__dict__)}
    pq.write_table(table.replace_schema_metadata(about), folder / "manifest.parquet")


def read(folder: Path) -> tuple[pd.DataFrame, Facts]:
    """Return the table and the facts in `folder`.

    Raises:
        Refused: there is no manifest, or it has another schema version. Columns that came later are null.
    """
    path = folder / "manifest.parquet"
    if not path.exists():
        raise Refused(f"no manifest in {folder}: run `medloop ingest` first")
    table = pq.read_table(path)
    about = {key.decode(): value.decode() for key, value in (table.schema.metadata or {}).items()}
    if about.get("schema_version") != str(SCHEMA_VERSION):
        raise Refused(
            f"{path} has schema version {about.get('schema_version')}, this medloop reads {SCHEMA_VERSION}: "
            "run `medloop ingest` again"
        )
    for field_ in SCHEMA:
        if field_.name not in table.column_names and field_.nullable:
            table = table.append_column(field_, pa.nulls(len(table), field_.type))
    facts = json.loads(about["facts"])
    facts.update(classes=tuple(facts["classes"]), variables=tuple(facts.get("variables", ())))
    return table.to_pandas(), Facts(**facts)


def rows(table: pd.DataFrame) -> Iterator[Any]:
    """Yield the rows of a table as `itertuples` does, which holds what it makes of all of them."""
    for first in range(0, len(table), READ):
        yield from table.iloc[first : first + READ].itertuples()


def let_go(*mapped: np.ndarray) -> None:
    """Give back what memory the pages of mapped files take: they are read again where they are asked for."""
    for each in mapped:
        if isinstance(each, np.memmap):
            each._mmap.madvise(mmap.MADV_DONTNEED)  # type: ignore[attr-defined]  # numpy's, of every view too


class ShardWriter:
    """Appends arrays to `folder/shards`, and begins a new file when one is full."""

    def __init__(self, folder: Path, limit: int = SHARD_BYTES) -> None:
        self._folder, self._limit = folder, limit
        self._file: Any = None
        self._count = 0
        (folder / "shards").mkdir(parents=True, exist_ok=True)

    def add(
        self, values: np.ndarray, mask: np.ndarray | None = None, instances: np.ndarray | None = None
    ) -> dict[str, Any]:
        """Append one sample, and return the columns that say where it is."""
        if self._file is None or self._file.tell() >= self._limit:
            self.close()
            self._file = (self._folder / "shards" / f"{self._count:05}.bin").open("wb")
            self._count += 1
        place = {"shard": f"shards/{self._count - 1:05}.bin", "offset": self._file.tell()}
        self._file.write(np.ascontiguousarray(values).data)
        for name, layer, dtype in (("mask_offset", mask, np.uint8), ("instances_offset", instances, np.uint16)):
            place[name] = None if layer is None else self._file.tell()
            if layer is not None:
                self._file.write(np.ascontiguousarray(layer, dtype).data)
        return place

    def close(self) -> None:
        if self._file is not None:
            self._file.close()
            self._file = None


class Values:
    """Reads packed samples: `Values(folder)[row]` for a row of the manifest."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._shards: dict[str, np.memmap] = {}
        self._read = 0

    def __getitem__(self, row: Any) -> np.ndarray:
        """Return the values of a sample in the shape and type that its row says; a read-only view of the file."""
        if isinstance(row, pd.Series):  # which has a shape and a type of its own
            row = SimpleNamespace(**row)
        return self._view(row.shard, row.offset, np.dtype(row.dtype), row.shape)

    def mask(self, row: Any) -> np.ndarray | None:
        """Return (H, W) uint8, or None for a sample without a mask."""
        return self._layer(row, row.mask_offset, np.dtype(np.uint8))

    def instances(self, row: Any) -> np.ndarray | None:
        """Return (H, W) uint16, 0 where there is no object, else its number; None where nobody told objects apart."""
        return self._layer(row, row.instances_offset, np.dtype(np.uint16))

    def each(self, table: pd.DataFrame) -> Iterator[np.ndarray]:
        """Yield the values of each row of `table`, in order."""
        return (self[row] for row in rows(table))

    def _layer(self, row: Any, offset: float | None, dtype: np.dtype) -> np.ndarray | None:
        if offset is None or pd.isna(offset):
            return None
        return self._view(row.shard, int(offset), dtype, row.shape[:2])

    def _view(self, shard: str, offset: int, dtype: np.dtype, shape: Iterable[int]) -> np.ndarray:
        if shard not in self._shards:
            while len(self._shards) >= OPEN:
                self._shards.pop(next(iter(self._shards)))
            self._shards[shard] = np.memmap(self._folder / shard, np.uint8, "r")
        self._read += 1
        if self._read % READ == 0:
            let_go(*self._shards.values())
        shape = tuple(int(side) for side in shape)
        size = int(np.prod(shape)) * dtype.itemsize
        return self._shards[shard][offset : offset + size].view(dtype).reshape(shape)
