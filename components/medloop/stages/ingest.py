"""Read a source, split it by patient, look for leaks, pack it: at once, or shard by shard."""

import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

import pandas as pd

from medloop import (
    classes,
    decoding,
    joining,
    kinds,
    leaks,
    manifest,
    marks,
    packing,
    params,
    plugins,
    privacy,
    provenance,
    reuse,
    sources,
)
from medloop.decoding import Listing
from medloop.errors import Refused
from medloop.fetching import data
from medloop.shards import Shard

REPORT = "ingest.json"
FLAWS_SHOWN = 5  # in the report; all of them stand in REPORT
COUNT = re.compile(r"^\d+ ")  # of a flaw


@dataclass(frozen=True)
class Job:
    """What decides the samples, but for the data."""

    base: params.Base
    section: params.Ingest
    source: ModuleType
    options: params.Section
    pseudonyms: privacy.Pseudonyms
    recipe: str


def ingest(
    base: params.Base,
    section: params.Ingest,
    *,
    samples: Path,
    parts: Sequence[Path] = (),
    previous: Path | None = None,
) -> dict[str, Any]:
    """Write the samples of `section.source` to `samples`, and return what `ingest.json` says of them.

    The bytes are the same whatever the number of `parts`, and whatever is taken over. What is returned counts the
    `items` too, and those `taken_over`.

    Args:
        base: the parameters that all stages share.
        section: those of this one.
        samples: where to.
        parts: what `ingest_part` wrote for each shard; none: all is read here.
        previous: earlier samples, to take over what would come out the same; damaged ones are left alone.

    Raises:
        Refused: the source, its options or its data are not fit to go on; the message says which, and what to do.
        Unreachable: the server that has the data does not answer.
    """
    job = _job(base, section)
    _check_key(samples, job.pseudonyms)
    with (
        _joined(job, parts) if parts else _read(job, Listing(job.pseudonyms), Shard(), previous) as items,
        provenance.writing(
            "ingest",
            base,
            section,
            samples,
            data_hash=data.combined(items.digests),
            **_made_with(job),
        ) as (folder,),
    ):
        packed = packing.pack(items.entries, folder, items.total)
        packing.check(packed, section)
        report = _finish(packed, job, items.facts, folder)
    return report | {"items": packed.count, "taken_over": packed.taken}


def ingest_part(
    base: params.Base, section: params.Ingest, *, part: Path, shard: int, shards: int, previous: Path | None = None
) -> dict[str, int]:
    """Write what comes of the items of one of `shards` shards to `part`, and return how many there were.

    It names neither a patient nor a file, and is judged by `ingest`, which takes the parts of all shards.

    Raises:
        Refused, Unreachable: as `ingest`.
    """
    job, own = _job(base, section), Shard(shard, shards)
    listing, made = Listing(job.pseudonyms), _made_with(job)
    with (
        _read(job, listing, own, previous) as items,
        provenance.writing(joining.STAGE, base, section, part, shard=[shard, shards], **made) as (folder,),
    ):
        packed = packing.pack(items.entries, folder, items.total)
        is_own = _is_own(job, own)
        mine = {job.pseudonyms.of("item", path): md5 for path, md5 in items.digests.items() if is_own(path)}
        joining.write(packed, listing, mine, items.facts, folder)
    return {"items": packed.count, "taken_over": packed.taken}


def said(report: Mapping[str, Any]) -> str:
    """Return what people are told of the items."""
    taken = report["taken_over"]
    return f"{report['items']} items: {report['items'] - taken} read, {taken} taken over from earlier samples"


def _job(base: params.Base, section: params.Ingest) -> Job:
    privacy.folder()
    source, options = _source(section)
    _check_kind(base, section, source)
    return Job(
        base, section, source, options, privacy.Pseudonyms.load(), decoding.recipe(base, section, source, options)
    )


def _made_with(job: Job) -> dict[str, Any]:
    return {"key_fingerprint": job.pseudonyms.fingerprint, "recipe": job.recipe}


@contextmanager
def _read(job: Job, listing: Listing, shard: Shard, previous: Path | None) -> Iterator[joining.Items]:
    """Yield the items of a shard, with the data in reach."""
    with data.fetched(job.section, _wanted(job, shard)) as (root, digests):
        earlier = reuse.Earlier(previous, job.recipe)
        decode = decoding.Decoding(job.section, job.pseudonyms, digests, shard, job.base.kind, earlier)
        items = job.source.items(root, job.options, seed=job.base.seed)
        total = job.source.total(root, job.options) if shard.count == 1 and hasattr(job.source, "total") else None
        facts = job.source.facts(root, job.options) if hasattr(job.source, "facts") else {}
        yield joining.Items(decode.entries(items, listing), total, digests, facts)


@contextmanager
def _joined(job: Job, parts: Sequence[Path]) -> Iterator[joining.Items]:
    """Yield the items of all shards."""
    made = {"stage": joining.STAGE, "parameters": provenance.stated(job.base, job.section), **_made_with(job)}
    yield joining.joined(parts, job.section, job.pseudonyms, made)


def _wanted(job: Job, shard: Shard) -> data.Wanted:
    """Return which files a shard needs: its own, and those that the source reads to list."""
    if shard.count == 1:
        return data.everything

    own = _is_own(job, shard)
    if not data.is_remote(job.section):  # all are there: this is about which are hashed
        return own
    needed = job.source.lists_from(job.options) if hasattr(job.source, "lists_from") else None
    return data.everything if needed is None else lambda path: path in needed or own(path)


def _is_own(job: Job, shard: Shard) -> data.Wanted:
    """Return what tells whether a file is for a shard: with the item that it is read for."""

    def own(path: str) -> bool:
        key = job.source.belongs(path, job.options) if hasattr(job.source, "belongs") else path
        return shard.owns(job.pseudonyms.of("item", key))

    return own


def _source(section: params.Ingest) -> tuple[ModuleType, params.Section]:
    """Return the source's module and its checked options."""
    for name in section.options:
        if name not in (known := plugins.names(sources)):
            raise Refused(f"ingest.options.{name}: unknown source {name!r}; known: {', '.join(known)}")
    source = plugins.load(sources, section.source)
    where = f"ingest.options.{section.source}"
    return source, params.checked(source.Options, section.options.get(section.source, {}), where=where)


def _check_kind(base: params.Base, section: params.Ingest, source: ModuleType) -> None:
    plugins.check(kinds, base.kind)
    if (came := getattr(source, "KIND", "image")) != base.kind:
        raise Refused(f"the source {section.source} holds samples of kind {came}: set base.kind: {came}")


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


def _finish(packed: packing.Packed, job: Job, said: Mapping[str, Any], folder: Path) -> dict[str, Any]:
    """Judge what was packed, write its manifest and report to `folder`, and return the report."""
    section = job.section
    table, official = packed.samples.frame(), _official(packed)
    privacy.list_samples(zip(table["sample_id"], packed.keys, strict=True))
    _refuse_synthetic(packed, table)
    pairs = leaks.find(table, manifest.Values(folder), section.leak_thresholds, job.base.kind)
    dropped = _leave_out(pairs, packed, table, job)
    if dropped:
        table = table[~table["sample_id"].isin(dropped)].reset_index(drop=True)
    facts = manifest.Facts(
        classes=classes.found(job.source, job.options, section, table, said),
        source=section.source,
        kind=job.base.kind,
        simulated=getattr(job.source, "SIMULATED", False),
        multi_label=classes.multi_label(job.source, job.options),
        ordered=section.order is not None or _ordered(job.source, job.options),
        official_split=official,
        split_in_time=_split_in_time(job.source, job.options),
        has_patients=bool(table["patient_id"].notna().all()),
        question=section.question,
        leaks=section.leaks,
        leak_pairs=_left_in(pairs, section),
        key_fingerprint=job.pseudonyms.fingerprint,
        **{name: value for name, value in said.items() if name != "classes"},
    )
    classes.check(table, facts)
    manifest.write(table, facts, folder)
    packed.write_items(folder)
    report = {
        "counts": classes.counts(table, facts),
        "rejected": [{"pseudonym": pseudonym, "reason": reason} for pseudonym, reason, _ in packed.rejected],
        "flawed": [{"pseudonym": pseudonym, "reason": reason} for pseudonym, reason, _ in packed.flawed],
        "leaks": pairs.round({"correlation": 6}).to_dict("records"),
        "dropped": sorted(dropped),
        "notes": [*_notes(job.source, job.options), *_remarks(packed, table, facts, dropped, folder)],
    }
    provenance.write_json(folder / REPORT, report)
    return report


def _official(packed: packing.Packed) -> bool:
    """Tell whether the source itself says on which side each sample stands."""
    if packed.official not in (0, len(packed.keys)):
        raise Refused(
            "the source must give a split for every sample or for none, got one for "
            f"{packed.official} of {len(packed.keys)}"
        )
    return packed.official > 0


def _refuse_synthetic(packed: packing.Packed, table: pd.DataFrame) -> None:
    """Raise Refused for an image that a model made outside of train, or whose patient has samples there.

    Where neither source nor patient decides its side, such an image is put into train.
    """
    aside = marks.aside(table)
    if not aside.any():
        return
    reason = "a synthetic image that would not stand in train alone"
    keys = zip(table["sample_id"], packed.keys, aside, strict=True)
    where = privacy.list_privately(
        [*packed.rejected, *packed.flawed, *((s, reason, key) for s, key, bad in keys if bad)]
    )
    raise Refused(
        f"synthetic images may stand in train alone, and belong to no patient of validation or test data: "
        f"{int(aside.sum())} of {len(table)} samples carry the mark of one and would stand elsewhere or belong to one; "
        f"{where} says which: give them split train and no patient, or take them out"
    )


def _leave_out(pairs: pd.DataFrame, packed: packing.Packed, table: pd.DataFrame, job: Job) -> set[str]:
    """Return the samples that `ingest.leaks` leaves out; raise Refused where it says so."""
    if pairs.empty or job.section.leaks == "report":
        return set()
    if job.section.leaks == "drop":
        return leaks.to_drop(pairs)
    leaking = {*pairs["sample_a"], *pairs["sample_b"]}
    names = zip(table["sample_id"], packed.keys, strict=True)
    listed = [(sample, "stands on two sides", key) for sample, key in names if sample in leaking]
    where = privacy.list_privately([*packed.rejected, *packed.flawed, *listed])
    raise Refused(f"{leaks.refusal(pairs, _noun(job))}\n{where} says which files these are")


def _left_in(pairs: pd.DataFrame, section: params.Ingest) -> int:
    """Return how many test samples keep a copy on another side."""
    return pairs.loc[pairs["split_a"] == "test", "sample_a"].nunique() if section.leaks == "report" else 0


def _noun(job: Job) -> str:
    return str(plugins.load(kinds, job.base.kind).NOUN)


def _split_in_time(source: ModuleType, options: params.Section) -> bool:
    return bool(source.split_in_time(options)) if hasattr(source, "split_in_time") else False


def _ordered(source: ModuleType, options: params.Section) -> bool:
    return bool(source.ordered(options)) if hasattr(source, "ordered") else False


def _notes(source: ModuleType, options: params.Section) -> list[str]:
    return source.notes(options) if hasattr(source, "notes") else []


def _remarks(
    packed: packing.Packed, table: pd.DataFrame, facts: manifest.Facts, dropped: set[str], folder: Path
) -> list[str]:
    """Return what a reader of the report must know of how these samples came about."""
    remarks, plugin = [], plugins.load(kinds, facts.kind)
    if not facts.has_patients:
        unknown = int(table["patient_id"].isna().sum())
        remarks.append(
            f"The source names no patient for {unknown} of {len(table)} samples: {plugin.NOUNS} of one patient may "
            f"stand on two sides, and the intervals take each {plugin.NOUN} for a patient."
        )
    if packed.rejected:
        remarks.append(f"{len(packed.rejected)} of {packed.count} items could not be read and are left out.")
    if packed.flawed:
        kinds_of = Counter(COUNT.sub("", flaw) for _, flaw, _ in packed.flawed)
        listed = "; ".join(f"{flaw} ({number})" for flaw, number in kinds_of.most_common(FLAWS_SHOWN))
        items = len({item for item, *_ in packed.flawed})
        remarks.append(f"{items} items have flaws and were taken all the same: {listed}.")
    if facts.masks and (empty := _empty(table, folder)):
        remarks.append(f"{empty} of {len(table)} {plugin.NOUNS} show no object: their masks are empty, and count.")
    elif facts.boxes and (empty := int((table["boxes"].map(len) == 0).sum())):
        remarks.append(f"{empty} of {len(table)} {plugin.NOUNS} show no object: they have no box, and count.")
    if made := int(table["synthetic"].eq(True).sum()):
        remarks.append(f"{made} of {len(table)} {plugin.NOUNS} are synthetic; all of them stand in train.")
    if dropped:
        remarks.append(f"{len(dropped)} train or validation samples are left out: their copy stands on another side.")
    if facts.leak_pairs:
        remarks.append(f"{facts.leak_pairs} test samples have a copy in train or validation: the results flatter.")
    return remarks


def _empty(table: pd.DataFrame, folder: Path) -> int:
    """Return how many masks are empty."""
    values = manifest.Values(folder)
    masks = (values.mask(row) for row in table.itertuples())
    return sum(mask is not None and not mask.any() for mask in masks)
