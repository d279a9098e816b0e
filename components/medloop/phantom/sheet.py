"""A contact sheet of the phantom: radiographs of each site as a reader sees them, below them the nodules outlined.

python -m medloop.phantom.sheet FILE.png
"""

import argparse
from io import BytesIO
from pathlib import Path

import cv2
import numpy as np
import pydicom

from medloop import imaging
from medloop.phantom import anatomy, cohort, sites
from medloop.phantom.cohort import Radiograph
from medloop.phantom.options import Options

SIDE, GAP, TITLE = 200, 5, 20  # pixels
OUTLINE = (0, 200, 255)  # blue, green, red
INK = (60, 60, 60)


def sheet(options: Options, seed: int, columns: int = 6) -> np.ndarray:
    """Return the sheet (H, W, 3) uint8, blue first: three of four patients have nodules."""
    cells = [_column(*picked) for picked in _chosen(options, seed, columns)]
    gap = np.full((len(cells[0]), GAP, 3), 255, np.uint8)
    return np.hstack([part for cell in cells for part in (cell, gap)][:-1])


def main() -> None:
    """Read the command line and write the sheet."""
    parser = argparse.ArgumentParser(description="Write a contact sheet of the phantom")
    parser.add_argument("file", type=Path)
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    cv2.imwrite(str(arguments.file), sheet(Options(), arguments.seed), [cv2.IMWRITE_PNG_COMPRESSION, 9])


def _chosen(options: Options, seed: int, columns: int) -> list[tuple[sites.Site, Radiograph]]:
    """Return the first study of patients that show every site in turn, three of four with nodules."""
    chosen: list[tuple[sites.Site, Radiograph]] = []
    index = 0
    while len(chosen) < columns:
        who = anatomy.person(index, options, seed)
        place = len(chosen)
        if who.site == place % len(sites.SITES) and who.has_nodule == (place % 4 != 2):
            chosen.append((sites.SITES[who.site], cohort.radiographs(index, options, seed)[0]))
        index += 1
    return chosen


def _column(site: sites.Site, radiograph: Radiograph) -> np.ndarray:
    image = _seen(radiograph.content)
    outlined = image.copy()
    for mask in radiograph.nodules:
        large = cv2.resize(mask, (SIDE, SIDE), interpolation=cv2.INTER_LINEAR_EXACT)
        edges, _ = cv2.findContours(large, cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_NONE)
        cv2.drawContours(outlined, edges, -1, OUTLINE, 1, cv2.LINE_AA)
    gap = np.full((GAP, SIDE, 3), 255, np.uint8)
    device = f"{site.name.split(' (')[0]}: {site.bits} bit {site.photometric}"
    sizes = ", ".join(f"{diameter:.0f}" for diameter in radiograph.diameters_mm)
    finding = f"{radiograph.label} {sizes} mm" if sizes else radiograph.label
    return np.vstack([_title(device), image, gap, outlined, _title(finding)])


def _seen(content: bytes) -> np.ndarray:
    """Return the decoded image, (SIDE, SIDE, 3) uint8."""
    pixels, bits = next(imaging.decode_dataset(pydicom.dcmread(BytesIO(content))))
    gray = (pixels * (255.0 / (2**bits - 1))).astype(np.uint8)
    large = cv2.resize(gray, (SIDE, SIDE), interpolation=cv2.INTER_CUBIC)
    return cv2.cvtColor(large, cv2.COLOR_GRAY2BGR)


def _title(text: str) -> np.ndarray:
    strip = np.full((TITLE, SIDE, 3), 255, np.uint8)
    cv2.putText(strip, text, (2, TITLE - 6), cv2.FONT_HERSHEY_SIMPLEX, 0.36, INK, 1, cv2.LINE_AA)
    return strip


if __name__ == "__main__":
    main()
