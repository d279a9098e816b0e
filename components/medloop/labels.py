"""Label tables: a CSV that says which file, or which patient, has which label."""

from collections.abc import Hashable, Mapping
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Annotated

import pandas as pd
from pydantic import AfterValidator

from medloop import manifest, privacy
from medloop.errors import Refused


def _below_root(path: Path) -> Path:
    if path.is_absolute() or ".." in path.parts:
        raise ValueError("must lie below ingest.root, where DVC sees it change")
    return path


Table = Annotated[Path, AfterValidator(_below_root)]
OPTIONAL = ("patient_id", "site", "sex", "age_years", "split")


@dataclass(frozen=True)
class Row:
    """A row of a label table; None stands for an empty cell or a missing column."""

    label: str
    patient_id: str | None = None
    site: str | None = None
    sex: str | None = None  # F, M or O
    age_years: float | None = None
    split: str | None = None  # train, val or test


def read(path: Path, key: str) -> dict[str, Row]:
    """Return the rows of a CSV by their column `key`; `path` stands for files below a folder, written with slashes.

    Raises:
        Refused: no such file, a column missing, two rows with one key, a cell that cannot be; the message names the
            line, for a cell may hold a patient's name.
    """
    try:
        table = pd.read_csv(
            path, dtype=str, keep_default_na=False, encoding="utf-8-sig", skipinitialspace=True, index_col=False
        )
    except FileNotFoundError:
        raise Refused(f"no label table {path}: it must have the columns {key} and label") from None
    except (ValueError, OSError) as error:  # pandas' and Unicode's errors are ValueErrors, and quote the file
        raise Refused(f"{path} is no readable CSV in UTF-8 ({type(error).__name__})") from None
    missing = [column for column in (key, "label") if column not in table.columns]
    if missing:
        raise Refused(f"{path} must have the columns {key} and label, no column {' and '.join(missing)}")
    rows: dict[str, Row] = {}
    for line, cells in enumerate(table.to_dict("records"), start=2):
        name = cells[key].strip()
        name = str(PurePosixPath(name)) if key == "path" else name
        if name in rows:
            raise Refused(f"{path}, line {line}: a second row for the same {key}")
        rows[name] = _row(cells, f"{path}, line {line}")
    return rows


def match(keys: Mapping[str, str], rows: Mapping[str, Row], table: Path) -> None:
    """Check that every file has a row and every row a file.

    Args:
        keys: by file, what it should be found under in `rows`.
        rows: of the label table.
        table: its path, for the message.

    Raises:
        Refused: it is not so; the message counts and gives pseudonyms, the private list says which they are.
    """
    unlabelled = [file for file, key in keys.items() if key not in rows]
    unused = sorted(rows.keys() - keys.values())
    if not unlabelled and not unused:
        return
    pseudonyms = privacy.Pseudonyms.load()
    lost = [(pseudonyms.of("item", file), "no label in the table", file) for file in unlabelled]
    lost += [(pseudonyms.of("item", key), "row without a file", key) for key in unused]
    where = privacy.list_privately(lost)
    raise Refused(
        f"{table} must have one label for every file and a file for every row: {len(unlabelled)} of {len(keys)} files "
        f"have no label, {len(unused)} of {len(rows)} rows have no file ({privacy.some(row[0] for row in lost)}); "
        f"{where} says which"
    )


def _row(cells: Mapping[Hashable, str], where: str) -> Row:
    given = {column: cells[column].strip() for column in ("label", *OPTIONAL) if cells.get(column, "").strip()}
    if "label" not in given:
        raise Refused(f"{where}: the label is empty")
    if given.get("sex", "F") not in ("F", "M", "O"):
        raise Refused(f"{where}: sex must be F, M or O")
    if given.get("split", "train") not in manifest.SPLITS:
        raise Refused(f"{where}: split must be one of {', '.join(manifest.SPLITS)}")
    try:
        age = float(given.pop("age_years")) if "age_years" in given else None
    except ValueError:
        raise Refused(f"{where}: age_years must be a number") from None
    return Row(**given, age_years=age)
