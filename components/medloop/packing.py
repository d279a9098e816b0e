"""Packs what a source gives: pixels into shards, the rest into columns of the manifest, identifiers as pseudonyms."""

from collections import Counter
from collections.abc import Iterable
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pandas as pd
from tqdm import tqdm

from medloop import manifest, params, privacy, reading
from medloop.errors import Refused
from medloop.sources import Item


@dataclass
class Packed:
    """What has been read so far."""

    columns: dict[str, list[Any]] = field(default_factory=lambda: {name: [] for name in manifest.SCHEMA.names})
    keys: list[str] = field(default_factory=list)  # the source's own, one a sample, raw
    groups: list[str] = field(default_factory=list)  # what must stay on one side, one a sample, raw
    rejected: list[tuple[str, str, str]] = field(default_factory=list)  # pseudonym, reason, raw key
    items: int = 0

    @property
    def table(self) -> pd.DataFrame:
        return pd.DataFrame(self.columns)


def pack(
    items: Iterable[Item], section: params.Ingest, pseudonyms: privacy.Pseudonyms, folder: Path, total: int | None
) -> Packed:
    """Read `items` on all cores into `folder/shards`, and return their columns; `split` is the source's own or None.

    Raises:
        Refused: two samples have one key.
    """
    packed, seen = Packed(), set[str]()
    with closing(reading.read(items, section.workers)) as read, closing(manifest.ShardWriter(folder)) as writer:
        for item in tqdm(read, "ingest", total, unit=" items", disable=None):
            packed.items += 1
            if item.reason is not None:
                packed.rejected.append((pseudonyms.of("item", item.key), item.reason, item.key))
            for digested in item.samples:
                row = _row(digested, section.source, pseudonyms)
                if row["sample_id"] in seen:
                    _refuse_twin(row["sample_id"], digested.sample.key)
                seen.add(row["sample_id"])
                row |= writer.add(digested.sample.pixels, digested.sample.mask)
                for name, values in packed.columns.items():
                    values.append(row[name])
                packed.keys.append(digested.sample.key)
                packed.groups.append(digested.sample.patient_id or digested.content_sha256)
    return packed


def check(packed: Packed, section: params.Ingest) -> None:
    """Write the private list of rejects.

    Raises:
        Refused: nothing was found, or more than `ingest.max_rejected` could not be read.
    """
    where = privacy.list_privately(packed.rejected)
    if not packed.items:
        raise Refused(f"the source {section.source} found nothing in {section.root}")
    share = len(packed.rejected) / packed.items
    if share > section.max_rejected or not packed.keys:
        reasons = Counter(reason for _, reason, _ in packed.rejected).most_common()
        counted = "\n".join(f"  {count} x {reason}" for reason, count in reasons)
        raise Refused(
            f"{len(packed.rejected)} of {packed.items} items could not be read ({share:.1%}), ingest.max_rejected "
            f"allows {section.max_rejected:.1%}:\n{counted}\n{where} says which files "
            f"{privacy.some(pseudonym for pseudonym, _, _ in packed.rejected)} are: mend or remove them, or allow more"
        )


def _row(digested: reading.Digested, source: str, pseudonyms: privacy.Pseudonyms) -> dict[str, Any]:
    sample = digested.sample
    height, width, *channels = sample.pixels.shape
    row_spacing, column_spacing = sample.pixel_spacing_mm or (None, None)
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
        "split": sample.split,
        "content_sha256": digested.content_sha256,
        "perceptual_hash": digested.perceptual_hash,
        "height_px": height,
        "width_px": width,
        "channels": channels[0] if channels else 1,
        "bit_depth": sample.bit_depth,
        "row_spacing_mm": row_spacing,
        "column_spacing_mm": column_spacing,
        "boxes": None if sample.boxes is None else [list(box) for box in sample.boxes],
    }


def _refuse_twin(sample_id: str, key: str) -> None:
    where = privacy.list_privately([(sample_id, "two samples have this key", key)])
    raise Refused(
        f"sample {sample_id} came twice: two files carry the same identifier; {where} says which one, remove a copy"
    )
