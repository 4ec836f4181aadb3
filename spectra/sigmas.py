"""Singular values of a shift's base, from the spectrum cache alone: no base, no torch.

A shift file knows the first digits of each weight's fingerprint, which is the address of the weight's spectrum.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import TypeAlias

import numpy as np
import numpy.typing as npt

from spectra.cache_entry import DamagedEntryError, read_sigma
from spectra.cache_settings import default_root
from spectra.cache_store import Store
from spectra.metadata import ShiftMetadata

Sigmas: TypeAlias = dict[str, npt.NDArray[np.float64]]


def read_sigmas(metadata: ShiftMetadata, names: Iterable[str] | None = None, *, root: Path | None = None) -> Sigmas:
    """The singular values of those weights whose spectrum is in the cache.

    Args:
        metadata: of the shift.
        names: which of its weights; all by default. A 1-D weight has no singular values and is passed over.
        root: folder of the cache; the user's by default.

    Returns:
        float64 `[r]`, descending, by name. A weight that was never decomposed here, or whose entry is damaged, is
        not in it; `spectra decompose BASE` brings it in.
    """
    store = Store(default_root() if root is None else root)
    found: Sigmas = {}
    for name in metadata.fingerprints if names is None else names:
        if metadata.ndims.get(name) == 1:
            continue
        for path in store.matching(metadata.fingerprints[name]):
            try:
                found[name] = read_sigma(path)
            except (DamagedEntryError, OSError):
                continue
            break
    return found
