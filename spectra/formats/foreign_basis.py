"""A shift carried between our singular vectors and those another code computed of the same weight.

Both decompose `W = U diag(sigma) V^T`; ours in float64 in a canonical way, theirs with `torch.linalg.svd` in float32.
Where singular values are well apart, direction i is direction i up to a sign, which cancels. Where they nearly agree,
the vectors are mixed, or their order differs, and then `delta_i` of one is not `delta_i` of the other. So a shift is
carried over as the matrix it stands for:

    D = U' diag(delta') V'^T        delta_i = u_i^T D v_i

which is the closest shift (docs/algebra.md, section 5), and what it does not reach is measured.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from spectra.layers import change
from spectra.spectrum import Spectrum, matrix, opposite

Reshape = Literal["first-dim", "channels-last"]
"""How a convolution `[co, ci, kh, kw]` becomes a matrix: `co x (ci kh kw)`, ours, or `(co kh kw) x ci`."""


@dataclass(frozen=True, eq=False)
class Basis:
    """The singular vectors and values of one weight, float32.

    Attributes:
        u: `[rows, r]`.
        sigma: `[r]`, descending.
        vt: `[r, columns]`.
        restore: makes a matrix of this layout one of ours.
    """

    u: Tensor
    sigma: Tensor
    vt: Tensor
    restore: Callable[[Tensor], Tensor] = lambda m: m

    def product(self, d: Tensor) -> Tensor:
        """`U diag(d) V^T` as a matrix of our layout, `[rows, columns]`."""
        return self.restore((self.u * d) @ self.vt)

    def coordinates(self, d: Tensor) -> Tensor:
        """`u_i^T D v_i` of each direction, `[r]`, of a matrix `D` of our layout; only of a basis in it."""
        return ((self.u.T @ d) * self.vt).sum(1)


@dataclass(frozen=True)
class Carried:
    """One weight's delta in the other vectors.

    Attributes:
        delta: float32 `[r]`.
        energy: `||Delta W||^2` of what it was.
        lost: `||Delta W of what it is now - Delta W of what it was||^2`.
    """

    delta: Tensor
    energy: float
    lost: float


def carry(delta: Tensor, source: Basis, target: Basis) -> Carried:
    """`delta` of one basis in another of the same weight.

    Two bases of one layout have nearly the same vectors, and then a direction that is clipped stays as far below zero
    as it was, which matters at a smaller scale. In another layout only the change itself means anything.
    """
    delta = delta.to(torch.float32)
    exact = source.product(change(source.sigma, delta))
    same_layout = source.u.shape == target.u.shape
    carried = target.coordinates(source.product(delta) if same_layout else exact)
    reached = target.product(change(target.sigma, carried))
    return Carried(carried, float(exact.norm()) ** 2, float((reached - exact).norm()) ** 2)


def own_basis(weight: Tensor, spectrum: Spectrum) -> Basis:
    """Ours."""
    near, far = spectrum.basis, opposite(weight, spectrum).to(torch.float32)
    u, vt = (near, far) if spectrum.side == "left" else (far.T, near.T)
    return Basis(u, spectrum.sigma.to(torch.float32), vt)


def plain_basis(weight: Tensor, reshape: Reshape = "first-dim") -> Basis:
    """That of `torch.linalg.svd` in float32, as the paper's plain code has it; of a 1-D weight, that of `[1, n]`."""
    w = weight.detach().to(torch.float32)
    if w.ndim == 1:
        return _svd(w[None])
    if reshape == "first-dim":
        return _svd(matrix(w))
    last = w.movedim(1, -1)
    u, sigma, vt = torch.linalg.svd(last.reshape(-1, w.shape[1]), full_matrices=False)
    return Basis(u, sigma, vt, lambda m: matrix(m.reshape(last.shape).movedim(-1, 1)))


def _svd(m: Tensor) -> Basis:
    return Basis(*torch.linalg.svd(m, full_matrices=False))
