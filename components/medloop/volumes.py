"""From an encoded volume to the voxels that a model takes.

Stands alone: it is shipped inside every registered model of volumes, where there is no medloop.

A volume is (D, H, W): from inferior to superior, from posterior to anterior, from left to right, which is the canonical
orientation (RAS+) with its axes in the order of images. A file that says no orientation is taken as its format's first
method has it.
"""

import gzip
import logging
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from io import BytesIO
from typing import Any

import nibabel
import numpy as np
from nibabel.affines import voxel_sizes

GZIP_MAGIC = b"\x1f\x8b"
FORMATS = {  # by the size that a header says it has, in bytes: its class, where its magic is, and what that is
    348: (nibabel.Nifti1Image, 344, b"n+1"),
    540: (nibabel.Nifti2Image, 4, b"n+2"),
}
MAX_VOXELS = 2**28  # 512 x 512 x 1024: a header that promises more would take gigabytes
MAX_BYTES = 8 * MAX_VOXELS + 2**20
MM = {"meter": 1000.0, "mm": 1.0, "micron": 0.001}
KEPT = ("uint8", "int16", "uint16")  # other types become float32
UNEQUAL = 1.01  # ratio of a voxel's longest side to its shortest from which on it is anisotropic
CONTRADICTION = 0.01  # share by which the header's two ways to say the spacing may differ

Spacing = tuple[float, float, float]  # (D, H, W), mm from voxel to voxel

nibabel.imageglobals.logger.setLevel(logging.CRITICAL)  # what is wrong with a file, Unreadable says


class Unreadable(ValueError):
    """A volume was refused; the message is a sentence of ours and holds nothing that the file said."""


@dataclass(frozen=True)
class Volume:
    """A decoded volume."""

    voxels: np.ndarray  # (D, H, W) uint8, int16, uint16 or float32
    spacing_mm: Spacing | None  # None: the file does not say it


def as_input(content: bytes, preprocessing: Mapping[str, Any]) -> np.ndarray:
    """Return an encoded volume as the network takes it, (D, H, W, 1) uint8.

    Raises:
        Unreadable: it cannot be read, or its spacing is not what the model takes.
    """
    volume = decode(content)
    return fit(volume.voxels, volume.spacing_mm, preprocessing)


def decode(content: bytes) -> Volume:
    """Return the volume in a NIfTI file, .nii or .nii.gz, in canonical orientation.

    Raises:
        Unreadable: another format, damaged, no volume of real numbers, or one without any contrast. nibabel raises
            errors of its own as well.
    """
    plain = _inflated(content) if content.startswith(GZIP_MAGIC) else content
    kind = _kind(plain)
    header = kind.header_class.from_fileobj(BytesIO(plain), check=False)  # a check would mend what is missing
    _check_form(header, len(plain))
    image = kind.from_bytes(plain)
    if not np.isfinite(image.affine).all() or np.linalg.matrix_rank(image.affine[:3, :3]) < 3:
        raise Unreadable("the orientation in the header is none: its axes do not span a space")
    image = nibabel.as_closest_canonical(image)
    voxels = np.asanyarray(image.dataobj).reshape(image.shape[:3]).T  # (D, H, W)
    return Volume(checked(voxels), _spacing(header, image.affine))


def checked(voxels: np.ndarray) -> np.ndarray:
    """Return voxels (D, H, W) as one of the types that are kept, in C order.

    Raises:
        Unreadable: a voxel is no finite number, or all are the same.
    """
    if voxels.dtype.name not in KEPT:
        with np.errstate(over="ignore"):  # what float32 cannot hold is infinite, and refused below
            voxels = voxels.astype(np.float32)
    voxels = np.ascontiguousarray(voxels, voxels.dtype.newbyteorder("="))
    if voxels.dtype.kind == "f" and (bad := int(np.count_nonzero(~np.isfinite(voxels)))):
        raise Unreadable(f"voxels must be finite numbers, {bad} of {voxels.size} are not")
    if voxels.min() == voxels.max():
        raise Unreadable("all voxels have the same value")
    return voxels


def fit(voxels: np.ndarray, spacing_mm: Sequence[float] | None, preprocessing: Mapping[str, Any]) -> np.ndarray:
    """Return (D, H, W, 1) uint8 of the size that `preprocessing` says.

    With a target spacing the volume is resampled to it, then cut or padded about its middle. Without one it is made to
    fit whole, its proportions kept by padding; voxels count as cubes then. What is padded has the volume's minimum.
    Values in the window, or between the percentiles of the volume, go from 0 to 255.

    Args:
        voxels: (D, H, W).
        spacing_mm: of them; None: unknown.
        preprocessing: `size`, `spacing_mm`, `window`, `clip_percentiles`, `anisotropic` and `missing`, see
            `preprocess.volume` in params.yaml.

    Raises:
        Unreadable: the spacing is unknown, or differs between axes, and that is to be refused.
    """
    target = preprocessing["spacing_mm"]
    check_spacing(spacing_mm, preprocessing)
    if target is None:
        steps = [max(have / want for have, want in zip(voxels.shape, preprocessing["size"], strict=True))] * 3
    else:
        steps = [want / have for want, have in zip(target, target if spacing_mm is None else spacing_mm, strict=True)]
    low, high = _range(voxels, preprocessing)
    fitted = resampled(voxels.astype(np.float32), preprocessing["size"], steps)
    fitted = (fitted - low) * (255.0 / (high - low)) if high > low else np.zeros_like(fitted)
    return np.ascontiguousarray(np.floor(np.clip(fitted, 0, 255) + 0.5), np.uint8)[..., None]


def check_spacing(spacing_mm: Sequence[float] | None, preprocessing: Mapping[str, Any]) -> None:
    """Raise Unreadable for a spacing that is unknown, or unequal and not resampled, where that is to be refused."""
    if spacing_mm is None and preprocessing["missing"] == "refuse":
        raise Unreadable("its voxels have no known spacing (pixdim 0, or no unit)")
    if spacing_mm is None or preprocessing["spacing_mm"] is not None or preprocessing["anisotropic"] == "keep":
        return
    if max(spacing_mm) > UNEQUAL * min(spacing_mm):
        sides = " x ".join(f"{side:.3g}" for side in spacing_mm)
        raise Unreadable(f"its voxels are anisotropic, {sides} mm, and are not resampled")


def resampled(voxels: np.ndarray, size: Sequence[int], steps: Sequence[float]) -> np.ndarray:
    """Return voxels (D, H, W) at `size` places about their middle, `steps` apart; outside them their minimum.

    Linear; where the places are further apart than voxels, the mean of what lies about them, weighted as linearly.
    """
    outside = voxels.min()
    voxels = voxels - outside
    for axis in sorted(range(3), key=lambda axis: size[axis] / voxels.shape[axis]):  # what shrinks most goes first
        weights = _weights(voxels.shape[axis], size[axis], steps[axis])
        voxels = np.moveaxis(np.tensordot(weights, voxels, (1, axis)), 0, axis)
    return voxels + outside


def encode(voxels: np.ndarray, spacing_mm: Sequence[float] | None) -> bytes:
    """Return voxels (D, H, W) as a NIfTI file that decodes to the same."""
    depth, height, width = (1.0, 1.0, 1.0) if spacing_mm is None else spacing_mm
    affine = np.diag([width, height, depth, 1.0])
    image = nibabel.Nifti1Image(np.ascontiguousarray(voxels.T), affine)
    if spacing_mm is not None:
        image.header.set_xyzt_units("mm")
    return bytes(image.to_bytes())


def _inflated(content: bytes) -> bytes:
    """Return what a gzip file holds, as much of it as a volume may have."""
    try:
        with gzip.GzipFile(fileobj=BytesIO(content)) as file:
            return bytes(file.read(MAX_BYTES))
    except EOFError:
        raise Unreadable("truncated gzip file") from None
    except (gzip.BadGzipFile, zlib.error):
        raise Unreadable("damaged gzip file") from None


def _kind(plain: bytes) -> Any:
    """Return the class of images that a file is one of, by its header, in either byte order."""
    for order in ("little", "big"):
        size = int.from_bytes(plain[:4], order)
        if size in FORMATS and len(plain) >= size:
            kind, place, magic = FORMATS[size]
            if plain[place : place + 3] == magic:
                return kind
    raise Unreadable("no NIfTI file: wanted .nii or .nii.gz, header and voxels in one")


def _check_form(header: Any, there: int) -> None:
    """Refuse what is no volume of real numbers by its header alone, before its voxels are read."""
    shape, dtype = header.get_data_shape(), header.get_data_dtype()
    if dtype.kind not in "fiu":
        name = "complex numbers" if dtype.kind == "c" else "colours"
        raise Unreadable(f"voxels must be real numbers, these are {name}")
    if len(shape) < 3 or any(side != 1 for side in shape[3:]):
        many = f"{len(shape)} dimensions"
        raise Unreadable(f"a volume has 3 dimensions, this has {many}: make a file of each volume of a series")
    if min(shape) < 1 or min(shape[:3]) < 2:
        raise Unreadable("each side of a volume must have at least 2 voxels")
    count = int(np.prod(shape, dtype=object))
    if count > MAX_VOXELS:
        raise Unreadable(f"a volume may have {MAX_VOXELS} voxels, its header promises {count}")
    if there < header.get_data_offset() + count * dtype.itemsize:
        raise Unreadable("truncated: it has fewer voxels than its header promises")


def _spacing(header: Any, affine: np.ndarray) -> Spacing | None:
    """Return the spacing (D, H, W) of a canonical affine; None where the header leaves it open."""
    unit, said = header.get_xyzt_units()[0], np.array(header["pixdim"][1:4], np.float64)
    if unit not in MM or not np.isfinite(said).all() or (said == 0).any():
        return None
    sides = voxel_sizes(affine)
    if (np.abs(np.sort(sides) - np.sort(np.abs(said))) > CONTRADICTION * np.sort(sides)).any():
        raise Unreadable("the header says two spacings: pixdim is another than that of the orientation")
    depth, height, width = (float(np.float32(side * MM[unit])) for side in reversed(sides))
    return depth, height, width


def _range(voxels: np.ndarray, preprocessing: Mapping[str, Any]) -> tuple[float, float]:
    low, high = preprocessing["window"] or np.percentile(voxels, preprocessing["clip_percentiles"])
    return float(low), float(high)


def _weights(have: int, want: int, step: float) -> np.ndarray:
    """Return (want, have): of which voxels each place is the mean."""
    shift = (have - 1) / 2 - step * (want - 1) / 2
    if step == 1:
        shift = np.trunc(shift)  # whole voxels stay as they are
    places = shift + step * np.arange(want)
    away = np.abs(places[:, None] - np.arange(have))
    weights = np.maximum(1 - away / max(step, 1.0), 0)
    weights /= np.maximum(weights.sum(axis=1, keepdims=True), 1e-12)
    inside = (places > -0.5 - 1e-6) & (places < have - 0.5 + 1e-6)
    return (weights * inside[:, None]).astype(np.float32)
