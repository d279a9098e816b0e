"""From an encoded signal to the array that a model takes.

Stands alone: it is shipped inside every registered model of sequences, where there is no medloop.
"""

from collections.abc import Mapping, Sequence
from io import BytesIO
from typing import Any

import numpy as np

NUMPY_MAGIC = b"\x93NUMPY"


class Unreadable(ValueError):
    """A signal was refused; the message is a sentence of ours and holds nothing that the file said."""


def as_input(content: bytes, preprocessing: Mapping[str, Any]) -> np.ndarray:
    """Return an encoded signal as the network takes it, (L, C) float32; with a mask (L, C + 1).

    Raises:
        Unreadable: it cannot be read, or is no signal of that length and as many leads.
    """
    values = decode(content, preprocessing.get("names", ()))
    return fit(values, **{name: preprocessing[name] for name in ("length", "leads", "mask")})


def decode(content: bytes, names: Sequence[str] = ()) -> np.ndarray:
    """Return (T, C) float32 of a .npy file, or of a table as text: a line a moment, a column a lead.

    Columns are separated by commas, semicolons, tabs or blanks. A first line that is no number names them: where
    `names` are those of the model's leads, these are taken, in their order.

    Raises:
        Unreadable: it is neither, holds what is no finite number, or its first line lacks one of `names`.
    """
    try:
        packed = content.startswith(NUMPY_MAGIC)
        values = np.load(BytesIO(content), allow_pickle=False) if packed else _text(content, names)
    except Unreadable:
        raise
    except (ValueError, EOFError, UnicodeDecodeError):
        raise Unreadable("neither a .npy file nor a table of numbers") from None
    return checked(values)


def checked(values: np.ndarray) -> np.ndarray:
    """Return values as (T, C) float32; raise Unreadable for another form, or for a value that is no finite number."""
    if values.ndim == 1:
        values = values[:, None]
    if values.ndim != 2 or not values.size or values.dtype.kind not in "fiu":
        raise Unreadable(f"a signal must be numbers (T, C), got {values.shape} {values.dtype}")
    values = np.ascontiguousarray(values, np.float32)
    if bad := int((~np.isfinite(values).all(axis=1)).sum()):
        raise Unreadable(f"a signal must be finite numbers, {bad} of {len(values)} moments are not")
    return values


def fit(values: np.ndarray, *, length: int, leads: int, mask: bool) -> np.ndarray:
    """Return (L, C) float32 of a signal (T, C); with `mask` it may be shorter, and a channel of 1 says what is real.

    Raises:
        Unreadable: another length or number of leads.
    """
    if values.shape[1] != leads:
        raise Unreadable(f"the model takes {leads} lead(s), got {values.shape[1]}")
    if len(values) > length or (len(values) < length and not mask):
        wanted = f"{length} moments" + (" or fewer" if mask else "")
        raise Unreadable(f"the model takes {wanted}, got {len(values)}")
    if not mask:
        return values
    padded = np.zeros((length, leads + 1), np.float32)
    padded[: len(values), :leads] = values
    padded[: len(values), leads] = 1
    return padded


def encode(values: np.ndarray) -> bytes:
    """Return values as a .npy file."""
    file = BytesIO()
    np.save(file, values)
    return file.getvalue()


def _text(content: bytes, names: Sequence[str]) -> np.ndarray:
    lines = content.decode("utf-8-sig").translate(str.maketrans(",;\t", "   ")).splitlines()
    rows = [line.split() for line in lines if line.strip()]
    if not rows or _number(rows[0][0]):
        return np.array(rows, np.float64)
    header, values = rows[0], np.array(rows[1:], np.float64)
    if not names:
        return values
    if any(header.count(name) != 1 for name in names):
        raise Unreadable(f"the first line must name each of the model's leads once: {', '.join(names)}")
    return values[:, [header.index(name) for name in names]]


def _number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True
