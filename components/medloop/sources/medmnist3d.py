"""The 3D sets of MedMNIST v2 and MedMNIST+, by name and size.

Names, classes and digests as published with Yang et al., MedMNIST v2, Scientific Data 2023, at https://medmnist.com.
Neither spacing nor orientation is published: set preprocess.volume.missing to keep.
"""

from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Literal

import numpy as np
from pydantic import Field, field_validator

from medloop import params, published
from medloop.published import Dataset, File
from medloop.sources import Item, Sample

KIND = "volume"
SIZES = (28, 64)

DATASETS = {
    "organmnist3d": Dataset(
        "liver; kidney-right; kidney-left; femur-right; femur-left; bladder; heart; lung-right; lung-left; spleen; "
        "pancreas",
        "a0c5a1ff56af4f155c46d46fbb45a2fe 58a2205adf14a9d0a189cb06dc78bf10",
    ),
    "nodulemnist3d": Dataset("benign; malignant", "8755a7e9e05a4d9ce80a24c3e7a256f3 c47c5b7d457bf6332200d2ea6d64ecd8"),
    "adrenalmnist3d": Dataset(
        "normal; hyperplasia", "bbd3c5a5576322bc4cdfea780653b1ce 17721accfe9fb005146a47d33bc54b2f"
    ),
    "fracturemnist3d": Dataset(
        "buckle rib fracture; nondisplaced rib fracture; displaced rib fracture",
        "6aa7b0143a6b42da40027a9dda61302f f01d7e6316aedf4210da0da5b7437b42",
    ),
    "vesselmnist3d": Dataset("vessel; aneurysm", "b41fd4f7e7e2feedddb201585ecafa1b 6bb274a8846e1097066dcd64e2c4520f"),
    "synapsemnist3d": Dataset(
        "inhibitory synapse; excitatory synapse", "1235b78a3cd6280881dd7850a78eadb6 43bd14ebf3af9d3dd072446fedc14d5e"
    ),
}


class Options(params.Section):
    """`ingest.options.medmnist3d:`"""

    name: str = Field(description="e.g. adrenalmnist3d")
    size: Literal[28, 64] = Field(28, description="voxels a side; more than 28 is MedMNIST+")

    @field_validator("name")
    @classmethod
    def _known(cls, name: str) -> str:
        if name not in DATASETS:
            raise ValueError(f"no such dataset; known: {', '.join(sorted(DATASETS))}")
        return name

    @property
    def dataset(self) -> Dataset:
        return DATASETS[self.name]

    @property
    def wanted(self) -> File:
        return File(self.name, self.size, self.dataset.digests.split()[SIZES.index(self.size)])


def items(root: Path, options: Options, *, seed: int) -> Iterator[Item]:  # noqa: ARG001
    """Yield about a megabyte of volumes at a time; the official splits are kept.

    Raises:
        Refused: as `published.path`.
    """
    archive = published.path(root, options.wanted)
    for split, start, volumes, names in published.read(archive, options.dataset):
        key = f"{options.wanted.file}/{split}"
        yield Item(f"{key}/{start}", partial(_samples, key, start, volumes, names, split))


def classes(options: Options) -> tuple[str, ...]:
    """Return the official class names, in label order."""
    return options.dataset.classes


def notes(options: Options) -> list[str]:
    """Return what a reader must know."""
    return [
        f"MedMNIST v2 {options.name}, {options.size} voxels a side, licence {options.dataset.licence}. Which way its "
        "axes run is not published."
    ]


def _samples(key: str, start: int, volumes: np.ndarray, names: list[str], split: str) -> Iterator[Sample]:
    for index, (volume, name) in enumerate(zip(volumes, names, strict=True), start):
        yield Sample(f"{key}/{index}", volume, label=name, split=split)
