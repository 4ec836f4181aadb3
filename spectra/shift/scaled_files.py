"""Shifts with their scales as the command line names them: `FILE[:SCALE]`, or `FILE:SCALE,SCALE`.

FILE is a shift, or one that a training has kept (`spectra.shift.trajectory`).
"""

from __future__ import annotations

import contextlib
import math
from pathlib import Path

from spectra.errors import InputError
from spectra.shift.trajectory import find_shift, find_shifts


def parse_shift(text: str) -> tuple[Path, float]:
    """`FILE` or `FILE:SCALE` as a path and a scale (1 by default). A file whose name holds a colon is found first.

    Raises:
        InputError: no such file, or a scale that is no finite number.
    """
    path, scales = parse_scales(text)
    if len(scales) > 1:
        raise InputError(f"{text}: expected one number after the colon, got {len(scales)}")
    return path, scales[0]


def parse_shifts(text: str) -> list[tuple[Path, float]]:
    """As `parse_shift`; a range of a training's steps (`FOLDER@300..500`) gives all of them, with that scale.

    Raises:
        InputError: no such file, or a scale that is no finite number.
    """
    file, scales = _split(text)
    if len(scales) > 1:
        raise InputError(f"{text}: expected one number after the colon, got {len(scales)}")
    return [(path, scales[0]) for path in find_shifts(file)]


def parse_scales(text: str) -> tuple[Path, tuple[float, ...]]:
    """`FILE:SCALE,SCALE` as a path and its scales, at least one.

    Raises:
        InputError: no such file, or a scale that is no finite number.
    """
    file, scales = _split(text)
    return find_shift(file), scales


def _split(text: str) -> tuple[str, tuple[float, ...]]:
    file, colon, numbers = text.rpartition(":")
    if Path(text).exists() or not colon:
        return text, (1.0,)
    with contextlib.suppress(ValueError):
        scales = tuple(map(float, numbers.split(",")))
        if all(map(math.isfinite, scales)):
            return file, scales
    if Path(file).exists():
        raise InputError(f"{text}: expected a number after the colon, got {numbers!r}")
    return text, (1.0,)  # which is no such file, as will be said
