"""What `ingest` keeps of one shard, and how it puts the shards together in the order of the source.

A part may be read by many: its items, samples, patients and files are pseudonyms. What they are called is known to who
holds the key and sees the data, whose names the step that joins the parts lists again.
"""

import heapq
import json
from collections.abc import Generator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import pyarrow as pa
import pyarrow.parquet as pq

from medloop import params, privacy, provenance, shards
from medloop.decoding import Listing
from medloop.errors import Refused
from medloop.fetching import data
from medloop.packing import Entry, Packed, Stored

STAGE = "ingest-part"
SAMPLES, FILES, LISTING = "samples.parquet", "files.parquet", "listing.json"
FILE_COLUMNS = pa.schema([("file", pa.string()), ("md5", pa.string())])
UNNAMED = "no file of its own"  # in the private list, of an item that its source makes or takes out of a larger file


class Items(NamedTuple):
    """What came of the items, of all shards or of one."""

    entries: Generator[Entry]
    total: int | None  # for the progress bar
    digests: dict[str, str]  # MD5 of the files of the data, by path
    facts: dict[str, Any]  # what the source says of all samples


def write(packed: Packed, listing: Listing, files: Mapping[str, str], facts: Mapping[str, Any], folder: Path) -> None:
    """Write what is known of a shard beside its pixels; `files` are MD5s by pseudonyms, `facts` the source's own."""
    pq.write_table(packed.samples.table(), folder / SAMPLES)
    packed.write_items(folder)
    hashed = [{"file": file, "md5": files[file]} for file in sorted(files)]
    pq.write_table(pa.Table.from_pylist(hashed, FILE_COLUMNS), folder / FILES)
    provenance.write_json(folder / LISTING, {"digest": listing.digest(), "items": listing.count, "facts": facts})


def joined(
    parts: Sequence[Path], section: params.Ingest, pseudonyms: privacy.Pseudonyms, wanted: Mapping[str, Any]
) -> Items:
    """Return the items of all shards in the order of the source.

    Args:
        parts: what each shard wrote.
        section: says where the data is; it is listed, not read.
        pseudonyms: under the key of the parts.
        wanted: what the lineage of each part must say.

    Raises:
        Refused: a part is missing or was made with something else, or the data changed while it was read.
    """
    folders = shards.check(parts, wanted)
    listings = [json.loads((folder / LISTING).read_text()) for folder in folders]
    paths, known_hash = data.listed(section)
    names = {pseudonyms.of("item", path): path for path in paths}
    digests = {row["file"]: row["md5"] for folder in folders for row in pq.read_table(folder / FILES).to_pylist()}
    if any(each != listings[0] for each in listings) or digests.keys() != names.keys():
        raise Refused("the data changed while the shards were read, and they do not fit together: run it again")
    by_path = {names[file]: md5 for file, md5 in digests.items()}
    if known_hash not in (None, came := data.combined(by_path)):
        raise Refused(f"the data is not what its DVC project says: wanted {known_hash}, got {came}")
    entries = heapq.merge(*(_entries(folder, names) for folder in folders), key=lambda entry: entry.position)
    return Items(entries, listings[0]["items"], by_path, listings[0]["facts"])


def _entries(folder: Path, names: Mapping[str, str]) -> Generator[Entry]:
    stored = Stored(folder, SAMPLES)
    for each in stored.each():
        key = names.get(each["item"], UNNAMED)
        rows, flaws = stored.rows(each, key), tuple(each["flaws"])
        yield Entry(each["item"], each["position"], each["version"], key, rows, each["reason"], flaws)
