"""The precision of a file that is made from others: the one that they have."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Literal

from spectra.shift.shift import Precision


def kept_precision(
    of: Iterable[Precision], wanted: Literal["float32", "float16"] | None = None
) -> Literal["float32", "float16"]:
    """The precision that is wanted, or else float16 where all files have that; packed values are float32."""
    found = set(of)
    return wanted or ("float16" if found == {"float16"} else "float32")
