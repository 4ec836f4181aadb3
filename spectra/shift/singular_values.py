"""Singular values of a shift's base, from the spectrum cache alone: no base, no torch.

A shift file knows the first digits of each weight's fingerprint, which is the address of the weight's spectrum.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import TypeAlias

import numpy as np
import numpy.typing as npt

from spectra.shift.metadata import ShiftMetadata
from spectra.shift.sums import Vector
from spectra.spectrum.cache.spectrum_cache import SpectrumCache, default_cache

Sigmas: TypeAlias = dict[str, npt.NDArray[np.float64]]


def singular_value_change(sigma: Vector, delta: npt.NDArray[np.floating]) -> Vector:
    """`ReLU(sigma + delta) - sigma`, float64 `[r]`, without losing the digits of a small delta beside a large sigma."""
    change: Vector = np.maximum(delta, -sigma)
    return change


def read_sigmas(
    metadata: ShiftMetadata, names: Iterable[str] | None = None, *, cache: SpectrumCache | None = None
) -> Sigmas:
    """The singular values of a shift's weights, as far as their spectra are in the cache.

    Args:
        metadata: of the shift.
        names: which of its weights; all by default. A 1-D weight has no singular values and is passed over.
        cache: the user's by default.

    Returns:
        float64 `[r]`, descending, by name. A weight that was never decomposed here, or whose entry is damaged, is
        not in it; `spectra decompose BASE` brings it in.

    Raises:
        CacheError: the cache's folder cannot be read.
    """
    cache = cache or default_cache()
    found: Sigmas = {}
    for name in metadata.fingerprints if names is None else names:
        sigma = None if metadata.ndims.get(name) == 1 else cache.sigma(metadata.fingerprints[name])
        if sigma is not None:
            found[name] = sigma
    return found
