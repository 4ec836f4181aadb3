"""Shifts that move much of a weight's spectrum below zero, where it is cut off: their rate or scale was too large."""

from __future__ import annotations

import warnings
from collections.abc import Mapping

import numpy as np
import numpy.typing as npt

from spectra.analysis.weight_changes import known_sigmas
from spectra.errors import ClippingWarning
from spectra.shift.shift import SpectralShift
from spectra.spectrum.cache.spectrum_cache import SpectrumCache

MUCH = 1 / 3
"""Share of the sum of a weight's singular values beyond which it counts."""


def cut_off(sigma: npt.NDArray[np.floating], delta: npt.NDArray[np.floating]) -> float:
    """The share of the sum of singular values that are cut off: those of `sigma [r]`, descending, with `sigma + delta`
    of zero or less; delta `[n]` may be of more directions or fewer.
    """
    count = min(sigma.size, delta.size)
    total = float(sigma.sum())
    return float(sigma[:count][sigma[:count] + delta[:count] <= 0].sum()) / total if total else 0.0


def clipping(shift: SpectralShift, *, cache: SpectrumCache | None = None) -> dict[str, float]:
    """The weights that lose much of their spectrum, with the share that is cut off; of those whose spectra the cache
    knows.

    Raises:
        CacheError: the cache's folder cannot be read.
    """
    shares = {name: cut_off(sigma, shift[name]) for name, sigma in known_sigmas(shift, cache=cache).items()}
    return {name: share for name, share in shares.items() if share > MUCH}


def warn_of_clipping(shift: SpectralShift, name: str, *, cache: SpectrumCache | None = None) -> None:
    """Warn by a `ClippingWarning` of a shift, called by its name, that cuts off much of some weights' spectra.

    Raises:
        CacheError: the cache's folder cannot be read.
    """
    found = clipping(shift, cache=cache)
    if found:
        warnings.warn(clipping_message(name, found), ClippingWarning, stacklevel=3)


def clipping_message(name: str, found: Mapping[str, float]) -> str:
    """What `clipping` found, in one line."""
    worst = max(found, key=lambda each: found[each])
    weights = "1 weight" if len(found) == 1 else f"{len(found)} weights"
    return (
        f"{name}: cuts off more than a third of the singular values of {weights} ({worst}: {found[worst]:.0%}); it was "
        "trained with too high a rate, or its scale is too large: train with a lower --lr, or use a smaller scale"
    )
