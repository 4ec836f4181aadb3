"""What a name, a delta, outer terms and words must be to be a part of a shift."""

from __future__ import annotations

import re

import numpy as np
import numpy.typing as npt

from spectra.errors import ShiftFileError
from spectra.shift.outer_terms import rounded
from spectra.shift.sums import Parts

_NAME = re.compile(r"[A-Za-z0-9_-]+(\.[A-Za-z0-9_-]+)+")


def checked_delta(name: str, delta: npt.NDArray[np.floating]) -> npt.NDArray[np.float32]:
    """A read-only float32 copy of a delta.

    Raises:
        ShiftFileError: the name is none, or the delta is not a vector of finite floats.
    """
    if not _NAME.fullmatch(name):
        raise ShiftFileError(f"expected a weight name such as 'unet.conv_in', got {name!r}")
    values = np.asarray(delta)
    if values.dtype.kind != "f":
        raise ShiftFileError(f"{name}: expected a delta of floats, got {values.dtype}")
    if values.ndim != 1 or values.size == 0:
        raise ShiftFileError(f"{name}: expected a delta of shape [n], n > 0, got shape {list(values.shape)}")
    copied = rounded(values)
    check_finite(name, copied, "the shift cannot be used; if it was just trained, train with a lower --lr")
    copied.flags.writeable = False
    return copied


def check_parts(name: str, parts: Parts, ndim: int | None) -> None:
    """Refuse outer terms and words that cannot be of the weight `name`, as far as its delta and dimensions tell.

    Raises:
        ShiftFileError: they are not.
    """
    size, outer, words = parts.delta.size, parts.outer, parts.words
    if ndim == 1:
        raise ShiftFileError(f"{name} has one dimension; outer terms and words change weights of two and more")
    if outer and outer.taps and ndim == 2:
        raise ShiftFileError(f"{name} has two dimensions; outer terms with a kernel change convolutions")
    if outer and min(outer.shape) != size:
        raise ShiftFileError(
            f"{name}: its {size} singular values do not fit outer terms of {outer.shape[0]} x {outer.shape[1]}"
        )
    if words:
        columns, last = words.vectors.shape[1], max(words.ids)
        rows = outer.shape[0] if outer else size if size < columns else None  # else as many as the vocabulary has
        if size > columns or (outer and columns != outer.shape[1]) or (rows is not None and last >= rows):
            raise ShiftFileError(
                f"{name}: words of {columns} floats for ids up to {last} do not fit a weight of {rows or 'some'} rows "
                f"and {size} singular values"
            )


def check_finite(name: str, values: npt.NDArray[np.floating], remedy: str) -> None:
    """Refuse a delta with values that are NaN or infinite, and say what to do.

    Raises:
        ShiftFileError: some are.
    """
    finite = np.isfinite(values)
    if not finite.all():
        bad = values.size - int(np.count_nonzero(finite))
        raise ShiftFileError(f"{name}: {bad} of {values.size} values of the delta are not finite; {remedy}")
