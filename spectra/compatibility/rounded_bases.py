"""Whether a weight is the one that a shift was trained on, or a rounded copy of it: the base in another precision.

A shift means nothing in another base. In a rounded copy it means nearly the same, and exactly the same if the singular
vectors are those of the original (docs/algebra.md, section 7). A quantised copy has bytes of which no fingerprint of
the original can be told: it is recognised where the original's spectrum, or the original, is at hand.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Literal, TypeAlias

from spectra.io.dtypes import dtype_name, torch_dtype
from spectra.shift.metadata import ROUNDED, ROUNDED_DIGITS, ShiftMetadata
from spectra.spectrum.fingerprint import fingerprint

if TYPE_CHECKING:
    from torch import Tensor

    from spectra.spectrum.partial import PartialSpectrum
    from spectra.spectrum.spectrum import Spectrum

BaseMatch: TypeAlias = Literal["same", "cast", "float16", "bfloat16", "quantised", "unknown", "other"]
"""What a weight is to a shift's: itself; itself once it has the shift's dtype; a copy rounded to a dtype; a quantised
copy, or the original of one; one of the two quantised, which tells nothing of the other; another."""

EXPECTED_ERROR = {"float16": "0.7 to 1.7 %", "bfloat16": "4 to 14 %"}
"""Relative error of Delta W in the singular vectors of a rounded copy, instead of the original's.

Measured for random shifts (docs/algebra.md, section 7).
"""

_QUANTISED_ERROR = {8: "1 to 18 %", 5: "7 to 47 %", 4: "14 to 93 %"}
"""The same in those of a quantised copy, by its bits."""

_DTYPES = ("float64", "float32", "float16", "bfloat16")


class Fingerprints:
    """The fingerprints of one weight as it is and in other dtypes, each computed when it is first asked for.

    Args:
        weights: holds the weight, on any device; it is read once for each dtype.
        name: of the weight.
        dtype: its own, such as "float32".
        found: its digits by dtype, as far as they are known; what is computed is added.
        quantised: how the weight is stored, such as "nf4", if `weights` holds what a quantised one stands for.
    """

    def __init__(
        self,
        weights: Mapping[str, Tensor],
        name: str,
        dtype: str,
        found: dict[str, str] | None = None,
        quantised: str = "",
    ) -> None:
        self._weights = weights
        self._name = name
        self.found = {} if found is None else found
        self.dtype, self.quantised = dtype, quantised

    def reading(self, weights: Mapping[str, Tensor]) -> Fingerprints:
        """The same, with the weight read from elsewhere."""
        return Fingerprints(weights, self._name, self.dtype, self.found, self.quantised)

    @classmethod
    def of(
        cls, weight: Tensor, name: str = "weight", spectrum: Spectrum | PartialSpectrum | None = None
    ) -> Fingerprints:
        """The fingerprints of a weight in memory; its `spectrum`, if there is one, knows the first."""
        dtype = dtype_name(weight.dtype)
        return cls({name: weight}, name, dtype, {dtype: spectrum.fingerprint} if spectrum else None)

    def digits(self, dtype: str = "") -> str:
        """All 64 hex digits of the weight in a dtype, its own by default."""
        dtype = dtype or self.dtype
        if dtype not in self.found:
            self.found[dtype] = fingerprint(cast(self._weights[self._name], dtype), name=self._name)
        return self.found[dtype]

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
        return "unknown" if self.quantised or is_quantised_kind(trained) else "other"


def cast(weight: Tensor, dtype: str) -> Tensor:
    """The weight in a dtype given by name."""
    return weight.detach().to(torch_dtype(dtype))


def is_quantised_kind(dtype: str) -> bool:
    """Whether what a shift file names as its base's dtype is the kind of a quantised weight, such as "nf4"."""
    return re.fullmatch(r"nf4|fp4|u?int[2-8]|float8|I?Q[2-8]_\w+", dtype) is not None


def expected_error(copy: str) -> str:
    """`EXPECTED_ERROR` of a dtype or of a kind of quantised weight, such as "nf4" or "Q4_0", in words."""
    if copy in EXPECTED_ERROR:
        return EXPECTED_ERROR[copy]
    if copy == "float8":
        return "6 to 30 %"
    bits = re.search(r"[2-8]", copy)
    return _QUANTISED_ERROR.get(int(bits[0]) if bits else 0, "more than half")


def base_dtype(prints: Iterable[Fingerprints]) -> str:
    """What a shift file names as its base's dtype: the kind of quantised weights, if there are some, else the dtype."""
    known = list(prints)
    return next((each.quantised for each in known if each.quantised), known[0].dtype)
