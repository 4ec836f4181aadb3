"""The cache's entry of a whole spectrum: sigma F64 [r], basis F32 [r, r], tail F32 [k, max(rows, columns)]."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, cast

import numpy as np

from spectra.spectrum.cache.entry_file import EntryHeader, EntryKind, encode_entry, read_arrays, read_tensors

if TYPE_CHECKING:
    from spectra.spectrum.spectrum import Side, Spectrum


def _shapes(header: EntryHeader) -> Mapping[str, tuple[int, ...]]:
    rows, columns = header.matrix_shape
    rank, (tail, _) = min(rows, columns), header.tensors["tail"].shape
    if header.facts["side"] not in ("left", "right") or not 0 <= tail <= rank:
        raise ValueError("side and shapes do not belong together")
    return {"sigma": (rank,), "basis": (rank, rank), "tail": (tail, max(rows, columns))}


FULL = EntryKind(
    format="spectra-spectrum",
    version="1",
    folder="v1",
    dtypes={"sigma": "float64", "basis": "float32", "tail": "float32"},
    facts=("side",),
    shapes=_shapes,
)


def encode(spectrum: Spectrum, fingerprint: str) -> bytes:
    """The whole file of a spectrum on any device."""
    arrays = {name: getattr(spectrum, name).cpu().contiguous().numpy() for name in FULL.dtypes}
    header = EntryHeader(fingerprint, spectrum.shape, {"side": spectrum.side}, {}, {})
    return encode_entry(FULL, header, arrays)


def read_sigma(path: Path) -> np.ndarray:
    """Verified singular values, float64 `[r]`, without torch and the basis; raises as `read_arrays`."""
    return read_arrays(FULL, path, "sigma")[1]["sigma"]


def read_spectrum(path: Path) -> Spectrum:
    """The verified spectrum; raises as `read_arrays`."""
    from spectra.spectrum.spectrum import Spectrum

    header, tensors = read_tensors(FULL, path)
    side = cast("Side", header.facts["side"])
    return Spectrum(side=side, shape=header.shape, fingerprint=header.fingerprint, **tensors)
