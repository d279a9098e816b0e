"""Make synthetic images for teaching with a registered model: marked files, and a table of what was made."""

import csv
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pandas as pd
from tqdm import tqdm

from medloop import marks, params
from medloop.answers import generation as answers
from medloop.errors import Refused
from medloop.tracking import registry
from medloop.tracking.connection import server

BATCH, MOST = 64, 100_000
TABLE = "images.csv"
COLUMNS = ("file", "label", "seed", "model", "version", "model_digest", "synthetic")


def generate(
    base: params.Base,
    *,
    folder: Path,
    model: str = "champion",
    count: int = 16,
    labels: Sequence[str] = (),
    seed: int = 0,
    dicom: bool = False,
) -> str:
    """Write `count` images of each label to `folder`, with `images.csv`, and return one line that says so.

    Every file carries both marks. The same seed, label and version give the same image.

    Args:
        base: names the model.
        folder: a new or an empty one; it appears when all is written.
        model: an alias, or a version number.
        count: of each label.
        labels: names of classes; none: all of them.
        seed: of the first image; the others take the numbers that follow.
        dicom: write a DICOM file beside each PNG file.

    Raises:
        Refused: no such model, one that makes no images, an unknown label, no image asked for, or a folder in use.
    """
    _check(folder, count, seed)
    with server() as client:
        version = registry.get(client, base.model_name, model)
        network = registry.load(f"models:/{version.name}/{version.number}")
    card = network.unwrap_python_model().model.card
    if card["task"] != "generation":
        raise Refused(f"{version} of {version.name} is of task {card['task']} and makes no images: see medloop predict")
    if unknown := [name for name in labels if name not in card["classes"]]:
        raise Refused(f"label must be one of {', '.join(card['classes'])}, got {unknown[0]!r}")
    wanted = [(name, seed + i) for name in (labels or card["classes"]) for i in range(count)]
    about = {"model": version.name, "version": version.number, "model_digest": version.tags[registry.DIGEST]}
    partial = folder.with_name(f".{folder.name}.partial")
    shutil.rmtree(partial, ignore_errors=True)
    try:
        partial.mkdir(parents=True)
        _write(partial, wanted, about, network, dicom=dicom)
        if folder.exists():
            folder.rmdir()
        partial.replace(folder)
    except OSError as error:
        raise Refused(f"{folder} could not be written: {error.strerror}") from None
    finally:
        shutil.rmtree(partial, ignore_errors=True)
    return f"{len(wanted)} synthetic images by version {version.number} of {version.name}: {folder}; {card['use']}"


def _check(folder: Path, count: int, seed: int) -> None:
    if not 1 <= count <= MOST:
        raise Refused(f"count must be 1 to {MOST} images of each label, got {count}")
    if not 0 <= seed <= answers.SEEDS - count:
        raise Refused(f"seed must be 0 to {answers.SEEDS - count}, got {seed}")
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise Refused(f"{folder} must be a new or an empty folder")


def _write(
    folder: Path, wanted: Sequence[tuple[str, int]], about: Mapping[str, str], network: Any, *, dicom: bool
) -> None:
    """Write an image for each label and seed that is wanted, and the table, a row for each file."""
    places = {name: place for place, name in enumerate(dict.fromkeys(name for name, _ in wanted))}
    with (folder / TABLE).open("w", newline="") as file, tqdm(total=len(wanted), desc="generate", disable=None) as bar:
        table = csv.DictWriter(file, COLUMNS)
        table.writeheader()
        for begin in range(0, len(wanted), BATCH):
            rows = wanted[begin : begin + BATCH]
            made = network.predict(pd.DataFrame(rows, columns=["label", "seed"]))["image"]
            for (name, number), content in zip(rows, made, strict=True):
                stem = f"synthetic-{places[name]}-{number}"
                said = {"label": name, "seed": number, **about}
                files = {f"{stem}.png": content} | ({f"{stem}.dcm": marks.dicom(content, said)} if dicom else {})
                for path, written in files.items():
                    (folder / path).write_bytes(written)
                    table.writerow({"file": path, **said, "synthetic": "true"})
            bar.update(len(rows))
