"""Whether a weight is the one that a shift was trained on, or a rounded copy of it: the base in another precision.

A shift means nothing in another base. In a rounded copy it means nearly the same, and exactly the same if the singular
vectors are those of the original (docs/algebra.md, section 6).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Literal, TypeAlias

from spectra.io.dtypes import dtype_name, torch_dtype
from spectra.shift.metadata import ROUNDED, ROUNDED_DIGITS, ShiftMetadata
from spectra.spectrum.fingerprint import fingerprint

if TYPE_CHECKING:
    from torch import Tensor

    from spectra.spectrum.partial import PartialSpectrum
    from spectra.spectrum.spectrum import Spectrum

BaseMatch: TypeAlias = Literal["same", "cast", "float16", "bfloat16", "other"]
"""What a weight is to a shift's: itself; itself once it has the shift's dtype; a copy rounded to a dtype; another."""

EXPECTED_ERROR = {"float16": "0.7 to 1.7 %", "bfloat16": "4 to 14 %"}
"""Relative error of Delta W in the singular vectors of a rounded copy, instead of the original's.

Measured for random shifts (docs/algebra.md, section 6).
"""

_DTYPES = ("float64", "float32", "float16", "bfloat16")


class Fingerprints:
    """The fingerprints of one weight as it is and in other dtypes, each computed when it is first asked for.

    Args:
        weights: holds the weight, on any device; it is read once for each dtype.
        name: of the weight.
        dtype: its own, such as "float32".
        known: its own fingerprint, if that is known already.
    """

    def __init__(self, weights: Mapping[str, Tensor], name: str, dtype: str, known: str = "") -> None:
        self._weights = weights
        self._name = name
        self._found = {dtype: known} if known else {}
        self.dtype = dtype

    @classmethod
    def of(
        cls, weight: Tensor, name: str = "weight", spectrum: Spectrum | PartialSpectrum | None = None
    ) -> Fingerprints:
        """The fingerprints of a weight in memory; its `spectrum`, if there is one, knows the first."""
        return cls({name: weight}, name, dtype_name(weight.dtype), spectrum.fingerprint if spectrum else "")

    def digits(self, dtype: str = "") -> str:
        """All 64 hex digits of the weight in a dtype, its own by default."""
        dtype = dtype or self.dtype
        if dtype not in self._found:
            self._found[dtype] = fingerprint(cast(self._weights[self._name], dtype), name=self._name)
        return self._found[dtype]

    def rounded(self) -> dict[str, str]:
        """The digits that a shift keeps of the weight's rounded copies, by dtype."""
        return {dtype: self.digits(dtype)[:ROUNDED_DIGITS] for dtype in ROUNDED}

    def base_match(self, metadata: ShiftMetadata, name: str) -> BaseMatch:
        """What the weight is to the one that `metadata` calls `name`."""
        wanted, trained = metadata.fingerprints[name], metadata.base_dtype
        if self.digits().startswith(wanted):
            return "same"
        if trained != self.dtype and trained in _DTYPES and self.digits(trained).startswith(wanted):
            return "cast"
        for dtype in ROUNDED:
            if dtype in metadata.rounded and self.digits(dtype).startswith(metadata.rounded[dtype][name]):
                return dtype
        return "other"


def cast(weight: Tensor, dtype: str) -> Tensor:
    """The weight in a dtype given by name."""
    return weight.detach().to(torch_dtype(dtype))
