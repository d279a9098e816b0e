"""Read a source, split it by patient, look for leaks, pack it."""

import hashlib
from collections import Counter
from pathlib import Path
from types import ModuleType
from typing import Any

import pandas as pd

from medloop import leaks, manifest, packing, params, plugins, privacy, provenance, sources
from medloop.errors import Refused
from medloop.fetching.data import fetched

REPORT = "ingest.json"


def ingest(base: params.Base, section: params.Ingest, *, samples: Path) -> dict[str, Any]:
    """Write the samples of `section.source` to `samples`, and return what `ingest.json` says of them.

    Raises:
        Refused: the source, its options or its data are not fit to go on; the message says which, and what to do.
        Unreachable: the server that has the data does not answer.
    """
    privacy.folder()
    source, options = _source(section)
    pseudonyms = privacy.Pseudonyms.load()
    _check_key(samples, pseudonyms)
    with (
        fetched(section) as (root, data_hash),
        provenance.writing(
            "ingest", base, section, samples, key_fingerprint=pseudonyms.fingerprint, data_hash=data_hash
        ) as (folder,),
    ):
        items = source.items(root, options, seed=base.seed)
        total = source.total(root, options) if hasattr(source, "total") else None
        packed = packing.pack(items, section, pseudonyms, folder, total)
        packing.check(packed, section)
        table, official = _split(packed, section.split)
        pairs = leaks.find(table, manifest.Pixels(folder), section.leak_thresholds)
        dropped = _leave_out(pairs, packed, table, section)
        table = table[~table["sample_id"].isin(dropped)].reset_index(drop=True)
        facts = manifest.Facts(
            classes=_classes(source, options, table),
            source=section.source,
            simulated=getattr(source, "SIMULATED", False),
            multi_label=_multi_label(source, options),
            official_split=official,
            has_patients=bool(table["patient_id"].notna().all()),
            leaks=section.leaks,
            leak_pairs=_left_in(pairs, section),
            key_fingerprint=pseudonyms.fingerprint,
        )
        _check_table(table, facts)
        manifest.write(table, facts, folder)
        report = {
            "counts": _counts(table, facts),
            "rejected": [{"pseudonym": pseudonym, "reason": reason} for pseudonym, reason, _ in packed.rejected],
            "leaks": pairs.round({"correlation": 6}).to_dict("records"),
            "dropped": sorted(dropped),
            "notes": [*_notes(source, options), *_remarks(packed, table, facts, dropped)],
        }
        provenance.write_json(folder / REPORT, report)
    return report


def side(patient: str, split: params.Split) -> str:
    """Return train, val or test for a patient: the same one whoever else is in the data."""
    digest = hashlib.sha256((split.salt + patient).encode("utf-8", "surrogateescape")).digest()
    share = int.from_bytes(digest[:8], "big") / 2**64
    if share < split.test:
        return "test"
    return "val" if share < split.test + split.val else "train"


def _source(section: params.Ingest) -> tuple[ModuleType, params.Section]:
    """Return the source's module and its checked options."""
    for name in section.options:
        if name not in (known := plugins.names(sources)):
            raise Refused(f"ingest.options.{name}: unknown source {name!r}; known: {', '.join(known)}")
    source = plugins.load(sources, section.source)
    where = f"ingest.options.{section.source}"
    return source, params.checked(source.Options, section.options.get(section.source, {}), where=where)


def _check_key(samples: Path, pseudonyms: privacy.Pseudonyms) -> None:
    """Refuse to replace samples made under another key: no patient could be recognised across the two."""
    there = (samples / provenance.LINEAGE).exists()
    made_under = provenance.read_lineage(samples).get("key_fingerprint") if there else None
    if made_under not in (None, pseudonyms.fingerprint):
        raise Refused(
            f"{samples} was made under the pseudonym key {made_under}, the key in {privacy.key_file()} is "
            f"{pseudonyms.fingerprint}: put the right key there (MEDLOOP_KEY_FILE names the file), or remove {samples} "
            "to begin anew"
        )


def _split(packed: packing.Packed, split: params.Split) -> tuple[pd.DataFrame, bool]:
    """Return the table with every sample on a side, and whether the source itself says which."""
    table = packed.table
    given = int(table["split"].notna().sum())
    if given not in (0, len(table)):
        raise Refused(f"the source must give a split for every sample or for none, got one for {given} of {len(table)}")
    if not given:
        table["split"] = [side(group, split) for group in packed.groups]
    return table, bool(given)


def _leave_out(pairs: pd.DataFrame, packed: packing.Packed, table: pd.DataFrame, section: params.Ingest) -> set[str]:
    """Return the samples that `ingest.leaks` leaves out; raise Refused where it says so."""
    if pairs.empty or section.leaks == "report":
        return set()
    if section.leaks == "drop":
        return leaks.to_drop(pairs)
    leaking = {*pairs["sample_a"], *pairs["sample_b"]}
    names = zip(table["sample_id"], packed.keys, strict=True)
    listed = [(sample, "stands on two sides", key) for sample, key in names if sample in leaking]
    where = privacy.list_privately([*packed.rejected, *listed])
    raise Refused(f"{leaks.refusal(pairs)}\n{where} says which files these are")


def _left_in(pairs: pd.DataFrame, section: params.Ingest) -> int:
    """Return how many test samples keep a copy on another side."""
    return pairs.loc[pairs["split_a"] == "test", "sample_a"].nunique() if section.leaks == "report" else 0


def _multi_label(source: ModuleType, options: params.Section) -> bool:
    return source.multi_label(options) if hasattr(source, "multi_label") else False


def _classes(source: ModuleType, options: params.Section, table: pd.DataFrame) -> tuple[str, ...]:
    if hasattr(source, "classes"):
        return tuple(source.classes(options))
    return tuple(sorted(set(_labels(table["label"], _multi_label(source, options)))))


def _labels(column: pd.Series, multi_label: bool) -> list[str]:
    """Return every label in `column`: of several, each one; of none, none."""
    if not multi_label:
        return list(column)
    return [label for joined in column for label in joined.split("|") if label]


def _check_table(table: pd.DataFrame, facts: manifest.Facts) -> None:
    found = set(_labels(table["label"], facts.multi_label))
    if unknown := sorted(found - set(facts.classes)):
        raise Refused(f"labels must be of {', '.join(facts.classes)}, got {', '.join(unknown)}")
    if len(found) < 2:
        raise Refused(f"there must be at least two classes, got only {', '.join(found) or 'none'}: check the labels")
    patients = (
        table.assign(patient=table["patient_id"].fillna(table["sample_id"])).groupby("split")["patient"].nunique()
    )
    if empty := [split for split in manifest.SPLITS if split not in patients.index]:
        shares = ", ".join(f"{split} {patients.get(split, 0)}" for split in manifest.SPLITS)
        raise Refused(
            f"no sample stands in {' or '.join(empty)} (patients: {shares}): add patients, or change the shares or the "
            "salt in ingest.split"
        )


def _counts(table: pd.DataFrame, facts: manifest.Facts) -> dict[str, dict[str, int]]:
    """Return how many samples each class has in each split."""
    found = {split: Counter(_labels(rows["label"], facts.multi_label)) for split, rows in table.groupby("split")}
    return {split: {name: found[split][name] for name in facts.classes} for split in manifest.SPLITS}


def _notes(source: ModuleType, options: params.Section) -> list[str]:
    return source.notes(options) if hasattr(source, "notes") else []


def _remarks(packed: packing.Packed, table: pd.DataFrame, facts: manifest.Facts, dropped: set[str]) -> list[str]:
    """Return what a reader of the report must know of how these samples came about."""
    remarks = []
    if not facts.has_patients:
        unknown = int(table["patient_id"].isna().sum())
        remarks.append(
            f"The source names no patient for {unknown} of {len(table)} samples: images of one patient may stand on "
            "two sides, and the intervals take each image for a patient."
        )
    if packed.rejected:
        remarks.append(f"{len(packed.rejected)} of {packed.items} items could not be read and are left out.")
    if dropped:
        remarks.append(f"{len(dropped)} train or validation samples are left out: their copy stands on another side.")
    if facts.leak_pairs:
        remarks.append(f"{facts.leak_pairs} test samples have a copy in train or validation: the results flatter.")
    return remarks
