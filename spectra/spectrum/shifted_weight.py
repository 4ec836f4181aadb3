"""A frozen weight with a shift, as plain functions of tensors: `U diag(ReLU(sigma + delta)) V^T`, and `w + delta`."""

from __future__ import annotations

import torch
from torch import Tensor

from spectra import kernels
from spectra.io.dtypes import computing_dtype
from spectra.spectrum.spectrum import Side, Spectrum, matrix


def singular_value_change(sigma: Tensor, delta: Tensor) -> Tensor:
    """`ReLU(sigma + delta) - sigma`, `[r]`, without the cancellation, and with ReLU's gradient (0 where it clips)."""
    return torch.where(sigma + delta > 0, delta, -sigma)


def shifted_weight(weight: Tensor, spectrum: Spectrum, delta: Tensor) -> Tensor:
    """`U diag(ReLU(sigma + delta)) V^T` in the shape and dtype of `weight`, rounded once from float32 or wider.

    Args:
        weight: the frozen weight that `spectrum` was made of.
        delta: `[r]`. All zeros give `weight` itself.

    Differentiable in `delta`, through the weight: the plans do better, this is for inference and rare layers.
    """
    if not delta.requires_grad and not bool(delta.any()):
        return weight
    dtype = computing_dtype(weight.dtype)
    sigma, basis, tail = (v.to(weight.device, dtype) for v in (spectrum.sigma, spectrum.basis, spectrum.tail))
    d, one_sided, other_side = singular_value_change(sigma, delta.to(dtype)), spectrum.one_sided, tail.T
    stored_side = basis[:, one_sided:]
    left, right = (stored_side, other_side) if spectrum.side == "left" else (other_side, stored_side)
    shifted = shifted_matrix(matrix(weight).to(dtype), (basis[:, :one_sided], left, right), sigma, d, spectrum.side)
    return shifted.reshape(weight.shape).to(weight.dtype)


def shifted_matrix(w: Tensor, vectors: tuple[Tensor, Tensor, Tensor], sigma: Tensor, d: Tensor, side: Side) -> Tensor:
    """`W + Q diag(d / sigma) Q^T W + U diag(d) V^T`, or with the middle term on the right; differentiable in `d`.

    Args:
        w: `W [rows, columns]`.
        vectors: `Q [r, h]`, of the first `h` directions and of `side`, and `U [rows, r - h]` and `V [columns, r - h]`
            of the others.
        sigma: `[r]`.
        d: change of each singular value, `[r]`, or `[shifts, r]` with `h = 0` for as many matrices.
        side: that `Q` is of.
    """
    basis, left, right = vectors
    one_sided, on_rows = basis.shape[1], side == "left"
    if one_sided:
        w = kernels.rebuild(w, basis, d[:one_sided] / sigma[:one_sided], left=on_rows)
    if one_sided == d.shape[-1]:
        return w
    # The long side takes d: its gradient is then summed over that side pairwise, not in one long product.
    d = d[..., None, one_sided:]
    return w + (left @ (right * d).to(w.dtype).mT if on_rows else (left * d).to(w.dtype) @ right.T)


def shifted_vector(weight: Tensor, delta: Tensor) -> Tensor:
    """`w + delta` in the dtype of `weight`, rounded once."""
    return (weight + delta).to(weight.dtype)


def with_full_tail(spectrum: Spectrum, weight: Tensor) -> Spectrum:
    """A spectrum with the other side of every direction explicit, none left to follow from the weight."""
    w, one_sided = matrix(weight.detach()).to(torch.float64), spectrum.one_sided
    basis = spectrum.basis[:, :one_sided].to(torch.float64)
    # In this order, a row for each direction, the product takes two thirds of the time of its transpose.
    new = (basis.T @ (w if spectrum.side == "left" else w.T)).div_(spectrum.sigma[:one_sided, None])
    tail = torch.cat([new.to(spectrum.tail.dtype), spectrum.tail])
    return Spectrum(spectrum.side, spectrum.basis, spectrum.sigma, tail, spectrum.shape)
