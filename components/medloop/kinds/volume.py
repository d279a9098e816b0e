"""Volumes: CT, MRI and shapes in them, (D, H, W); NIfTI files.

Axes go from inferior to superior, from posterior to anterior, from left to right, whatever a file's own order was.
"""

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pandas as pd

from medloop import manifest, params, twins3d, volumes
from medloop.errors import Refused, some
from medloop.kinds import Form, Part
from medloop.sources import Sample

NOUN, NOUNS = "volume", "volumes"
WINDOWS = False
SIZED_BY = "preprocess.volume.size"
INPUT_UNITS = "uint8 gray levels, 0 to 255, as medloop's preprocessing makes them: (D, H, W, 1)"
Unreadable = volumes.Unreadable

PACKAGES = ("numpy",)
INDEX = ["sample_id", "patient_id", "site", "sex", "age_years", "label", "content_sha256"]
VIEW = (
    "Each picture shows three middle slices: axial, coronal, sagittal. Superior or anterior is up, and left is the "
    "patient's right, in the sagittal slice anterior."
)
DTYPES = (*volumes.KEPT, "float32")

COLUMN = "volume"
DECODER = volumes
REQUIREMENTS = ("nibabel",)
SUFFIXES = (".nii", ".nii.gz")
WANTED = f"files that end in {', '.join(SUFFIXES)}"
REMEDY = (
    "correct its header, leave it out, or see preprocess.volume (spacing_mm resamples; missing and anisotropic: keep "
    "takes voxels as they are)"
)


def units(preprocessing: Mapping[str, Any]) -> str:  # noqa: ARG001
    """Return what one array is called, in the plural."""
    return NOUNS


def check(sample: Sample) -> None:
    """Raise Unreadable unless the values are (D, H, W) of a type that is kept, and their spacing is positive."""
    values, spacing = sample.values, sample.spacing_mm
    if values.ndim != 3 or values.dtype.name not in DTYPES or not values.size:
        raise Unreadable(f"voxels must be (D, H, W) of {', '.join(DTYPES)}, got {values.shape} {values.dtype}")
    if values.dtype.kind == "f" and not np.isfinite(values).all():
        raise Unreadable("voxels must be finite numbers")
    if spacing is not None and (len(spacing) != 3 or min(spacing) <= 0):
        raise Unreadable(f"spacing must be 3 positive numbers of mm, got {len(spacing)}, the least {min(spacing):g}")


def perceptual_hash(values: np.ndarray) -> int | None:  # noqa: ARG001
    """Return None: that of a slice says little of its volume."""
    return None


def near_copies(
    rows: pd.DataFrame,
    values: manifest.Values,
    sides: Sequence[tuple[np.ndarray, np.ndarray]],
    thresholds: params.LeakThresholds,
) -> pd.DataFrame:
    """Return the pairs (a, b, correlation) of rows on both `sides` that hold the same volume.

    Memory: 28 to 110 kB a sample, however large it is; on disk nothing.
    """
    return twins3d.find(rows, values, sides, thresholds)


def form(
    table: pd.DataFrame,
    values: manifest.Values,  # noqa: ARG001
    facts: manifest.Facts,  # noqa: ARG001
    section: params.Preprocess,
) -> Form:
    """Return the form of the arrays: (D, H, W, 1) uint8, as params.yaml says.

    Raises:
        Refused: a volume has no known spacing, or an unequal one that is not resampled, and is not to be kept so.
    """
    wanted = section.volume.model_dump(mode="json")
    bad = dict[str, str]()
    for row in manifest.rows(table):
        try:
            volumes.check_spacing(row.spacing_mm, wanted)
        except Unreadable as error:
            bad[row.sample_id] = str(error)
    if bad:
        reasons = some(dict.fromkeys(bad.values()))
        raise Refused(
            f"{len(bad)} of {len(table)} volumes cannot be taken, samples {some(bad)}: {reasons}; "
            f"{manifest.WHICH_FILES}: {REMEDY}"
        )
    return Form((*section.volume.size, section.volume.channels), "uint8", wanted)


def counts(rows: pd.DataFrame, form: Form) -> np.ndarray:  # noqa: ARG001
    """Return (N,) ones: a volume is one array."""
    return np.ones(len(rows), np.int64)


def index(rows: pd.DataFrame, form: Form) -> pd.DataFrame:  # noqa: ARG001
    """Return what is known of each array."""
    return rows[INDEX]


def arrays(rows: pd.DataFrame, values: manifest.Values, form: Form) -> Iterator[memoryview]:
    """Yield volumes (1, D, H, W, 1) uint8, one by one, in the order of `rows`."""
    for row in manifest.rows(rows):
        yield volumes.fit(values[row], row.spacing_mm, form.preprocessing)[None].data


def targets(rows: pd.DataFrame, values: manifest.Values, form: Form) -> np.ndarray | None:  # noqa: ARG001
    """Return None: a volume says nothing of its own future."""
    return None


def augment(
    arrays: np.ndarray, section: params.Augment, random: np.random.Generator, part: Part | None = None
) -> np.ndarray:
    """Return changed copies of volumes (N, D, H, W, C) uint8; what they are is decided by the state of `random` alone.

    Geometry comes first: rotation about an axis of any direction, zoom, and shift along all three, in one interpolation
    with edges repeated; then flips, horizontal along W, vertical along H. Then contrast about the volume's mean, and
    noise in units of its standard deviation. `part`: of which whole they are.
    """
    if section == params.Augment():
        return arrays
    if other := [name for name in ("crop", "elastic") if getattr(section, name)]:
        raise Refused(f"train.augment: volumes know no {' and no '.join(other)}: set it to 0")
    part = part or Part(len(arrays), slice(None))
    if section.rotate_deg or section.zoom or section.shift:
        arrays = _moved(arrays, section, random, part)
    for asked, axis in ((section.flip_horizontal, 3), (section.flip_vertical, 2)):
        if asked:
            chosen = random.random(part.count)[part.rows] < 0.5
            arrays = np.where(chosen[:, None, None, None, None], np.flip(arrays, axis), arrays)
    if section.contrast or section.noise:
        arrays = _graded(arrays, section, random, part)
    return arrays


def described(card: Mapping[str, Any]) -> str:
    """Return the network's input in words."""
    depth, height, width, _ = card["input_shape"]
    spacing = card["preprocessing"]["spacing_mm"]
    each = f" of {' × '.join(f'{side:g}' for side in spacing)} mm" if spacing else ""
    return f"{depth} × {height} × {width} voxels{each} (depth, height, width), gray"


def picture(array: np.ndarray, card: Mapping[str, Any], marks: Mapping[str, float]) -> tuple[str, bytes]:  # noqa: ARG001
    """Return the middle slices of (D, H, W, 1) uint8 side by side as a PNG file: axial, coronal, sagittal.

    Superior and anterior are up, the patient's right is at the left, anterior too where the slice is sagittal.
    """
    seen = array[::-1, ::-1, ::-1, 0]
    depth, height, width = (side // 2 for side in seen.shape)
    slices = [seen[depth], seen[:, height], seen[:, :, width]]
    tall = max(len(each) for each in slices)
    columns: list[np.ndarray] = []
    for each in slices:
        above = (tall - len(each)) // 2
        columns += [np.pad(each, ((above, tall - len(each) - above), (0, 0))), np.full((tall, 1), 128, np.uint8)]
    return "image/png", bytes(cv2.imencode(".png", np.hstack(columns[:-1]))[1])


def example(card: Mapping[str, Any]) -> bytes:
    """Return one volume of noise, which is nobody's, as a NIfTI file."""
    what = card["preprocessing"]
    noise = np.random.default_rng(0).integers(0, 256, card["input_shape"][:3], np.uint8)
    return volumes.encode(noise, what["spacing_mm"] or (1.0, 1.0, 1.0))


def is_input(path: Path) -> bool:
    """Tell by its suffix whether a file is a volume."""
    return path.name.lower().endswith(SUFFIXES)


def cells(content: bytes, name: str, preprocessing: Mapping[str, Any]) -> Iterator[tuple[str, str, bytes]]:  # noqa: ARG001
    """Yield a file as it is."""
    yield name, name, content


def encoded(row: Any, values: np.ndarray, preprocessing: Mapping[str, Any]) -> Iterator[tuple[int | None, bytes]]:  # noqa: ARG001
    """Yield the one cell of a packed volume."""
    yield None, volumes.encode(values, row.spacing_mm)


def paired(preprocessing: Mapping[str, Any]) -> dict[str, Any]:  # noqa: ARG001
    """Return nothing: each model makes of a volume what it needs."""
    return {}


def _moved(arrays: np.ndarray, section: params.Augment, random: np.random.Generator, part: Part) -> np.ndarray:
    from scipy.ndimage import affine_transform
    from scipy.spatial.transform import Rotation

    sides = np.array(arrays.shape[1:4])
    axis = random.standard_normal((part.count, 3))[part.rows]
    angle = random.uniform(-section.rotate_deg, section.rotate_deg, part.count)[part.rows]
    zoom = 1 + random.uniform(-section.zoom, section.zoom, part.count)[part.rows]
    shift = random.uniform(-section.shift, section.shift, (part.count, 3))[part.rows] * sides
    turned = np.deg2rad(angle)[:, None] * axis / np.linalg.norm(axis, axis=1, keepdims=True)
    matrix = Rotation.from_rotvec(turned).as_matrix() / zoom[:, None, None]
    centre = (sides - 1) / 2
    moved = np.empty_like(arrays)
    for i, channel in np.ndindex(len(arrays), arrays.shape[4]):
        start = centre - matrix[i] @ (centre + shift[i])
        given, made = arrays[i, ..., channel], moved[i, ..., channel]
        affine_transform(given, matrix[i], start, output=made, order=1, mode="nearest")
    return moved


def _graded(arrays: np.ndarray, section: params.Augment, random: np.random.Generator, part: Part) -> np.ndarray:
    drawn = random.uniform(-section.contrast, section.contrast, (part.count, 1, 1, 1, 1))[part.rows]
    gray = arrays.astype(np.float32)
    axes = tuple(range(1, gray.ndim))
    mean, deviation = gray.mean(axis=axes, keepdims=True), gray.std(axis=axes, keepdims=True)
    gray = (gray - mean) * (1 + drawn.astype(np.float32)) + mean
    if section.noise:
        noise = random.standard_normal((part.count, *gray.shape[1:]), np.float32)[part.rows]
        gray += section.noise * deviation * noise
    return np.clip(np.rint(gray), 0, 255).astype(np.uint8)
