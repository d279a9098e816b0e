"""Records of a table: gene expression, clinical findings; CSV, TSV, Parquet or h5ad, one file or one for each cohort.

A column is a variable unless an option names it or `leave` leaves it out; age and sex are both, variables and groups.
Files lie below `root`, or below $MEDLOOP_DATA and its subfolder `name`.
"""

import hashlib
import os
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Literal

import numpy as np
from pydantic import Field, model_validator

from medloop import params, records, tabular
from medloop.errors import Refused
from medloop.labels import MAX_AGE_YEARS, Table, parts
from medloop.sources import Item, Sample

KIND = "table"
WHOLE = re.compile(r"^([+-]?\d+)\.0*$")
NO_LABEL = set(tabular.NO_VALUE) - {"", "none"}


class File(params.Section):
    """One of `files`: a cohort, or the part of a data set that has a side of its own."""

    path: Table = Field(description="CSV, TSV, Parquet or h5ad, below the root")
    site: str | None = Field(None, description="of all its records")
    split: Literal["train", "test"] | None = Field(None, description="official side; for all files or for none")


class Labels(params.Section):
    """`labels:`, where a file of its own says the class of each record."""

    path: Table = Field(description="CSV or TSV, below the root")
    id: str = Field(description="its column with the names of the records")
    label: str = Field(description="its column with the class")


class Options(params.Section):
    """`ingest.options.table:`"""

    name: str | None = Field(None, description="subfolder of $MEDLOOP_DATA where the files are, if not below the root")
    files: tuple[File, ...] = Field(min_length=1)
    licence: str | None = Field(None, description="of the data, and whom to cite: for the report")
    id: str | None = Field(None, description="column that names a record, its patient too; none: its place does")
    patient: str | None = Field(None, description="column that names the patient, where one has several records")
    one_each: bool = Field(False, description="each record is a patient of its own")
    label: str | None = Field(None, description="column with the class")
    several: bool = Field(False, description="the label is several, joined by |, or none; for task multilabel")
    labels: Labels | None = Field(None, description="in place of label: another file")
    target: str | None = Field(None, description="column with a number to predict")
    classes: dict[str, str] = Field({}, description="name by what the file says, two may share one; none: as they are")
    site: str | None = Field(None, description="column")
    sex: str | None = Field(None, description="column, a variable too")
    sexes: dict[str, Literal["F", "M", "O"]] = Field({}, description="what its cells stand for")
    age: str | None = Field(None, description="column of years, a variable too")
    leave: tuple[str, ...] = Field((), description="columns to leave out, e.g. call*")
    codes: dict[str, dict[str, float]] = Field(
        {}, description="by variable of text, sex too: the number that each text stands for"
    )
    variable: str | None = Field(None, description="of text whose lines are variables: the column that names them")
    matrix: str = Field("X", description="of h5ad: where the values are, e.g. raw.X or layers/counts")
    unequal: Literal["refuse", "common"] = Field(
        "refuse", description="variables that not every file has; common: those of all files, the rest is left out"
    )
    val: float = Field(0.2, gt=0, lt=1, description="share of an official train side that becomes val")

    @model_validator(mode="after")
    def _one_answer(self) -> "Options":
        if len({file.path for file in self.files}) < len(self.files):
            raise ValueError("one file may stand in files once")
        if sum(each is not None for each in (self.label, self.labels, self.target)) != 1:
            raise ValueError("one of label, labels and target must say what is to be told")
        if self.labels and not (self.id or self.variable):
            raise ValueError("labels need the column that names a record (id)")
        if self.several and self.target:
            raise ValueError("several are labels, a target is one number")
        if any("|" in name for name in self.classes.values()):
            raise ValueError("a class may have no | in its name, which joins several")
        if self.sex and not self.sexes:
            raise ValueError("sex needs sexes: which cells stand for F, M or O")
        return self

    @property
    def layout(self) -> records.Layout:
        named = (self.id, self.patient, self.label, self.target, self.site)
        return records.Layout(frozenset(filter(None, named)), self.leave, self.variable, self.matrix)


@dataclass(frozen=True)
class _Known:
    """What is said of one record, but for its values."""

    key: str
    patient: str | None
    answer: str | None
    site: str | None
    split: str | None


def items(root: Path, options: Options, *, seed: int) -> Iterator[Item]:  # noqa: ARG001
    """Yield the records, one at a time.

    Raises:
        Refused: a file, a column or a label is missing, two records have one name, or the files do not fit together.
    """
    names = _variables(root, options)
    answers = _labels(root, options)
    seen = set[str]()
    for file in options.files:
        table = _look(root, file, options)
        place_of = {name: place for place, name in enumerate(table.variables)}
        places = [place_of[name] for name in names]
        whole = places == list(range(len(table.variables)))
        for place, said, values in table.records():
            known = _known(said, place, file, options, answers)
            if known.key in seen:
                raise Refused(
                    f"{file.path}, {place}: a second record with the same name: ingest.options.table.id is for names "
                    "that each record has alone, patient whose they are"
                )
            seen.add(known.key)
            cells: Any = values
            plain = isinstance(cells, np.ndarray)  # numbers alone, of a file that holds no text
            if not whole:
                cells = cells[places] if plain else [cells[i] for i in places]
            needed = names if not plain or options.sex or options.age else ()  # they go to another process
            yield Item(known.key, partial(_samples, known, cells, needed, options))


def multi_label(options: Options) -> bool:
    """Tell whether a record may have several labels, or none."""
    return options.several


def facts(root: Path, options: Options) -> dict[str, Any]:
    """Return what holds for all records."""
    aside = [*sorted(options.layout.said), *options.leave]
    return {
        "variables": _variables(root, options),
        "record": {"codes": options.codes, "aside": aside},
    }


def notes(options: Options) -> list[str]:
    """Return what a reader must know."""
    found = [options.licence] if options.licence else []
    if options.unequal == "common" and len(options.files) > 1:
        found.append("Of variables that not every file has, none is used.")
    return found


def _look(root: Path, file: File, options: Options) -> records.Table:
    table = records.look(_found(root, file.path, options), options.layout)
    wanted = {"label": options.label, "id": options.id, "patient": options.patient, "target": options.target}
    for option, column in (wanted | {"site": options.site}).items():
        if column is not None and column not in table.said:
            raise Refused(f"{file.path.name} has no column {column!r}, which ingest.options.table.{option} names")
    for option, column in (("sex", options.sex), ("age", options.age)):
        if column is not None and column not in table.variables:
            raise Refused(f"{file.path.name} has no column {column!r}, which ingest.options.table.{option} names")
    return table


def _found(root: Path, path: Path, options: Options) -> Path:
    folders = [root]
    if data := os.environ.get("MEDLOOP_DATA"):
        folders += [Path(data), *([Path(data) / options.name] if options.name else [])]
    for folder in folders:
        if (folder / path).is_file():
            return folder / path
    listed = " or ".join(str(folder) for folder in folders)
    raise Refused(f"no {path} in {listed}: set ingest.root to its folder, or MEDLOOP_DATA to the one around it")


def _variables(root: Path, options: Options) -> tuple[str, ...]:
    """Return the variables in the order of the first file; raise Refused where a file lacks one that may not lack."""
    found = {str(file.path): _look(root, file, options).variables for file in options.files}
    (first, names), *others = found.items()
    for file, own in others:
        for here, there, inside, outside in ((names, own, first, file), (own, names, file, first)):
            known = set(there)
            lacking = [name for name in here if name not in known]
            if lacking and options.unequal == "refuse":
                more = f" and {len(lacking) - 1} more" if len(lacking) > 1 else ""
                raise Refused(
                    f"variable {lacking[0]}{more} of {inside} is not in {outside}: set ingest.options.table.unequal: "
                    "common to use what all files have, or mend the file"
                )
    common = set(names).intersection(*(own for _, own in others))
    if not common:
        raise Refused(f"{' and '.join(found)} have no variable in common")
    return tuple(name for name in names if name in common)


def _labels(root: Path, options: Options) -> Mapping[str, str] | None:
    if options.labels is None:
        return None
    wanted, path = options.labels, _found(root, options.labels.path, options)
    rows = records.lines(path)
    _, header = next(rows, (0, []))
    if absent := [name for name in (wanted.id, wanted.label) if name not in header]:
        raise Refused(f"{path.name} has no column {absent[0]!r}, which ingest.options.table.labels names")
    name, label = header.index(wanted.id), header.index(wanted.label)
    found: dict[str, str] = {}
    for number, cells in rows:
        if (record := _plain(cells[name])) in found:
            raise Refused(f"{path.name}, line {number}: a second label for the same record")
        found[record] = cells[label]
    return found


def _known(
    said: Mapping[str, str], place: str, file: File, options: Options, answers: Mapping[str, str] | None
) -> _Known:
    where = f"{file.path}, {place}"
    name = said.get(options.variable or options.id or "")
    name = None if name is None else _plain(name)
    if name == "":
        raise Refused(f"{where}: the record has no name")
    own = name or (where if options.one_each else None)
    patient = _plain(said.get(options.patient, "")) if options.patient else own
    if answers is not None and name not in answers:
        raise Refused(f"{where}: the record has no label in {options.labels and options.labels.path.name}")
    answer = answers[name or ""] if answers is not None else said.get(options.label or options.target or "")
    if answer is None or _missing(answer, options):
        raise Refused(f"{where}: the cell of the {'target' if options.target else 'label'} is empty")
    site = said.get(options.site) if options.site else file.site
    key = name or f"{file.path}/{place}"
    split: str | None = file.split
    if split == "train" and _share(patient or key) < options.val:
        split = "val"
    return _Known(key, patient or None, answer, site or None, split)


def _samples(known: _Known, cells: Any, names: tuple[str, ...], options: Options) -> Iterator[Sample]:
    plain = isinstance(cells, np.ndarray)
    values = np.asarray(cells, np.float32) if plain else tabular.numbers(cells, names, options.codes)
    yield Sample(
        known.key,
        values,
        label=None if options.target else _class(str(known.answer), options),
        target=_number(str(known.answer)) if options.target else None,
        patient_id=known.patient,
        site=known.site,
        sex=options.sexes.get(_plain(_cell(options.sex, cells, names))) if options.sex else None,
        age_years=_age(_cell(options.age, cells, names)) if options.age else None,
        split=known.split,
    )


def _cell(column: str | None, cells: Any, names: tuple[str, ...]) -> str:
    return str(cells[names.index(column or "")])


def _missing(answer: str, options: Options) -> bool:
    """Tell whether a cell says that nobody knows the label; `none` may be the name of a class."""
    if not answer:
        return not options.several
    names = parts(answer) if options.several else [answer.strip()]
    return any(name.lower() in NO_LABEL and name not in options.classes for name in names)


def _class(text: str, options: Options) -> str:
    names = [_plain(part) for part in (parts(text) if options.several else [text])]
    if not options.classes:
        return "|".join(names)
    if any(name not in options.classes for name in names):
        raise tabular.Unreadable("the label is none that ingest.options.table.classes names")
    return "|".join(dict.fromkeys(options.classes[name] for name in names))


def _number(text: str) -> float:
    try:
        return float(text)
    except ValueError:
        raise tabular.Unreadable("the target is no number") from None


def _age(text: str) -> float | None:
    if text.strip().lower() in tabular.NO_VALUE:
        return None
    try:
        age = float(text)
    except ValueError:
        raise tabular.Unreadable("the age is no number") from None
    if not 0 <= age <= MAX_AGE_YEARS:
        raise tabular.Unreadable(f"the age must lie within 0 to {MAX_AGE_YEARS}")
    return age


def _plain(text: str) -> str:
    """Return whole numbers without their point: 1.0 is 1, as one file of a data set may have it and another not."""
    return WHOLE.sub(r"\1", text.strip())


def _share(name: str) -> float:
    """Return a number from 0 to 1 that a name alone decides."""
    return int.from_bytes(hashlib.sha256(name.encode()).digest()[:8], "big") / 2**64
