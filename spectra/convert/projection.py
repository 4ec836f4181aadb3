"""A change of a weight in its singular vectors: what it is along them, and the change that some of them make.

    c_i = u_i^T D v_i        Delta W = U diag(d) V^T

Both take a whole spectrum, of which one side follows from the weight, or the leading directions with both sides.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TypeAlias

import torch
from torch import Tensor

from spectra.spectrum.partial import PartialSpectrum
from spectra.spectrum.spectrum import Spectrum, matrix, other_side

AnySpectrum: TypeAlias = Spectrum | PartialSpectrum

_PANEL = 1024
"""Columns of a matrix that are in float64 at once."""


def panels(columns: int) -> Iterator[slice]:
    """Slices that cover so many columns, a few at a time: a wide matrix then never stands in float64."""
    return (slice(start, start + _PANEL) for start in range(0, columns, _PANEL))


def singular_vectors(weight: Tensor, spectrum: AnySpectrum, directions: Tensor) -> tuple[Tensor, Tensor]:
    """Left `[n, rows]` and right `[n, columns]` singular vectors of some directions, `[n]`, float64."""
    if isinstance(spectrum, PartialSpectrum):
        return spectrum.left[:, directions].T.to(torch.float64), spectrum.right[:, directions].T.to(torch.float64)
    stored, other = spectrum.basis[:, directions].T.to(torch.float64), other_side(weight, spectrum, directions)
    return (stored, other) if spectrum.side == "left" else (other, stored)


def project(change: Tensor, weight: Tensor, spectrum: AnySpectrum) -> Tensor:
    """Project a change on a weight's singular vectors: `u_i^T D v_i` of each direction of the spectrum, float64.

    With `Q` on the smaller side, `v_i = W^T u_i / sigma_i` makes it `q_i^T (D W^T) q_i / sigma_i` where one side
    is stored (likewise on the right); the tail has both sides, and so have leading directions.
    """
    if isinstance(spectrum, PartialSpectrum):
        d, found = matrix(change), spectrum.sigma.new_zeros(spectrum.directions)
        left = spectrum.left.to(torch.float64)
        for part in panels(d.shape[1]):
            found += ((left.T @ d[:, part].to(torch.float64)) * spectrum.right[part].T).sum(1)
        return found
    d, w = _short_side_first(change, spectrum), _short_side_first(weight, spectrum)
    one_sided, basis = spectrum.one_sided, spectrum.basis.to(torch.float64)
    product = basis.new_zeros(spectrum.rank, spectrum.rank)
    tail = basis.new_zeros(spectrum.rank - one_sided)
    for part in panels(d.shape[1]):
        panel = d[:, part].to(torch.float64)
        product.addmm_(panel, w[:, part].to(torch.float64).T)
        tail += ((basis[:, one_sided:].T @ panel) * spectrum.tail[:, part]).sum(1)
    stored = basis[:, :one_sided]
    return torch.cat([(stored * (product @ stored)).sum(0) / spectrum.sigma[:one_sided], tail])


def delta_weight(weight: Tensor, spectrum: AnySpectrum, d: Tensor) -> Tensor:
    """`Delta W = U diag(d) V^T` as the weight's matrix, float32, from `d`, float64 `[directions]`; rounded once."""
    if isinstance(spectrum, PartialSpectrum):
        left, right = spectrum.left.to(torch.float64) * d, spectrum.right
        parts = [(left @ right[part].T.to(torch.float64)).to(torch.float32) for part in panels(len(right))]
        return torch.cat(parts, dim=1)
    w, one_sided, basis = _short_side_first(weight, spectrum), spectrum.one_sided, spectrum.basis.to(torch.float64)
    stored = basis[:, :one_sided]
    inside = (stored * (d[:one_sided] / spectrum.sigma[:one_sided])) @ stored.T
    outside = basis[:, one_sided:] * d[one_sided:]
    parts = [
        (inside @ w[:, part].to(torch.float64) + outside @ spectrum.tail[:, part].to(torch.float64)).to(torch.float32)
        for part in panels(w.shape[1])
    ]
    made = torch.cat(parts, dim=1)
    return made if spectrum.side == "left" else made.T


def _short_side_first(weight: Tensor, spectrum: Spectrum) -> Tensor:
    """The matrix with its smaller side first: `[r, m]`."""
    w = matrix(weight)
    return w if spectrum.side == "left" else w.T
