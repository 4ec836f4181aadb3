"""How the command line names a shift with its scale: `FILE[:SCALE]`."""

from __future__ import annotations

import math
from pathlib import Path

from spectra.errors import InputError


def parse_shift(text: str) -> tuple[Path, float]:
    """`FILE` or `FILE:SCALE` as a path and a scale (1 by default). A file whose name holds a colon is found first.

    Raises:
        InputError: no such file, or a scale that is no finite number.
    """
    if Path(text).is_file():
        return Path(text), 1.0
    file, colon, number = text.rpartition(":")
    if not colon or not Path(file).is_file():
        raise InputError(f"{text}: no such file; expected FILE or FILE:SCALE")
    try:
        scale = float(number)
    except ValueError:
        scale = math.nan
    if not math.isfinite(scale):
        raise InputError(f"{text}: expected a number after the colon, got {number!r}")
    return Path(file), scale
