"""A shift carried between our singular vectors and those another code computed of the same weight.

Both decompose `W = U diag(sigma) V^T`; ours in float64 in a canonical way, theirs with `torch.linalg.svd` in float32.
Where singular values are well apart, direction i is direction i up to a sign, which cancels. Where they nearly agree,
the vectors are mixed, or their order differs, and then `delta_i` of one is not `delta_i` of the other. So a shift is
carried over as the matrix it stands for:

    D = U' diag(delta') V'^T        delta_i = u_i^T D v_i

which is the closest shift (docs/algebra.md, section 5), and what it does not reach is measured. Each function returns
the new delta, float32 `[r]`, with what it captures of the change that the old one makes.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from spectra.convert.closest_shift import Captured
from spectra.convert.projection import AnySpectrum, delta_weight, project
from spectra.convert.weight_change import WeightShift
from spectra.spectrum.shifted_weight import singular_value_change
from spectra.spectrum.spectrum import Spectrum, matrix

Reshape = Literal["first-dim", "channels-last"]
"""How a convolution `[co, ci, kh, kw]` becomes a matrix: `co x (ci kh kw)`, ours, or `(co kh kw) x ci`."""


@dataclass(frozen=True, eq=False)
class PlainBasis:
    """The singular vectors and values that the paper's plain code has of one weight, float32.

    Attributes:
        u: `[rows, r]`.
        sigma: `[r]`, descending.
        vt: `[r, columns]`.
        to_our_layout: makes a matrix of its layout one of ours; None if the layouts are the same.
    """

    u: Tensor
    sigma: Tensor
    vt: Tensor
    to_our_layout: Callable[[Tensor], Tensor] | None = None

    @classmethod
    def of(cls, weight: Tensor, reshape: Reshape = "first-dim") -> PlainBasis:
        """The basis that `torch.linalg.svd` gives in float32; for a 1-D weight, that of `[1, n]`."""
        w = weight.detach().to(torch.float32)
        if w.ndim == 1:
            return cls(*torch.linalg.svd(w[None], full_matrices=False))
        if reshape == "first-dim" or math.prod(w.shape[2:]) == 1:
            return cls(*torch.linalg.svd(matrix(w), full_matrices=False))
        last = w.movedim(1, -1)
        u, sigma, vt = torch.linalg.svd(last.reshape(-1, w.shape[1]), full_matrices=False)
        return cls(u, sigma, vt, lambda m: matrix(m.reshape(last.shape).movedim(-1, 1)))

    def product(self, d: Tensor) -> Tensor:
        """`U diag(d) V^T` as a matrix of our layout."""
        made = (self.u * d.to(self.u)) @ self.vt
        return made if self.to_our_layout is None else self.to_our_layout(made)

    def coordinates(self, d: Tensor) -> Tensor:
        """`u_i^T D v_i` of each direction, `[r]`, of a matrix `D`; only for a basis in our layout."""
        return ((self.u.T @ d.to(self.u)) * self.vt).sum(1)


def from_foreign(
    name: str, delta: Tensor, theirs: PlainBasis, weight: Tensor, spectrum: Spectrum | None
) -> tuple[Tensor, Captured]:
    """Express a delta of other code in our singular vectors; a norm, which has no spectrum, has one factor there.

    Two bases of one layout have nearly the same vectors, and then a direction that is clipped stays as far below zero
    as it was, which matters at a smaller scale. In another layout only the change itself means anything.
    """
    exact = theirs.product(singular_value_change(theirs.sigma, delta))
    if spectrum is None:
        return _captured(name, exact[0], exact[0], exact[0])
    ours = project(exact if theirs.to_our_layout else theirs.product(delta), weight, spectrum)
    return _captured(name, ours, exact, delta_weight(weight, spectrum, singular_value_change(spectrum.sigma, ours)))


def to_foreign(
    part: WeightShift, theirs: PlainBasis, weight: Tensor, spectrum: AnySpectrum | None
) -> tuple[Tensor, Captured]:
    """Express our delta in the singular vectors of other code, which has our layout; a norm's as one factor."""
    exact = part.change(weight, spectrum)
    if weight.ndim == 1:
        factor = theirs.coordinates(exact[None])
        return _captured(part.name, factor, exact, theirs.product(singular_value_change(theirs.sigma, factor))[0])
    unclipped = exact if spectrum is None else delta_weight(weight, spectrum, part.delta[: len(spectrum.sigma)])
    found = theirs.coordinates(unclipped)
    return _captured(part.name, found, exact, theirs.product(singular_value_change(theirs.sigma, found)))


def _captured(name: str, delta: Tensor, exact: Tensor, reached: Tensor) -> tuple[Tensor, Captured]:
    lost = float((reached - exact).norm()) ** 2
    return delta.to(torch.float32), Captured(name, float(exact.norm()) ** 2, lost)
