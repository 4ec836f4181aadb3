"""The same base in another precision: whether a weight is that which a shift was trained on, or a rounded copy of it.

A shift means nothing in another base. In a rounded copy it means nearly the same, and exactly the same if the singular
vectors are those of the original (docs/algebra.md, section 6).
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from typing import TYPE_CHECKING, Literal, TypeAlias

from spectra.io.dtypes import torch_dtype
from spectra.shift.metadata import ROUNDED, ROUNDED_DIGITS, ShiftMetadata
from spectra.spectrum.fingerprint import fingerprint

if TYPE_CHECKING:
    from torch import Tensor

Kinship: TypeAlias = Literal["same", "cast", "float16", "bfloat16", "other"]
"""What a weight is to a shift's: itself; itself once it has the shift's dtype; a copy rounded to a dtype; another."""

EXPECTED_ERROR = {"float16": "0.7 to 1.7 %", "bfloat16": "4 to 14 %"}
"""Relative error of Delta W in the singular vectors of a rounded copy, instead of the original's.

Measured for random shifts (docs/algebra.md, section 6).
"""

_DTYPES = ("float64", "float32", "float16", "bfloat16")


class Fingerprints:
    """The fingerprints of one weight as it is and in other dtypes, each computed when it is first asked for.

    Args:
        read: gives the weight, on any device.
        dtype: its own, such as "float32".
        name: how errors call it.
        known: its own fingerprint, if that is known already.
    """

    def __init__(self, read: Callable[[], Tensor], dtype: str, *, name: str = "weight", known: str = "") -> None:
        self._read = read
        self._name = name
        self._found = {dtype: known} if known else {}
        self.dtype = dtype

    def digits(self, dtype: str = "") -> str:
        """All 64 hex digits of the weight in a dtype, its own by default."""
        dtype = dtype or self.dtype
        if dtype not in self._found:
            self._found[dtype] = fingerprint(cast(self._read(), dtype), name=self._name)
        return self._found[dtype]

    def rounded(self) -> dict[str, str]:
        """The digits that a shift keeps of the weight's rounded copies, by dtype."""
        return {dtype: self.digits(dtype)[:ROUNDED_DIGITS] for dtype in ROUNDED}

    def kinship(self, metadata: ShiftMetadata, name: str) -> Kinship:
        """What the weight is to that which `metadata` calls `name`."""
        wanted, trained = metadata.fingerprints[name], metadata.base_dtype
        if self.digits().startswith(wanted):
            return "same"
        if trained != self.dtype and trained in _DTYPES and self.digits(trained).startswith(wanted):
            return "cast"
        for dtype in ROUNDED:
            if dtype in metadata.rounded and self.digits(dtype).startswith(metadata.rounded[dtype][name]):
                return dtype
        return "other"


def told(
    metadata: ShiftMetadata, called: str, kinships: Mapping[str, Kinship], foreign: Collection[str], dtype: str
) -> str:
    """What is to be said where a shift acts on a rounded copy of its base, and how much of Delta W that costs.

    Args:
        metadata: of the shift.
        called: how messages call it.
        kinships: of the copy's weights, by name.
        foreign: weights for which the original's singular vectors are not in use.
        dtype: of the copy.

    Returns:
        One line; empty if no weight is a copy.
    """
    trained = metadata.base_dtype
    copy = (
        f"shift {called!r} was trained on {metadata.base or 'an unnamed base'} in {trained}, of which this model is a "
        f"copy in {dtype}"
    )
    if foreign:
        coarse = "bfloat16" if "bfloat16" in {*kinships.values(), trained, dtype} else "float16"
        return (
            f"{copy}: for {len(foreign)} of its weights the original's singular vectors are not in use, which changes "
            f"Delta W by about {EXPECTED_ERROR[coarse]}; take the base in {trained}, or decompose it "
            f"(spectra decompose BASE --dtype {trained}) and try again, with this shift alone"
        )
    if {"cast", *EXPECTED_ERROR} & set(kinships.values()):
        return f"{copy}; with the original's singular vectors, only the rounding of the weights themselves is left"
    return ""


def cast(weight: Tensor, dtype: str) -> Tensor:
    """The weight in a dtype given by name."""
    return weight.detach().to(torch_dtype(dtype))
