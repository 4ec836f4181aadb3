"""Deltas of few directions: what of a vector a file has to store."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt


class Shortened(NamedTuple):
    """The values of a delta up to its last nonzero one, or with `directions` (their places) the nonzero ones alone."""

    values: npt.NDArray[Any]
    directions: npt.NDArray[np.unsignedinteger] | None


def shorten(delta: npt.NDArray[Any]) -> Shortened:
    """What is left of a float32 or float16 vector `[r]` without its zeros: exact, the signs of other zeros included."""
    used = np.flatnonzero(delta.view(f"u{delta.itemsize}"))
    stop = int(used[-1]) + 1 if used.size else 0
    if 2 * used.size >= stop:
        return Shortened(delta[:stop], None)
    return Shortened(delta[used], used.astype(np.uint16 if delta.size <= 1 << 16 else np.uint32))


def lengthen(shortened: Shortened, size: int) -> npt.NDArray[Any]:
    """The vector `[size]` again.

    Raises:
        ValueError: more values than that, or places that are out of range, out of order or not one for each value.
    """
    values, places = shortened
    found = np.zeros(size, dtype=values.dtype)
    if places is None:
        if values.size > size:
            raise ValueError(f"expected at most {size} values, got {values.size}")
        found[: values.size] = values
        return found
    if places.size != values.size:
        raise ValueError(f"expected a direction for each of {values.size} values, got {places.size}")
    if places.size and (places[-1] >= size or (places[1:] <= places[:-1]).any()):
        raise ValueError(f"expected directions below {size} in ascending order, each once")
    found[places] = values
    return found


def few(deltas: Iterable[npt.NDArray[Any]]) -> bool:
    """Whether leaving out zeros halves what is stored; a file of other deltas holds them whole."""
    stored = total = 0
    for delta in deltas:
        values, directions = shorten(delta)
        stored += values.size + (0 if directions is None else directions.size)
        total += delta.size
    return 2 * stored <= total
