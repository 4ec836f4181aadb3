"""How much of a spectrum cache's work was done before."""

from __future__ import annotations

from dataclasses import astuple, dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import Tensor

    from spectra.spectrum.partial import PartialSpectrum
    from spectra.spectrum.spectrum import Spectrum


@dataclass
class Usage:
    """Counts of what a cache object has done. The cache's lock guards them.

    Attributes:
        hits: spectra that were found.
        misses: spectra that had to be computed.
        full: leading directions that were asked for and cut from a full decomposition, computed for them.
        damaged: entries that were found damaged, set aside and computed again; they count as misses too.
        weight_floats: floats of the weights asked for.
        spectrum_floats: floats of their spectra.
        bytes: what those take in memory and, but for a short header each, on the disk.
    """

    hits: int = 0
    misses: int = 0
    full: int = 0
    damaged: int = 0
    weight_floats: int = 0
    spectrum_floats: int = 0
    bytes: int = 0

    def count(self, weight: Tensor, spectrum: Spectrum | PartialSpectrum, *, hit: bool) -> None:
        """Add one spectrum."""
        self.hits += hit
        self.misses += not hit
        self.weight_floats += weight.numel()
        self.spectrum_floats += spectrum.floats
        self.bytes += spectrum.bytes

    def since(self, before: Usage) -> Usage:
        """The counts since this object was like `before`."""
        return Usage(*(now - then for now, then in zip(astuple(self), astuple(before), strict=True)))
