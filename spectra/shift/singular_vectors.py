"""Leading singular vectors of a shift's base, from the spectrum cache alone: no base, no torch."""

from __future__ import annotations

from collections.abc import Mapping

from spectra.shift.metadata import ShiftMetadata
from spectra.shift.sums import SingularPair
from spectra.spectrum.cache.spectrum_cache import SpectrumCache, default_cache


class SingularVectors:
    """Singular vectors by weight name, for `spectra.shift.sums`.

    Attributes:
        unknown: the weights that were asked for and are not in the cache: products that need them were left out.
            `spectra decompose BASE` brings them in.
    """

    def __init__(self, *metadata: ShiftMetadata, cache: SpectrumCache | None = None) -> None:
        """Takes the fingerprints of shifts of one base; the user's cache by default."""
        self._fingerprints: Mapping[str, str] = {n: d for each in metadata for n, d in each.fingerprints.items()}
        self._cache = cache
        self.unknown: set[str] = set()

    def __call__(self, name: str, directions: int) -> SingularPair | None:
        """At least so many leading singular vectors of a weight, left `[rows, K]` and right `[columns, K]`, or None.

        Raises:
            CacheError: the cache's folder cannot be read.
        """
        cache = self._cache = self._cache or default_cache()
        found = cache.leading_vectors(self._fingerprints[name], directions)
        if found is None:
            self.unknown.add(name)
            return None
        left, _, right = found
        return left, right
