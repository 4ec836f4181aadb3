"""Block Lanczos: the leading singular vectors of one side of a matrix, without the others."""

from __future__ import annotations

import torch
from torch import Tensor

from spectra.spectrum.decomposition import gram_matrix

BLOCK = 12
"""Vectors that are multiplied at once. More use the processor better, and need more products in all. Of directions that
share a singular value, no more than so many are found.
"""

_SPEED_UP = 2
"""How many times quicker a product of two large matrices goes than one of a block and a matrix."""

_EXHAUSTED = 1e-6
"""Beside `||A^T q||^2` of the first vector q, how little a new one may add before the matrix has no more to give."""


def leading_left_vectors(a: Tensor, wanted: int, tolerance: float, known: Tensor | None = None) -> Tensor | None:
    """Left singular vectors of a matrix's largest singular values, orthonormal to its precision, as rows.

    The basis is kept whole, and each new block is made orthogonal to all of it. The start is fixed. Vectors are rows
    throughout: few rows times a matrix is the product that BLAS takes quickest.

    Args:
        a: `[r, m]`, r <= m.
        wanted: how many, `K`.
        tolerance: of `||A v - sigma u||` over the largest sigma.
        known: `[k, r]`, `k < K`, the first `k` of them; the others are sought beside these.

    Returns:
        `[K, r]`; None if the basis grew to most of the space before they were found.
    """
    r, m = a.shape
    locked = 0 if known is None else known.shape[0]
    missing, limit = wanted - locked, r * 3 // 4 // BLOCK * BLOCK
    check = min(missing + (10 + missing // 5) * BLOCK, limit)
    gram = None
    if r * m / (2 * _SPEED_UP) + r * check < 2 * m * check:
        gram = gram_matrix(a, a.dtype, whole=True)
    basis = a.new_empty(locked + limit, r)
    if known is not None:
        basis[:locked] = known
    projected = a.new_zeros(limit + BLOCK, limit + BLOCK)
    generator = torch.Generator().manual_seed(r)
    block, _ = _orthonormal(torch.randn(BLOCK, r, generator=generator).to(a), basis[:locked])
    for size in range(BLOCK, limit + 1, BLOCK):
        here = slice(size - BLOCK, size)
        basis[locked + size - BLOCK : locked + size] = block
        product = block @ a @ a.T if gram is None else block @ gram
        projected[here, here] = product @ block.T
        block, coupling = _orthonormal(product, basis[: locked + size])
        if float(coupling.diagonal().abs().min()) < _EXHAUSTED * float(projected[0, 0]):
            return None
        projected[size : size + BLOCK, here] = coupling
        if size < check:
            continue
        values, vectors = torch.linalg.eigh(projected[:size, :size])
        squares, chosen = values[-missing:].clamp_min(0), vectors[:, -missing:]
        # With v = A^T u / sigma, A v - sigma u is what A A^T u - sigma^2 u is, over sigma.
        residual = (coupling @ chosen[-BLOCK:]).norm(dim=0)
        if bool((residual <= tolerance * (squares * squares[-1]).sqrt()).all()):
            found = chosen.T @ basis[locked : locked + size]
            return found if known is None else torch.cat([known, found])
        check = min(size + 2 * BLOCK, limit)
    return None


def _orthonormal(x: Tensor, basis: Tensor) -> tuple[Tensor, Tensor]:
    """Orthonormal rows of what `x` adds to the basis, and the triangular factor of its transpose."""
    # First against the latest alone, where nearly all of it lies, then against all.
    for known in (basis[-2 * BLOCK :], basis):
        x = x - (x @ known.T) @ known
    block, factor = torch.linalg.qr(x.T)
    return block.T.contiguous(), factor
