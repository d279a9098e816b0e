"""Label tables: a CSV that says which file, or which patient, has which label."""

import csv
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Annotated

from pydantic import AfterValidator, Field

from medloop import manifest, privacy
from medloop.errors import Refused, some


def _below_root(path: Path) -> Path:
    if path.is_absolute() or ".." in path.parts:
        raise ValueError("must lie below ingest.root, where DVC sees it change")
    return path


Table = Annotated[Path, AfterValidator(_below_root)]


def _distinct(names: tuple[str, ...]) -> tuple[str, ...]:
    if len(set(names)) < len(names) or not all(name.strip() for name in names):
        raise ValueError(f"classes must have names that differ, none of them empty, got {list(names)}")
    return names


Classes = Annotated[tuple[str, ...], AfterValidator(_distinct)]
Patients = Annotated[
    Table | None,
    Field(description="CSV with path, that of an image below the root, and patient_id, site, sex, age_years, split"),
]
MAX_AGE_YEARS = 130
OPTIONAL = ("patient_id", "site", "sex", "age_years", "split")


@dataclass(frozen=True)
class Row:
    """A row of a label table; None stands for an empty cell or a missing column."""

    label: str | None = None
    patient_id: str | None = None
    site: str | None = None
    sex: str | None = None  # F, M or O
    age_years: float | None = None
    split: str | None = None  # train, val or test


def read(path: Path, key: str, *, several: bool = False, labelled: bool = True) -> dict[str, Row]:
    """Return the rows of a CSV by their column `key`; `path` stands for files below a folder, written with slashes.

    With `several` a label is several of them, joined by "|", or none: an empty cell. Unless `labelled` there are none.

    Raises:
        Refused: no such file, a column missing, a row with too many or too few cells, two rows with one key, a cell
            that cannot be; the message names the line, for a cell may hold a patient's name.
    """
    rows: dict[str, Row] = {}
    for line, cells in records(path, (key, "label") if labelled else (key,)):
        name = cells[key]
        name = str(PurePosixPath(name)) if key == "path" else name
        if name in rows:
            raise Refused(f"{path}, line {line}: a second row for the same {key}")
        rows[name] = _row(cells, f"{path}, line {line}", several, labelled)
    return rows


def records(path: Path, wanted: Sequence[str]) -> Iterator[tuple[int, dict[str, str]]]:
    """Yield the number and the cells of each line below the header, where `wanted` stand; empty lines are none.

    Raises:
        Refused: no such file, a column missing, a line with too many or too few cells.
    """
    named = " and ".join(filter(None, (", ".join(wanted[:-1]), wanted[-1])))
    columns = f"{'column' if len(wanted) == 1 else 'columns'} {named}"
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            reader = csv.reader(file, skipinitialspace=True, strict=True)
            lines = [(reader.line_num, [cell.strip() for cell in cells]) for cells in reader if cells]
    except FileNotFoundError:
        raise Refused(f"no label table {path}: it must have the {columns}") from None
    except (ValueError, OSError, csv.Error) as error:  # they may quote the file
        raise Refused(f"{path} is no readable CSV in UTF-8 ({type(error).__name__})") from None
    header = lines[0][1] if lines else []
    if absent := [column for column in wanted if column not in header]:
        hint = "; separate with commas" if len(header) == 1 and set(header[0]) & {";", "\t"} else ""
        raise Refused(f"{path} must have the {columns}, its first line has no {' and '.join(absent)}{hint}")
    for line, cells in lines[1:]:
        if len(cells) != len(header):
            raise Refused(
                f"{path}, line {line}: {len(cells)} cells, the first line has {len(header)}; a cell with a comma must "
                "stand in quotes"
            )
        yield line, dict(zip(header, cells, strict=True))


def of_patients(root: Path, table: Path | None, images: Sequence[str]) -> dict[str, Row]:
    """Return what a table below `root` says of the patient of each image, and nothing where there is no table.

    Raises:
        Refused: the table does not name each of the images, or names others.
    """
    if table is None:
        return dict.fromkeys(images, Row())
    rows = read(root / table, "path", labelled=False)
    match({image: image for image in images}, rows, root / table)
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
        f"have no label, {len(unused)} of {len(rows)} rows have no file ({some(row[0] for row in lost)}); "
        f"{where} says which"
    )


def parts(cell: str) -> list[str]:
    """Return the labels of a cell that joins them by "|", each once."""
    return list(dict.fromkeys(filter(None, map(str.strip, cell.split("|")))))


def _row(cells: Mapping[str, str], where: str, several: bool, labelled: bool) -> Row:
    given = {column: cells[column] for column in (*["label"][: int(labelled)], *OPTIONAL) if cells.get(column)}
    if several:
        given["label"] = "|".join(parts(cells["label"]))
    if labelled and "label" not in given:
        raise Refused(f"{where}: the label is empty")
    if given.get("sex", "F") not in ("F", "M", "O"):
        raise Refused(f"{where}: sex must be F, M or O")
    if given.get("split", "train") not in manifest.SPLITS:
        raise Refused(f"{where}: split must be one of {', '.join(manifest.SPLITS)}")
    try:
        age = float(given.pop("age_years")) if "age_years" in given else None
    except ValueError:
        raise Refused(f"{where}: age_years must be a number") from None
    if age is not None and not 0 <= age <= MAX_AGE_YEARS:
        raise Refused(f"{where}: age_years must lie within 0 to {MAX_AGE_YEARS}")
    return Row(**given, age_years=age)
