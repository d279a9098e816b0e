"""Packs what came of a source's items: values into shards, the rest into columns, rejected ones into a list."""

import re
from collections import Counter, defaultdict
from collections.abc import Generator, Iterable, Iterator, Mapping
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
from tqdm import tqdm

from medloop import manifest, params, privacy
from medloop.errors import Refused, some

ITEMS = "items.parquet"
BATCH = 1000  # items looked at together, so that memory stays flat
ITEM_COLUMNS = pa.schema(
    [
        pa.field("item", pa.string(), nullable=False),  # pseudonym
        pa.field("position", pa.int64(), nullable=False),  # in the source's list
        pa.field("version", pa.string()),  # keyed digest of its file and label; null: it has no file of its own
        pa.field("reason", pa.string()),  # why it was rejected
        pa.field("flaws", pa.list_(pa.string()), nullable=False),  # of one that was taken nevertheless
        pa.field("samples", pa.list_(pa.string()), nullable=False),  # sample_id of each
        pa.field("official", pa.int32(), nullable=False),  # how many of them the source itself gave a side
    ]
)


@dataclass(frozen=True)
class Row:
    """One sample: columns of the manifest, and what is packed."""

    columns: dict[str, Any]
    values: np.ndarray
    mask: np.ndarray | None
    instances: np.ndarray | None
    key: str  # raw, for the private list
    official: bool  # the source itself gave its side


@dataclass(frozen=True)
class Entry:
    """What came of one item: rows, or the reason why there are none."""

    item: str  # pseudonym
    position: int
    version: str | None
    key: str  # raw, for the private list
    rows: Iterable[Row] = ()
    reason: str | None = None
    flaws: tuple[str, ...] = ()  # of an item that was taken nevertheless
    taken: bool = False  # over from earlier samples


class Growing:
    """A table that rows are added to: Arrow's columns, a tenth of what the rows take as Python objects."""

    def __init__(self, schema: pa.Schema) -> None:
        self._schema, self._parts = schema, [schema.empty_table()]
        self._waiting: list[Mapping[str, Any]] = []

    def add(self, row: Mapping[str, Any]) -> None:
        """Add one row."""
        self._waiting.append(row)
        if len(self._waiting) == BATCH:
            self._take()

    def table(self) -> pa.Table:
        """Return all rows."""
        self._take()
        return pa.concat_tables(self._parts)

    def frame(self) -> pd.DataFrame:
        """Return all rows, which are let go of here."""
        table, self._parts = self.table(), []
        return table.to_pandas(integer_object_nulls=True, split_blocks=True, self_destruct=True)

    def _take(self) -> None:
        self._parts.append(pa.Table.from_pylist(self._waiting, self._schema))
        self._waiting = []


@dataclass
class Packed:
    """What has been packed so far."""

    samples: Growing = field(default_factory=lambda: Growing(manifest.SCHEMA))
    items: Growing = field(default_factory=lambda: Growing(ITEM_COLUMNS))
    keys: list[str] = field(default_factory=list)  # one a sample, raw
    rejected: list[tuple[str, str, str]] = field(default_factory=list)  # pseudonym, reason, raw key
    flawed: list[tuple[str, str, str]] = field(default_factory=list)  # likewise, of items that were taken
    count: int = 0  # items
    taken: int = 0  # those whose samples were taken over
    official: int = 0  # samples that have their side from the source

    def write_items(self, folder: Path) -> None:
        """Write what is known of each item to `folder`."""
        pq.write_table(self.items.table(), folder / ITEMS)


def pack(entries: Generator[Entry], folder: Path, total: int | None) -> Packed:
    """Pack the rows of `entries`, in their order, into `folder/shards`.

    Raises:
        Refused: two samples have one key.
    """
    packed, seen = Packed(), dict[str, str]()
    with closing(entries), closing(manifest.ShardWriter(folder)) as writer:
        for entry in tqdm(entries, "ingest", total, unit=" items", disable=None):
            samples, official = [], 0
            for row in entry.rows:
                sample = row.columns["sample_id"]
                if sample in seen:
                    _refuse_twin(sample, seen[sample], row.key)
                seen[sample] = row.key
                packed.samples.add(row.columns | writer.add(row.values, row.mask, row.instances))
                packed.keys.append(row.key)
                samples.append(sample)
                official += row.official
            known = {"item": entry.item, "position": entry.position, "version": entry.version, "reason": entry.reason}
            made = {"flaws": list(entry.flaws), "samples": samples, "official": official}
            packed.items.add(known | made)
            packed.count += 1
            packed.taken += entry.taken
            packed.official += official
            if entry.reason is not None:
                packed.rejected.append((entry.item, entry.reason, entry.key))
            packed.flawed += [(entry.item, flaw, entry.key) for flaw in entry.flaws]
    return packed


class Stored:
    """Reads back what was packed in a folder, item by item."""

    def __init__(self, folder: Path, table: str) -> None:
        self.items = pq.read_table(folder / ITEMS)
        self._rows = pq.read_table(folder / table)
        self._places = {sample: place for place, sample in enumerate(self._rows["sample_id"].to_pylist())}
        self._values = manifest.Values(folder)

    def each(self) -> Iterator[dict[str, Any]]:
        """Yield what is known of each item, in order."""
        return (item for batch in self.items.to_batches(BATCH) for item in batch.to_pylist())

    def item(self, place: int) -> dict[str, Any]:
        """Return what is known of one item."""
        return dict(self.items.slice(place, 1).to_pylist()[0])

    def holds(self, item: dict[str, Any]) -> bool:
        """Tell whether every sample of an item is there: those that leaked were left out."""
        return all(sample in self._places for sample in item["samples"])

    def rows(self, item: dict[str, Any], key: str) -> Iterator[Row]:
        """Yield the rows of an item that is called `key` in the private list."""
        for number, sample in enumerate(item["samples"]):
            columns = self._rows.slice(self._places[sample], 1).to_pylist()[0]
            place = SimpleNamespace(**columns)
            layers = self._values.mask(place), self._values.instances(place)
            yield Row(columns, self._values[place], *layers, key, number < item["official"])


def check(packed: Packed, section: params.Ingest) -> None:
    """Write the private list of rejects, and of what was taken with a flaw.

    Raises:
        Refused: nothing was found, or more than `ingest.max_rejected` could not be read.
    """
    where = privacy.list_privately([*packed.rejected, *packed.flawed])
    if not packed.count:
        raise Refused(f"the source {section.source} found nothing in {section.root}")
    share = len(packed.rejected) / packed.count
    if share > section.max_rejected or not packed.keys:
        alike = defaultdict[str, Counter[str]](Counter)  # but for their numbers
        for _, reason, _ in packed.rejected:
            alike[re.sub(r"\d+", "#", reason)][reason] += 1
        reasons = sorted(alike.values(), key=lambda each: -each.total())
        counted = "\n".join(
            f"  {each.total()} x {next(iter(each))}{' (the first of them)' * (len(each) > 1)}" for each in reasons
        )
        raise Refused(
            f"{len(packed.rejected)} of {packed.count} items could not be read ({share:.1%}), ingest.max_rejected "
            f"allows {section.max_rejected:.1%}:\n{counted}\n{where} says which files "
            f"{some(pseudonym for pseudonym, _, _ in packed.rejected)} are: mend or remove them, or allow more"
        )


def _refuse_twin(sample_id: str, *keys: str) -> None:
    where = privacy.list_privately([(sample_id, "two samples have this key", key) for key in keys])
    raise Refused(
        f"sample {sample_id} came twice: two files carry the same identifier; {where} says which, remove a copy"
    )
