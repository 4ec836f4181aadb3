"""The cache's entry of leading directions: sigma F64 [K], left F32 [K, rows], right F32 [K, columns].

A row for each direction, so that the first few of them lie together.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import numpy.typing as npt

from spectra.spectrum.cache.entry_file import EntryHeader, EntryKind, encode_entry, read_arrays, read_tensors

if TYPE_CHECKING:
    from spectra.spectrum.partial import PartialSpectrum


def _shapes(header: EntryHeader) -> Mapping[str, tuple[int, ...]]:
    rows, columns = header.matrix_shape
    (known,) = header.tensors["sigma"].shape
    errors = [float(header.facts[fact]) for fact in ("residual", "orthogonality")]
    if not 0 < known <= min(rows, columns) or not all(math.isfinite(e) and e >= 0 for e in errors):
        raise ValueError("facts and shapes do not belong together")
    if header.facts["from_full"] not in ("yes", "no"):
        raise ValueError("from_full is neither yes nor no")
    return {"sigma": (known,), "left": (known, rows), "right": (known, columns)}


LEADING = EntryKind(
    format="spectra-leading-directions",
    version="1",
    folder="leading-v1",
    dtypes={"sigma": "float64", "left": "float32", "right": "float32"},
    facts=("residual", "orthogonality", "from_full"),
    shapes=_shapes,
)


class LeadingVectors(NamedTuple):
    """Leading directions in numpy: left float32 `[rows, K]`, sigma float64 `[K]`, right float32 `[columns, K]`."""

    left: npt.NDArray[np.float32]
    sigma: npt.NDArray[np.float64]
    right: npt.NDArray[np.float32]


def encode_leading(spectrum: PartialSpectrum, fingerprint: str) -> bytes:
    """The whole file of leading directions on any device."""
    arrays = {
        "sigma": spectrum.sigma.cpu().contiguous().numpy(),
        "left": spectrum.left.T.cpu().contiguous().numpy(),
        "right": spectrum.right.T.cpu().contiguous().numpy(),
    }
    facts = {
        "residual": repr(spectrum.residual),
        "orthogonality": repr(spectrum.orthogonality),
        "from_full": "yes" if spectrum.from_full else "no",
    }
    return encode_entry(LEADING, EntryHeader(fingerprint, spectrum.shape, facts, {}, {}), arrays)


def read_vectors(path: Path, directions: int) -> LeadingVectors | None:
    """The first directions of an entry, verified, without torch; None if it has fewer, though the weight has more.

    Raises as `read_arrays`.
    """
    header, _ = read_arrays(LEADING, path)
    if known_directions(header) < min(directions, *header.matrix_shape):
        return None
    _, found = read_arrays(LEADING, path, *LEADING.dtypes)
    return LeadingVectors(found["left"][:directions].T, found["sigma"][:directions], found["right"][:directions].T)


def read_partial(path: Path) -> PartialSpectrum:
    """The verified leading directions; raises as `read_arrays`."""
    from spectra.spectrum.partial import PartialSpectrum

    header, tensors = read_tensors(LEADING, path)
    return PartialSpectrum(
        left=tensors["left"].T,
        right=tensors["right"].T,
        sigma=tensors["sigma"],
        shape=header.shape,
        residual=float(header.facts["residual"]),
        orthogonality=float(header.facts["orthogonality"]),
        from_full=header.facts["from_full"] == "yes",
        fingerprint=header.fingerprint,
    )


def known_directions(header: EntryHeader) -> int:
    """Directions that an entry holds."""
    return int(header.tensors["sigma"].shape[0])
