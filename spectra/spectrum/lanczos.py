"""Block Lanczos: the leading eigenvectors of a symmetric matrix, without the others."""

from __future__ import annotations

import torch
from torch import Tensor

_BLOCK = 8
"""Vectors that are multiplied at once. More use the processor better, and need more products in all."""

_EXHAUSTED = 1e-6
"""Of the largest eigenvalue, how little a new direction may hold before the matrix has no more to give."""


def leading_eigenvectors(gram: Tensor, wanted: int, tolerance: float, known: Tensor | None = None) -> Tensor | None:
    """Leading eigenvectors of a symmetric matrix that has no negative eigenvalues, orthonormal to its precision.

    The basis is kept whole and each new block is made orthogonal to all of it, twice. The start is fixed. Vectors are
    rows throughout: few rows times a matrix is the product that BLAS takes quickest.

    Args:
        gram: `[r, r]`.
        wanted: how many, `K`.
        tolerance: of `||G q - theta q||` over the root of theta and of the largest eigenvalue: for `G = A A^T`, that of
            `||A v - sigma q||` over the largest sigma.
        known: `[k, r]`, `k < K`, the first `k` of them; the others are sought beside these.

    Returns:
        `[K, r]`; None if the basis grew to most of the space before they were found.
    """
    r = gram.shape[0]
    locked = 0 if known is None else known.shape[0]
    missing, limit = wanted - locked, r * 5 // 8 // _BLOCK * _BLOCK
    basis = gram.new_empty(locked + limit, r)
    if known is not None:
        basis[:locked] = known
    projected = gram.new_zeros(limit + _BLOCK, limit + _BLOCK)
    generator = torch.Generator().manual_seed(r)
    block, _ = _orthonormal(torch.randn(_BLOCK, r, generator=generator).to(gram), basis[:locked])
    check = missing + (12 + missing // 4) * _BLOCK
    for size in range(_BLOCK, limit + 1, _BLOCK):
        here = slice(size - _BLOCK, size)
        basis[locked + size - _BLOCK : locked + size] = block
        product = block @ gram
        projected[here, here] = product @ block.T
        block, coupling = _orthonormal(product, basis[: locked + size])
        if float(coupling.diagonal().abs().min()) < _EXHAUSTED * float(projected[0, 0]):
            return None
        projected[size : size + _BLOCK, here] = coupling
        if size < min(check, limit):
            continue
        values, vectors = torch.linalg.eigh(projected[:size, :size])
        theta, chosen = values[-missing:].clamp_min(0), vectors[:, -missing:]
        residual = (coupling @ chosen[-_BLOCK:]).norm(dim=0)
        if bool((residual <= tolerance * (theta * theta[-1]).sqrt()).all()):
            found = chosen.T @ basis[locked : locked + size]
            return found if known is None else torch.cat([known, found])
        check = size + 4 * _BLOCK
    return None


def _orthonormal(x: Tensor, basis: Tensor) -> tuple[Tensor, Tensor]:
    """Orthonormal rows of what `x` adds to the basis, and the triangular factor of its transpose."""
    x = x - (x @ basis.T) @ basis
    block, factor = torch.linalg.qr(x.T)
    # Once more: what little `x` added has been blown up by the division, and its rounding with it.
    block = block - basis.T @ (basis @ block)
    block, again = torch.linalg.qr(block)
    return block.T.contiguous(), again @ factor
