"""Writes the phantom as a folder tree of DICOM files with a label table, as the `dicom` source reads it.

python -m medloop.phantom.export FOLDER --patients 60
"""

import argparse
import csv
from pathlib import Path

from medloop.phantom import cohort
from medloop.phantom.options import Options


def export(folder: Path, options: Options, seed: int) -> int:
    """Write one file a study and `labels.csv` (path, label) below `folder`; return the number of files."""
    rows = []
    for index in range(options.patients):
        for number, radiograph in enumerate(cohort.radiographs(index, options, seed), 1):
            path = folder / f"Phantom^{index:04}" / f"study{number}.dcm"
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(radiograph.content)
            rows.append((path.relative_to(folder).as_posix(), radiograph.label))
    with (folder / "labels.csv").open("w", newline="") as file:
        csv.writer(file).writerows([("path", "label"), *rows])
    return len(rows)


def main() -> None:
    """Read the command line and export."""
    parser = argparse.ArgumentParser(description="Write simulated chest radiographs as DICOM files with labels.csv")
    parser.add_argument("folder", type=Path)
    parser.add_argument("--patients", type=int, default=60)
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    export(arguments.folder, Options(patients=arguments.patients), arguments.seed)


if __name__ == "__main__":
    main()
