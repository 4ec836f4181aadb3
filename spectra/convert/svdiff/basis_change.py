"""A shift carried between our singular vectors and those another code computed of the same weight.

Both decompose `W = U diag(sigma) V^T`; ours in float64 in a canonical way, theirs with `torch.linalg.svd` in float32.
Where singular values are well apart, direction i is direction i up to a sign, which cancels. Where they nearly agree,
the vectors are mixed, or their order differs, and then `delta_i` of one is not `delta_i` of the other. So a shift is
carried over as the matrix it stands for:

    D = U' diag(delta') V'^T        delta_i = u_i^T D v_i

which is the closest shift (docs/algebra.md, section 5), and what it does not reach is measured.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from spectra.convert.closest_shift import delta_weight, project
from spectra.spectrum.shifted_weight import singular_value_change
from spectra.spectrum.spectrum import Spectrum, matrix

Reshape = Literal["first-dim", "channels-last"]
"""How a convolution `[co, ci, kh, kw]` becomes a matrix: `co x (ci kh kw)`, ours, or `(co kh kw) x ci`."""


@dataclass(frozen=True, eq=False)
class Basis:
    """The singular vectors and values that other code has of one weight, float32.

    Attributes:
        u: `[rows, r]`.
        sigma: `[r]`, descending.
        vt: `[r, columns]`.
        restore: makes a matrix of its layout one of ours.
    """

    u: Tensor
    sigma: Tensor
    vt: Tensor
    restore: Callable[[Tensor], Tensor] | None = None

    def product(self, d: Tensor) -> Tensor:
        """`U diag(d) V^T` as a matrix of our layout."""
        made = (self.u * d.to(self.u)) @ self.vt
        return made if self.restore is None else self.restore(made)

    def coordinates(self, d: Tensor) -> Tensor:
        """`u_i^T D v_i` of each direction, `[r]`, of a matrix `D` of our layout; only of a basis in it."""
        return ((self.u.T @ d) * self.vt).sum(1)


@dataclass(frozen=True)
class Carried:
    """One weight's delta in other vectors.

    Attributes:
        delta: float32 `[r]`.
        energy: `||Delta W||^2` of what it was.
        lost: `||Delta W of what it is now - Delta W of what it was||^2`.
    """

    delta: Tensor
    energy: float
    lost: float


def from_foreign(delta: Tensor, theirs: Basis, weight: Tensor, spectrum: Spectrum) -> Carried:
    """Their delta in our vectors.

    Two bases of one layout have nearly the same vectors, and then a direction that is clipped stays as far below zero
    as it was, which matters at a smaller scale. In another layout only the change itself means anything.
    """
    exact = theirs.product(singular_value_change(theirs.sigma, delta))
    ours = project(exact if theirs.restore else theirs.product(delta), weight, spectrum)
    reached = delta_weight(weight, spectrum, singular_value_change(spectrum.sigma, ours))
    return _carried(ours, exact, reached)


def to_foreign(delta: Tensor, weight: Tensor, spectrum: Spectrum, theirs: Basis) -> Carried:
    """Our delta in their vectors, of the same layout."""
    wide = delta.to(torch.float64)
    exact = delta_weight(weight, spectrum, singular_value_change(spectrum.sigma, wide))
    found = theirs.coordinates(delta_weight(weight, spectrum, wide))
    return _carried(found, exact, theirs.product(singular_value_change(theirs.sigma, found)))


def norm_from_foreign(factor: Tensor, theirs: Basis) -> Carried:
    """What is added to a norm `[n]` by one factor `[1]` of its vector."""
    added = theirs.product(singular_value_change(theirs.sigma, factor))[0]
    return _carried(added, added, added)


def norm_to_foreign(delta: Tensor, theirs: Basis) -> Carried:
    """The one factor of a norm that is closest to a delta `[n]` added to it."""
    factor = theirs.coordinates(delta[None])
    return _carried(factor, delta, theirs.product(singular_value_change(theirs.sigma, factor))[0])


def _carried(delta: Tensor, exact: Tensor, reached: Tensor) -> Carried:
    return Carried(delta.to(torch.float32), float(exact.norm()) ** 2, float((reached - exact).norm()) ** 2)


def plain_basis(weight: Tensor, reshape: Reshape = "first-dim") -> Basis:
    """That of `torch.linalg.svd` in float32, as the paper's plain code has it; of a 1-D weight, that of `[1, n]`."""
    w = weight.detach().to(torch.float32)
    if w.ndim == 1:
        return Basis(*torch.linalg.svd(w[None], full_matrices=False))
    if reshape == "first-dim" or math.prod(w.shape[2:]) == 1:
        return Basis(*torch.linalg.svd(matrix(w), full_matrices=False))
    last = w.movedim(1, -1)
    u, sigma, vt = torch.linalg.svd(last.reshape(-1, w.shape[1]), full_matrices=False)
    return Basis(u, sigma, vt, lambda m: matrix(m.reshape(last.shape).movedim(-1, 1)))
