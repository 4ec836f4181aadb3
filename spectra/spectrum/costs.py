"""What decompositions cost, from a weight's shape: bytes of the cache's entry, and floating-point operations.

An entry of leading directions is counted to the byte. A whole spectrum's tail depends on the weight's values, so that
its bytes are estimated (`placeholders.TYPICAL_TAIL`). Operations are those of docs/algebra.md, sections 1 and 3; how
large a basis the search for leading directions needs is what it was measured to be on trained weights.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

from spectra.spectrum.cache.entry import FULL
from spectra.spectrum.cache.entry_file import EntryHeader, entry_bytes
from spectra.spectrum.cache.leading_entry import LEADING

FLOPS_PER_SECOND = 20e9
"""Of one core: the median over SDXL's and FLUX.1's large matrices, in full and 64 leading directions of each
(`spectra bench decompose --set directions=64`, one thread of an AMD EPYC)."""

_ERRORS = {"residual": repr(1 / 3e6), "orthogonality": repr(1 / 3e7), "from_full": "no"}


def stored_bytes(shape: Sequence[int], directions: int | None) -> int:
    """Bytes of the cache's file for a weight of `shape`; `directions` is None for all of them, 0 for none."""
    if directions == 0:
        return 0
    rows, columns = _matrix(shape)
    r, m = min(rows, columns), max(rows, columns)
    if directions is None:
        from spectra.spectrum.placeholders import typical_tail

        tail = typical_tail(rows, columns)
        header = EntryHeader("0" * 64, tuple(shape), {"side": "left"}, {}, {})
        return entry_bytes(FULL, header, {"sigma": (r,), "basis": (r, r), "tail": (tail, m)})
    k = min(directions, r)
    header = EntryHeader("0" * 64, tuple(shape), _ERRORS, {}, {})
    return entry_bytes(LEADING, header, {"sigma": (k,), "left": (k, rows), "right": (k, columns)})


def decomposition_flops(shape: Sequence[int], directions: int | None) -> int:
    """Operations of decomposing a weight of `shape`; `directions` as for `stored_bytes`."""
    from spectra.spectrum.lanczos import BLOCK
    from spectra.spectrum.leading import SHARE

    if directions == 0:
        return 0
    rows, columns = _matrix(shape)
    r, m = min(rows, columns), max(rows, columns)
    in_full = r * r * m + 9 * r**3
    if directions is None or directions > r // SHARE:
        return in_full
    basis = directions + (10 + directions // 5) * BLOCK
    search = min(4 * r * m * basis, r * r * m + 2 * r * r * basis)
    return search + 16 * r * m


def _matrix(shape: Sequence[int]) -> tuple[int, int]:
    return shape[0], math.prod(shape[1:])
