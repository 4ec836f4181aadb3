"""Computes spectra in float64, from the eigenvectors of the smaller Gram matrix (docs/algebra.md)."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from spectra.errors import WeightError
from spectra.spectrum.spectrum import Side, Spectrum, matrix

TAIL_THRESHOLD = 1 / 5
"""Directions with `sigma <= TAIL_THRESHOLD * rms(sigma)` carry their other side explicitly (docs/algebra.md)."""

_SAFE_EXPONENT = 300
"""Squares of values below 2**300 and above 2**-300, and their sums, are ordinary float64 numbers."""

_GRAM_BLOCK, _PANEL = 160, 2048
"""Rows and columns of the products that a Gram matrix is summed of."""

_SIGN_TIE = 1e-6
"""Entries of a basis vector within this fraction of its largest count as equally large."""


def decompose(weight: Tensor, *, name: str = "weight") -> Spectrum:
    """The spectrum of a weight, computed in float64 on the weight's own device.

    The basis comes from the symmetric eigenproblem of the smaller Gram matrix. That squares the condition number, so
    the small directions are found again, from the weight projected onto their span: sigma is then accurate relative
    to itself, not only to the largest one.

    Args:
        weight: floating point, any shape of two or more dimensions (Linear, Conv, ConvTranspose, Embedding).
        name: how errors call it.

    Returns:
        A canonical spectrum: sigma descending, and each basis vector's entry of largest magnitude positive.

    Raises:
        WeightError: fewer than two dimensions, no floating point of 16 bits or more, on the meta device, or not finite.
    """
    check_weight(weight, name)
    home = weight.device
    # Apple's GPU has no float64: the work is done on the CPU there.
    w = matrix(weight.detach().to("cpu" if home.type == "mps" else home))
    rows, columns = w.shape
    side: Side = "left" if rows <= columns else "right"
    a = w if side == "left" else w.T  # from here on `a` is [r, m] with r <= m
    exponent = peak_exponent(w, name)
    if abs(exponent) <= _SAFE_EXPONENT:
        exponent = 0
    if (
        exponent
    ):  # only float64 weights: the Gram matrix must neither overflow nor underflow; mantissas stay as they are
        a = torch.ldexp(a.to(torch.float64), torch.tensor(-exponent, device=a.device))

    q, sigma, v = _eigenbasis(a)
    sign = canonical_signs(q)
    q, v = q * sign, v * sign[sign.shape[0] - v.shape[1] :]
    if exponent:
        sigma = torch.ldexp(sigma, torch.tensor(exponent, device=a.device))
    return Spectrum(
        side=side,
        basis=q.to(torch.float32).contiguous(),
        sigma=sigma.contiguous(),
        tail=v.T.to(torch.float32).contiguous(),
        shape=tuple(weight.shape),
    )


def check_weight(weight: Tensor, name: str) -> None:
    """Raises `WeightError` for a weight that has no spectrum, but for values that are not finite."""
    if weight.ndim < 2:
        raise WeightError(
            f"{name}: a spectrum needs two or more dimensions, got shape {tuple(weight.shape)}; "
            "a 1-D weight takes a plain vector shift"
        )
    if not weight.dtype.is_floating_point or weight.dtype.itemsize < 2:
        raise WeightError(
            f"{name}: expected a floating-point weight of 16 bits or more, got {weight.dtype}; "
            "load the base unquantised"
        )
    if weight.device.type == "meta":
        raise WeightError(f"{name}: the weight is on the meta device and has no values; load the base first")


def peak_exponent(w: Tensor, name: str) -> int:
    """The power of two just above the largest magnitude in `w`, 0 if there is none. NaN and infinity are refused."""
    if w.numel() == 0:
        return 0
    low, high = torch.aminmax(w)
    peak = max(-float(low), float(high))
    if not math.isfinite(peak):
        bad = int((~torch.isfinite(w)).sum())
        raise WeightError(f"{name}: {bad} of {w.numel()} values are not finite; the base file is damaged")
    return math.frexp(peak)[1]


def _eigenbasis(a: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Left vectors `q [r, r]` and `sigma [r]` of `a [r, m]`, and right vectors `v [m, k]` of the k smallest."""
    r, m = a.shape
    if m <= _PANEL:
        a = a.to(torch.float64)
    none = a.new_zeros(m, 0, dtype=torch.float64)
    if r == 0:
        return none.new_zeros(0, 0), none.new_zeros(0), none
    gram = gram_matrix(a)
    values, q = torch.linalg.eigh(gram)
    q = q.flip(1)
    sigma = values.flip(0).clamp_min(0).sqrt()
    rms = gram.diagonal().mean().sqrt()
    k = int((sigma <= TAIL_THRESHOLD * rms).sum())
    if k == 0:
        return q, sigma, none
    a = a.to(torch.float64)
    # The span of the small directions is well determined even where the directions within it are not.
    small = q[:, r - k :]
    projected = small.T @ a
    large, large_sigma = q[:, : r - k], sigma[: r - k]
    u, small_sigma, v = _narrow_svd(projected)
    eps = torch.finfo(a.dtype).eps
    if k < r and small_sigma[-1] * torch.finfo(torch.float32).eps < eps * sigma[0].square() / large_sigma[-1]:
        # The eigenvectors mix that much of a large direction into a small one: nothing, but beside a tiny sigma. It
        # is removed on the right: minus the projection on the right vectors of the large, a^T large / large_sigma.
        projected -= ((projected @ a.T @ large) / large_sigma.square() @ large.T) @ a
        u, small_sigma, v = _narrow_svd(projected)
    noise = eps * m * sigma[0]
    solid = int((small_sigma > noise).sum())
    if solid < k:
        v = _complete(a.T @ large, v[:, :solid], k - solid)
    if k < r:
        small_sigma = small_sigma.clamp_max(large_sigma[-1])
    return torch.cat([large, small @ u], dim=1), torch.cat([large_sigma, small_sigma]), v


def gram_matrix(a: Tensor, dtype: torch.dtype = torch.float64, *, whole: bool = False) -> Tensor:
    """`a @ a.T` on and below the diagonal, which is all that `eigh` reads; the blocks above stay zero, unless `whole`.

    Panel by panel: a wide weight then never stands in memory in float64.
    """
    r, m = a.shape
    gram = a.new_zeros(r, r, dtype=dtype)
    for left in range(0, m, _PANEL):
        panel = a[:, left : left + _PANEL].to(dtype)
        for start in range(0, r, _GRAM_BLOCK):
            stop = min(start + _GRAM_BLOCK, r)
            gram[start:stop, :stop].addmm_(panel[start:stop], panel[:stop].T)
    for start in range(0, r if whole else 0, _GRAM_BLOCK):
        gram[:start, start : start + _GRAM_BLOCK] = gram[start : start + _GRAM_BLOCK, :start].T
    return gram


def _narrow_svd(b: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """SVD of a wide `b [k, m]`, as `u [k, k]`, `sigma [k]`, `v [m, k]`, through the QR of its transpose."""
    frame, triangle = torch.linalg.qr(b.T)
    u, sigma, vt = torch.linalg.svd(triangle.T)
    return u, sigma, frame @ vt.T


def _complete(large: Tensor, solid: Tensor, missing: int) -> Tensor:
    """`solid [m, s]` and `missing` more columns, orthonormal to it and to the columns of `large [m, h]`.

    A direction of W that has no singular value has no right vector either: any orthonormal one serves, and taking
    the projections of the first unit vectors that are left makes the choice the same everywhere.
    """
    m = large.shape[0]
    known, _ = torch.linalg.qr(torch.cat([large, solid], dim=1))
    units = torch.eye(m, min(m, known.shape[1] + missing), dtype=large.dtype, device=large.device)
    rest = units - known @ (known.T @ units)
    left, _, _ = torch.linalg.svd(rest, full_matrices=False)
    return torch.cat([solid, left[:, :missing]], dim=1)


def canonical_signs(q: Tensor) -> Tensor:
    """+1 or -1 per column, so that each column's entry of largest magnitude becomes positive (the first, on a tie)."""
    if q.numel() == 0:
        return q.new_ones(q.shape[1])
    size = q.abs()
    # Entries of equal size differ in their last bits from machine to machine: the first of them is taken.
    nearly = size >= size.amax(dim=0) * (1 - _SIGN_TIE)
    picked = q.gather(0, nearly.to(torch.uint8).argmax(dim=0, keepdim=True)).squeeze(0)
    return torch.where(picked < 0, -1.0, 1.0).to(q.dtype)
