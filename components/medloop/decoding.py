"""What comes of a source's items: decoded on all cores, or taken over from earlier samples."""

import hashlib
import sys
from collections import deque
from collections.abc import Generator, Iterable, Iterator, Mapping
from contextlib import closing
from dataclasses import dataclass, field
from importlib import metadata
from types import ModuleType
from typing import Any

from medloop import kinds, params, plugins, privacy, provenance, reading, reuse, shards
from medloop.packing import Entry, Row
from medloop.sources import Item

DECODERS = (
    "h5py",
    "nibabel",
    "numpy",
    "opencv-python-headless",
    "pydicom",
    "pyjpegls",
    "pylibjpeg",
    "pylibjpeg-openjpeg",
    "python-gdcm",
    "wfdb",
)


class Listing:
    """Sums up what a source lists, so that two who list it see whether they saw the same."""

    def __init__(self, pseudonyms: privacy.Pseudonyms) -> None:
        self._pseudonyms, self._sum = pseudonyms, hashlib.sha256()
        self.count = 0

    def add(self, item: str, row: object) -> None:
        """Add the next item's pseudonym and what a label table says of it."""
        self.count += 1
        self._sum.update(f"{item} {row!r}\n".encode("utf-8", "surrogateescape"))

    def digest(self) -> str:
        """Return a keyed digest, from which nobody can guess a label table."""
        return self._pseudonyms.of("listing", self._sum.hexdigest())


@dataclass(frozen=True)
class Decoding:
    """How items are decoded; it reads only those of its shard."""

    section: params.Ingest
    pseudonyms: privacy.Pseudonyms
    digests: Mapping[str, str] = field(default_factory=dict)  # MD5 of each file of the shard
    shard: shards.Shard = field(default_factory=shards.Shard)
    kind: str = "image"
    earlier: reuse.Earlier = field(default_factory=reuse.Earlier)

    def entries(self, items: Iterable[Item], listing: Listing) -> Generator[Entry]:
        """Yield what comes of each item of the shard, in the order of `items`, which are added to `listing`."""
        started: deque[Entry] = deque()
        with closing(reading.read(self._wanted(items, listing, started), self.kind, self.section.workers)) as came:
            for each in came:
                yield each if isinstance(each, Entry) else self._decoded(started.popleft(), each)

    def _wanted(self, items: Iterable[Item], listing: Listing, started: deque[Entry]) -> Iterator[Item | Entry]:
        for position, item in enumerate(items):
            name = self.pseudonyms.of("item", item.key)
            listing.add(name, item.row)
            if not self.shard.owns(name):
                continue
            files = () if item.file is None else (item.file, *item.beside)
            version = reuse.version(self.pseudonyms, [self.digests.get(file) for file in files], item.row)
            taken = self.earlier.entry(name, position, version, item.key)
            if taken is None:
                started.append(Entry(name, position, version, item.key))
                yield item
            else:
                yield taken

    def _decoded(self, entry: Entry, read: reading.Read) -> Entry:
        rows = [self._row(each, entry) for each in read.samples]
        flaws = tuple(flaw for each in read.samples for flaw in each.sample.flaws)
        return Entry(entry.item, entry.position, entry.version, entry.key, rows, read.reason, flaws)

    def _row(self, digested: reading.Digested, entry: Entry) -> Row:
        sample = digested.sample
        key = sample.key if entry.version is None else entry.key
        group = sample.patient_id or sample.group or digested.content_sha256
        columns = _columns(digested, self.section.source, self.pseudonyms)
        alone = digested.synthetic and not sample.patient_id
        columns["split"] = sample.split or ("train" if alone else side(group, self.section.split))
        return Row(columns, sample.values, sample.mask, sample.instances, key, sample.split is not None)


def recipe(base: params.Base, section: params.Ingest, source: ModuleType, options: params.Section) -> str:
    """Return the digest of all but the data that decides what comes of an item: parameters, code, decoders."""
    decides = {
        "source": section.source,
        "options": options.model_dump(mode="json"),
        "split": section.split.model_dump(mode="json"),
        "seed": base.seed,
        "code": provenance.code_behind(source, sys.modules[__name__], plugins.load(kinds, base.kind)),
        "decoders": {name: _version(name) for name in DECODERS},
    }
    return provenance.json_digest(decides)


def side(patient: str, split: params.Split) -> str:
    """Return train, val or test for a patient: the same one whoever else is in the data."""
    digest = hashlib.sha256((split.salt + patient).encode("utf-8", "surrogateescape")).digest()
    share = int.from_bytes(digest[:8], "big") / 2**64
    if share < split.test:
        return "test"
    return "val" if share < split.test + split.val else "train"


def _version(name: str) -> str | None:
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return None


def _columns(digested: reading.Digested, source: str, pseudonyms: privacy.Pseudonyms) -> dict[str, Any]:
    sample = digested.sample
    return {
        "sample_id": pseudonyms.of("sample", sample.key),
        "patient_id": pseudonyms.of("patient", sample.patient_id) if sample.patient_id else None,
        "study_id": pseudonyms.of("study", sample.study_id) if sample.study_id else None,
        "source": source,
        "site": sample.site,
        "sex": sample.sex,
        "age_years": privacy.capped_age(sample.age_years),
        "modality": sample.modality,
        "label": sample.label,
        "target": sample.target,
        "content_sha256": digested.content_sha256,
        "shape": list(sample.values.shape),
        "dtype": sample.values.dtype.name,
        "perceptual_hash": digested.perceptual_hash,
        "bit_depth": sample.bit_depth,
        "spacing_mm": None if sample.spacing_mm is None else list(sample.spacing_mm),
        "rate_hz": sample.rate_hz,
        "unit": sample.unit,
        "start": sample.start,
        "boxes": None if sample.boxes is None else [list(box) for box in sample.boxes],
        "synthetic": digested.synthetic or None,
        "box_labels": None if sample.box_labels is None else list(sample.box_labels),
    }
