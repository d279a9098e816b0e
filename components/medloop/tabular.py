"""From a record, its variables by their names, to the numbers that a model takes.

Stands alone: it is shipped inside every registered model of tables, where there is no medloop.
"""

import csv
import io
import json
import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

MIN_VARIANCE = 1e-6  # of a record's numbers: one whose numbers are all the same becomes zeros
NO_VALUE = ("", "?", "na", "n/a", "nan", "null", "none")


class Unreadable(ValueError):
    """A record was refused; the message is a sentence of ours and holds nothing that the record said."""


def as_input(content: bytes, preprocessing: Mapping[str, Any]) -> np.ndarray:
    """Return an encoded record as the network takes it, (F,) float32.

    Raises:
        Unreadable: it cannot be read, lacks a variable, has one that the model does not know, or text for a number.
    """
    return features(decode(content, preprocessing)[None], preprocessing)[0]


def decode(content: bytes, preprocessing: Mapping[str, Any]) -> np.ndarray:
    """Return (V,) float32 of a JSON object, or of a CSV of a header and a line; what has no value is NaN.

    Raises:
        Unreadable: as `as_input`.
    """
    _, found = objects(content)
    if len(found) != 1:
        raise Unreadable(f"wanted one record, got {len(found)}")
    if not isinstance(found[0], dict):
        raise Unreadable("a record must be an object: a value by the name of each variable")
    names = preprocessing["variables"]
    check_names(list(found[0]), preprocessing)
    codes = preprocessing["codes"]
    return numbers([found[0][name] for name in names], names, codes)


def objects(content: bytes) -> tuple[list[str] | None, list[Any]]:
    """Return the header of a CSV, None of JSON, and the records of a file, a value by each name, if JSON has such.

    A line that is shorter than the header lacks variables, one that is longer has one without a name.

    Raises:
        Unreadable: it is neither JSON nor a CSV with a header.
    """
    try:
        text = content.decode("utf-8-sig")
        if text.lstrip()[:1] in ("{", "["):
            found = json.loads(text)
            return None, found if isinstance(found, list) else [found]
        rows = [row for row in csv.reader(io.StringIO(text), delimiter=_separator(text)) if any(row)]
    except (UnicodeDecodeError, json.JSONDecodeError, csv.Error):
        raise Unreadable("neither a JSON object nor a CSV with the names of the variables in its first line") from None
    if len(rows) < 2:
        raise Unreadable("no record below the line with the names of the variables")
    header = [name.strip() for name in rows[0]]
    if len(set(header)) < len(header):
        raise Unreadable("two columns have one name")
    longer = ({"": ""} if len(row) > len(header) else {} for row in rows[1:])
    return header, [dict(zip(header, row, strict=False)) | more for row, more in zip(rows[1:], longer, strict=True)]


def check_names(names: Sequence[str], preprocessing: Mapping[str, Any]) -> None:
    """Raise Unreadable unless every variable is there, and nothing but them and the columns that describe a record."""
    wanted, given = preprocessing["variables"], set(names)
    if missing := [name for name in wanted if name not in given]:
        more = f" and {len(missing) - 1} more" if len(missing) > 1 else ""
        raise Unreadable(f"variable {missing[0]}{more} is missing")
    known = {*wanted, *preprocessing["aside"]}
    if extra := [place for place, name in enumerate(names, 1) if name not in known]:
        raise Unreadable(f"{len(extra)} variables that the model does not know, the first is number {extra[0]}")


def numbers(cells: Sequence[Any], names: Sequence[str], codes: Mapping[str, Mapping[str, float]]) -> np.ndarray:
    """Return (V,) float32 of the cells of a record, NaN for one without a value.

    Args:
        cells: texts, numbers or None, in the order of `names`.
        names: of the variables.
        codes: the numbers that the texts of a variable stand for.

    Raises:
        Unreadable: a cell holds a text that is no number, or no finite one.
    """
    values = np.empty(len(names), np.float32)
    for place, (cell, name) in enumerate(zip(cells, names, strict=True)):
        text = "" if cell is None else str(int(cell) if isinstance(cell, bool) else cell).strip()
        if text.lower() in NO_VALUE:
            values[place] = np.nan
            continue
        if name in codes and text in codes[name]:
            values[place] = codes[name][text]
            continue
        try:
            values[place] = float(text.replace("_", " "))  # Python reads 1_0 as 10
        except ValueError:
            raise Unreadable(f"variable {name} is no number, nor a text that has a code") from None
        if not math.isfinite(values[place]):
            raise Unreadable(f"variable {name} is no finite number")
    return values


def features(values: np.ndarray, what: Mapping[str, Any]) -> np.ndarray:
    """Return (N, F) float32 of records (N, V): numbers of zero mean and unit variance, categories and indicators.

    Args:
        values: float32, NaN where there is no value.
        what: as preprocessing fitted it on train.

    Raises:
        Unreadable: a value is missing and none may be, or is none of its variable's categories.
    """
    names = what["variables"]
    if what["missing"] == "refuse" and (absent := np.isnan(values).any(axis=0)).any():
        raise Unreadable(f"variable {names[int(absent.argmax())]} has no value")
    plain = transformed(values[:, what["numeric"]], what)[:, np.searchsorted(what["numeric"], what["plain"])]
    filled = np.where(np.isnan(plain), np.asarray(what["middle"], np.float32), plain)
    parts = [(filled - np.asarray(what["mean"], np.float32)) / np.asarray(what["std"], np.float32)]
    for place, levels in what["levels"]:
        column = values[:, place]
        if not np.isin(column[~np.isnan(column)], np.asarray(levels, np.float32)).all():
            listed = ", ".join(f"{level:g}" for level in levels)
            raise Unreadable(f"variable {names[place]} must be one of {listed}")
        parts.append(column[:, None] == np.asarray(levels, np.float32))
    parts.append(np.isnan(values[:, what["flags"]]))
    return np.concatenate([part.astype(np.float32) for part in parts], axis=1)


def transformed(values: np.ndarray, what: Mapping[str, Any]) -> np.ndarray:
    """Return numbers (N, M) clipped, as logarithms, and each record's of zero mean and unit variance, as wanted."""
    if what["clip"]:
        values = np.clip(values, *np.asarray(what["clip"], np.float32))
    if what["log1p"]:
        values = np.log1p(values)
    if what["standardise"] == "record":
        known = ~np.isnan(values)
        count = np.maximum(known.sum(axis=1, keepdims=True), 1)
        values = values - np.where(known, values, 0).sum(axis=1, keepdims=True, dtype=np.float64) / count
        variance = (np.where(known, values, 0) ** 2).sum(axis=1, keepdims=True) / count
        values = values / np.sqrt(np.maximum(variance, MIN_VARIANCE))
    return values.astype(np.float32)


def encode(values: np.ndarray, names: Sequence[str]) -> bytes:
    """Return a record (V,) as a JSON object; a value that is missing is null."""
    plain = [None if math.isnan(value) else value for value in values.astype(np.float64).tolist()]
    return json.dumps(dict(zip(names, plain, strict=True))).encode()


def _separator(text: str) -> str:
    first = text.split("\n", 1)[0]
    return "\t" if "\t" in first and "," not in first else ","
