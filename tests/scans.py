"""NIfTI files with made-up volumes: a ball or a rod in noise, small and nobody's."""

from pathlib import Path

import nibabel
import numpy as np

SIDE = 10


def volume(label: str, seed: int, side: int = SIDE) -> np.ndarray:
    """Return voxels (X, Y, Z) int16 as a file holds them: a bright ball, or a rod that is as bright, in noise."""
    random = np.random.default_rng(seed)
    places = np.stack(np.mgrid[:side, :side, :side], axis=-1) - (side - 1) / 2 - random.uniform(-1, 1, 3)
    reach = np.array([1.0, 1.0, 1.0]) if label == "ball" else np.array([0.35, 1.0, 2.2])
    inside = ((places / reach) ** 2).sum(axis=-1) < (side / 4) ** 2
    texture = np.kron(random.normal(0, 150, (side // 2,) * 3), np.ones((2, 2, 2)))  # by which patients differ
    return np.round(1000 * inside + texture + random.normal(0, 60, inside.shape)).astype(np.int16)


def write(path: Path, voxels: np.ndarray, *, spacing=(1.0, 1.0, 1.0), unit: str | None = "mm", axes="RAS") -> None:
    """Write voxels (X, Y, Z, in canonical orientation) as a file whose own axes run as `axes` says."""
    path.parent.mkdir(parents=True, exist_ok=True)
    image = nibabel.Nifti1Image(voxels, np.diag([*spacing, 1.0]))
    if unit:
        image.header.set_xyzt_units(unit)
    turn = nibabel.orientations.ornt_transform(
        nibabel.orientations.axcodes2ornt("RAS"), nibabel.orientations.axcodes2ornt(axes)
    )
    image.as_reoriented(turn).to_filename(path)


def folder(root: Path, patients: int = 30) -> None:
    """Write a file for each patient, below the folders of two classes, and a label table."""
    lines = ["path,label,patient_id,site,split"]
    splits = ["train", "train", "train", "val", "test", "test"]
    for number in range(patients):
        label = ("ball", "rod")[number % 2]
        file = f"{label}/p{number}.nii{'.gz' * (number % 3 == 0)}"
        write(root / file, volume(label, number), axes=("RAS", "LPS", "PIR")[number % 3])
        lines.append(f"{file},{label},p{number},{'AB'[number % 4 // 2]},{splits[number // 2 % 6]}")
    (root / "labels.csv").write_text("\n".join(lines) + "\n")
