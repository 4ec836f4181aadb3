"""Shifts with their scales as the command line names them: `FILE[:SCALE]`, or `FILE:SCALE,SCALE`."""

from __future__ import annotations

import contextlib
import math
from pathlib import Path

from spectra.errors import InputError


def parse_shift(text: str) -> tuple[Path, float]:
    """`FILE` or `FILE:SCALE` as a path and a scale (1 by default). A file whose name holds a colon is found first.

    Raises:
        InputError: no such file, or a scale that is no finite number.
    """
    path, scales = parse_scales(text)
    if len(scales) > 1:
        raise InputError(f"{text}: expected one number after the colon, got {len(scales)}")
    return path, scales[0]


def parse_scales(text: str) -> tuple[Path, tuple[float, ...]]:
    """`FILE:SCALE,SCALE` as a path and its scales, at least one.

    Raises:
        InputError: no such file, or a scale that is no finite number.
    """
    if Path(text).is_file():
        return Path(text), (1.0,)
    file, colon, numbers = text.rpartition(":")
    if not colon or not Path(file).is_file():
        raise InputError(f"{text}: no such file; expected FILE or FILE:SCALE")
    with contextlib.suppress(ValueError):
        scales = tuple(map(float, numbers.split(",")))
        if all(map(math.isfinite, scales)):
            return Path(file), scales
    raise InputError(f"{text}: expected a number after the colon, got {numbers!r}")
