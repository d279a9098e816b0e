"""Tables of made-up patients: a disease that follows from two of six findings, one of them with gaps."""

import csv
from pathlib import Path

import numpy as np

NAMES = ("age", "sex", "marker", "pain", "noise", "gap")


def rows(patients: int = 90, seed: int = 0) -> list[dict[str, object]]:
    """Return a row for each patient."""
    random = np.random.default_rng(seed)
    found = []
    for number in range(patients):
        marker, pain = random.normal(3, 1), int(random.integers(1, 4))
        ill = marker - 3 + (pain == 3) + 0.3 * random.normal() > 0.3
        found.append(
            {
                "record": f"Canarybird-{number}",
                "age": int(random.integers(30, 80)),
                "sex": "FM"[number % 2],
                "marker": round(marker, 3),
                "pain": pain,
                "noise": round(random.normal(), 3),
                "gap": "" if number % 7 == 0 else round(random.normal(), 3),
                "ill": "yes" if ill else "no",
            }
        )
    return found


def write(path: Path, found: list[dict[str, object]]) -> Path:
    """Write rows as a CSV."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w", newline="") as file:
        writer = csv.DictWriter(file, list(found[0]))
        writer.writeheader()
        writer.writerows(found)
    return path


def options(**changes) -> dict[str, object]:
    """Return the options of the source for these tables."""
    return {
        "files": [{"path": "ward.csv"}],
        "id": "record",
        "label": "ill",
        "sex": "sex",
        "sexes": {"F": "F", "M": "M"},
        "age": "age",
        "codes": {"sex": {"F": 0, "M": 1}},
        **changes,
    }
