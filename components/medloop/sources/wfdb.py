"""Records of PhysioNet in the WFDB format: whole signals, by a table of labels or none, or heartbeats by annotations.

Records are looked for below `root`, those of a database that the option `name` names in the subfolders of that name of
`root` and of $MEDLOOP_DATA too. Signals are in physical units. A single record is cut in time into train, val and test,
with a gap between them; several are split by patient: each record is one of its own, unless an option says whose it is.
Names of records may be those of patients, and stand in no message. Leads go by their names: records that have the same
in another order are put into that of the first.
"""

import os
import re
from collections.abc import Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path, PurePosixPath
from typing import Any, Literal, Self

import numpy as np
import wfdb
from pydantic import Field, model_validator

from medloop import labels, params, privacy
from medloop.errors import Refused, some
from medloop.labels import Row, Table
from medloop.sources import Item, Sample

KIND = "sequence"
AAMI = {  # classes of ANSI/AAMI EC57 by the symbols of the annotations
    **dict.fromkeys("NLRej", "normal"),
    **dict.fromkeys("AaJS", "supraventricular ectopic"),
    **dict.fromkeys("VE", "ventricular ectopic"),
    "F": "fusion",
    **dict.fromkeys("/fQ", "unknown"),
}
SAME = {"mitbih": {"202": "201"}}  # patient by record, where one has several: PhysioNet's MIT-BIH Arrhythmia Database
PERSON = re.compile(r"^\s*(\d{1,3})\s+([MF])\b")  # age and sex in a header's comment, as MIT-BIH writes them


class Options(params.Section):
    """`ingest.options.wfdb:`"""

    name: str | None = Field(None, description="subfolder of $MEDLOOP_DATA with the records, e.g. mitbih")
    records: tuple[str, ...] = Field(
        (),
        description="names of the records, without suffix; none: all of the folder. They stand in lineages and on the "
        "tracking server: name none that is called by a patient",
    )
    leads: tuple[str, ...] = Field(
        (),
        description="names of the signals, e.g. MLII, in the model's order; none: all, which must be the same in each "
        "record. Names that stand here stand in the model's card, and text that it is asked about is read by them",
    )
    use: Literal["signal", "beats"] = Field("signal", description="beats: a sample for each annotated heartbeat")
    before: int = Field(90, ge=0, description="moments of a beat before its annotation")
    after: int = Field(110, ge=1, description="moments of a beat from its annotation on")
    classes: dict[str, str] = Field(
        AAMI, description="of beats: class by the symbol of the annotation; others are left"
    )
    labels: Table | None = Field(
        None,
        description="CSV beside the records with the columns path (a record's name, below the folder, without suffix) "
        "and label, and where known patient_id, site, sex, age_years, split: each record is one sequence of that class",
    )
    several: bool = Field(False, description="the table's label is several, joined by |, or none; for task multilabel")
    patients: Table | None = Field(
        None,
        description="in place of labels: CSV beside the records with path and patient_id, site, sex, age_years, split; "
        "needed where one patient has several records, but for `name: mitbih`, of which it is known",
    )
    in_time: bool | None = Field(None, description="cut every record in time; null: where `records` names one")
    val: float = Field(0.15, gt=0, lt=1, description="share of a record that is cut in time")
    test: float = Field(0.25, gt=0, lt=1, description="share of a record that is cut in time, its end")
    gap: int = Field(360, ge=0, description="moments left out between train, val and test")

    @model_validator(mode="after")
    def _leave_some_for_training(self) -> Self:
        if self.val + self.test >= 1:
            raise ValueError(f"val + test must stay below 1, got {self.val} + {self.test}")
        return self

    @model_validator(mode="after")
    def _one_answer(self) -> Self:
        if self.labels and (self.patients or self.use == "beats" or split_in_time(self)):
            raise ValueError(
                "labels are of whole records: they do not go with patients (the same table may say them), with "
                "use: beats, nor with a record that is cut in time (in_time, or a single one of `records`)"
            )
        if self.several and not self.labels:
            raise ValueError("several labels stand in a table: name it under labels")
        return self


def items(root: Path, options: Options, *, seed: int) -> Iterator[Item]:  # noqa: ARG001
    """Yield one item a record.

    Raises:
        Refused: no such folder or record, no annotations where beats are asked for, or a record that is too short.
    """
    folder, names = _found(root, options)
    _check_files(folder, names, ".hea", "header", "see ingest.options.wfdb.records")
    if options.use == "beats":
        remedy = "leave them out (ingest.options.wfdb.records), or set ingest.options.wfdb.use: signal"
        _check_files(folder, names, ".atr", "annotations", f"get them, {remedy}")
    known, in_time = _known(folder, names, options), _cut(options, names)
    leads = options.leads or _leads(folder, names)
    for name in names:
        yield Item(name, partial(_samples, folder, name, known[name], leads, options, in_time), row=known[name])


def facts(root: Path, options: Options) -> dict[str, Any]:  # noqa: ARG001
    """Return the leads, where parameters name them: what headers call them may be anything."""
    return {"variables": options.leads}


def multi_label(options: Options) -> bool:
    """Tell whether a record may have several labels, or none."""
    return options.several


def total(root: Path, options: Options) -> int:
    """Return the number of records."""
    return len(_found(root, options)[1])


def split_in_time(options: Options) -> bool:
    """Tell whether records are cut in time; one that stands alone in its folder is, too."""
    return options.in_time if options.in_time is not None else len(options.records) == 1


def notes(options: Options) -> list[str]:
    """Return what a reader must know."""
    whence = options.name or "records of the user's own"
    cut = f", cut in time with {options.gap} moments between the sides" if split_in_time(options) else ""
    table = options.labels or options.patients
    which = "Each record whose patient the table does not name" if table else "Each record"
    own = "" if options.name in SAME and not table else f" {which} counts as a patient of its own."
    return [f"WFDB records ({whence}){cut}. PhysioNet's licence is that of each database.{own}"]


def _found(root: Path, options: Options) -> tuple[Path, list[str]]:
    """Return the folder with the records and their names."""
    folders = [root / options.name, root] if options.name else [root]
    if options.name and (data := os.environ.get("MEDLOOP_DATA")):
        folders.append(Path(data) / options.name)
    for folder in folders:
        names = list(options.records) or _below(folder)
        if any((folder / f"{name}.hea").is_file() for name in names):
            return folder, names
    listed = " or ".join(str(folder) for folder in folders)
    raise Refused(
        f"no record (*.hea) in {listed}: set ingest.root to the folder with the records, or MEDLOOP_DATA to the folder "
        "around that of a database which ingest.options.wfdb.name names; physionet.org has them"
    )


def _below(folder: Path) -> list[str]:
    """Return the names of the records below a folder: what is hidden is none, nor is a segment of another record."""
    paths = [path.relative_to(folder).with_suffix("") for path in folder.rglob("*.hea")]
    names = [path for path in paths if not any(part.startswith(".") for part in path.parts)]
    segments = {path.parent / segment for path in names for segment in _segments(folder / f"{path}.hea")}
    return sorted(path.as_posix() for path in names if path not in segments)


def _segments(header: Path) -> list[str]:
    """Return the names of the records that a record of several segments is put together of."""
    with header.open(encoding="ascii", errors="replace") as file:
        lines = [line.split() for line in file if line.strip() and not line.startswith("#")]
    return [words[0] for words in lines[1:]] if lines and "/" in lines[0][0] else []


def _leads(folder: Path, names: list[str]) -> tuple[str, ...]:
    """Return the leads of the first record whose header can be read; of the others `ingest` will say so."""
    for name in names:
        try:
            header = wfdb.rdheader(str(folder / name), rd_segments=True)
        except (ValueError, LookupError, OSError, TypeError):
            continue
        if header.sig_name:
            return tuple(header.sig_name)
    return ()


def _check_files(folder: Path, names: list[str], suffix: str, what: str, remedy: str) -> None:
    """Raise Refused where records lack a file; the private list says which they are."""
    if not (lacking := [name for name in names if not (folder / f"{name}{suffix}").is_file()]):
        return
    pseudonyms = privacy.Pseudonyms.load()
    lost = [(pseudonyms.of("item", name), f"no {what} ({suffix})", name) for name in lacking]
    where = privacy.list_privately(lost)
    raise Refused(
        f"{len(lacking)} of {len(names)} records have no {what} (*{suffix}) in {folder} "
        f"({some(row[0] for row in lost)}; {where} says which): {remedy}"
    )


def _cut(options: Options, names: list[str]) -> bool:
    if options.in_time is None and len(names) == 1 and not options.records and not options.labels:
        raise Refused(
            "the folder has one record, which can only be cut in time: say so with ingest.options.wfdb.in_time: true"
        )
    return split_in_time(options)


def _known(folder: Path, names: list[str], options: Options) -> dict[str, Row]:
    """Return what is known of each record before it is read: at least whose it is.

    Raises:
        Refused: the table cannot be read, has no row for a record, or has a side for one that is cut in time.
    """
    same = SAME.get(options.name or "", {})
    own = {name: same.get(PurePosixPath(name).name, name) for name in names}
    table = options.labels or options.patients
    if table is None:
        return {name: Row(patient_id=own[name]) for name in names}
    rows = labels.read(folder / table, "path", labelled=table == options.labels, several=options.several)
    if options.records or options.patients:  # a table of patients may be of all the records that there are
        rows = {name: rows[name] for name in names if name in rows}
    labels.match({name: name for name in names}, rows, folder / table)
    if split_in_time(options) and any(row.split for row in rows.values()):
        raise Refused(
            f"{table} has a split, and the records are cut in time: leave the column out, or set "
            "ingest.options.wfdb.in_time: false"
        )
    return {name: replace(row, patient_id=row.patient_id or own[name]) for name, row in rows.items()}


def _samples(
    folder: Path, name: str, row: Row, leads: tuple[str, ...], options: Options, in_time: bool
) -> Iterator[Sample]:
    path = folder / name
    record = wfdb.rdrecord(str(path), channel_names=list(options.leads) or None)
    found = record.sig_name or []
    if missing := [lead for lead in options.leads if lead not in found]:
        raise Refused(f"the record has no lead {', '.join(missing)}")
    if sorted(found) != sorted(leads):
        raise Refused("the record has other leads than the first: name those of all in ingest.options.wfdb.leads")
    if len(set(record.units)) > 1:
        raise Refused("the record has leads of several units: choose those of one (ingest.options.wfdb.leads)")
    places = list(range(len(found))) if found == list(leads) else [found.index(lead) for lead in leads]
    values = np.ascontiguousarray(record.p_signal[:, places], np.float32)  # (T, C)
    about = {"patient_id": row.patient_id, "site": row.site, "sex": row.sex, "age_years": row.age_years}
    said = {column: value for column, value in about.items() if value is not None}
    known = {"study_id": name, "modality": "ECG", **_person(record.comments or []), **said}
    known |= {"rate_hz": float(record.fs), "unit": record.units[0]}
    stretches = _stretches(len(values), options) if in_time else [(row.split, 0, len(values))]
    if options.use == "signal":
        for side, begin, end in stretches:
            key = f"{name}/{begin}"
            yield Sample(key, values[begin:end], label=row.label, split=side, start=begin, **known)
        return
    marks = wfdb.rdann(str(path), "atr")
    for side, begin, end in stretches:
        for place, symbol in zip(marks.sample, marks.symbol, strict=True):
            first, last = int(place) - options.before, int(place) + options.after
            if symbol in options.classes and first >= begin and last <= end:
                label = options.classes[symbol]
                yield Sample(f"{name}/{place}", values[first:last], label=label, split=side, start=first, **known)


def _stretches(length: int, options: Options) -> list[tuple[str | None, int, int]]:
    """Return (side, begin, end) of a record cut in time: train, then val, then test, with gaps between them."""
    usable = length - 2 * options.gap
    train, val = round(usable * (1 - options.val - options.test)), round(usable * options.val)
    if min(train, val, usable - train - val) < 1:
        raise Refused(
            f"the record has {length} moments: too few to cut with gaps of {options.gap} (ingest.options.wfdb.gap)"
        )
    ends = [("train", 0, train), ("val", train + options.gap, train + options.gap + val)]
    return [*ends, ("test", train + val + 2 * options.gap, length)]


def _person(comments: list[str]) -> dict[str, Any]:
    """Return age and sex where the header's comments begin with them."""
    found = PERSON.match(comments[0]) if comments else None
    return {"age_years": float(found[1]), "sex": found[2]} if found else {}
