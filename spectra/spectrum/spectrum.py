"""The spectrum of one frozen weight: one orthonormal basis, the singular values, and a short tail.

`W = U diag(sigma) V^T` of a matrix `W [rows, columns]`, `r = min(rows, columns)`. Only the smaller side's singular
vectors are kept, since the other side follows from `W` itself wherever `sigma` is not small:

    left   (rows <= columns)   Q = U,   V^T = diag(1/sigma) Q^T W,   W_delta = W + Q diag(e) Q^T W
    right  (rows >  columns)   Q = V,   U   = W Q diag(1/sigma),     W_delta = W + W Q diag(e) Q^T

with `e = (ReLU(sigma + delta) - sigma) / sigma`. Dividing by a tiny `sigma` is noise, so the few smallest directions
keep their other side too: that is the tail (a row each), and they enter as an ordinary narrow two-sided term.

The derivation and the error it was measured to have are in `docs/algebra.md`; the formula is SVDiff's
(arXiv:2303.11305, section 3.1).
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Literal

import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensor

Side = Literal["left", "right"]


@dataclass(frozen=True, eq=False)
class Spectrum:
    """Singular values and vectors of one frozen weight. Made by `decompose`, stored by the cache, never changed.

    Attributes:
        side: which singular vectors `basis` holds.
        basis: float32 `[r, r]`, orthonormal; column `i` belongs to `sigma[i]`.
        sigma: float64 `[r]`, descending, not negative.
        tail: float32 `[k, max(rows, columns)]`: the other side's singular vectors of the `k` smallest directions,
            `tail[j]` belonging to `sigma[r - k + j]`.
        shape: of the weight as the module holds it.
        fingerprint: of the weight (`spectra.spectrum.fingerprint`), where it came through the cache; else empty.
    """

    side: Side
    basis: Tensor
    sigma: Tensor
    tail: Tensor
    shape: tuple[int, ...]
    fingerprint: str = ""

    @property
    def rank(self) -> int:
        """Number of directions `r`, the length of this weight's delta."""
        return self.sigma.shape[0]

    @property
    def one_sided(self) -> int:
        """Number of directions of which one side is stored: those before the tail."""
        return self.rank - self.tail.shape[0]

    @property
    def floats(self) -> int:
        """Floats stored: basis, sigma and tail."""
        return self.basis.numel() + self.sigma.numel() + self.tail.numel()

    @property
    def bytes(self) -> int:
        """Size of basis, sigma and tail in bytes."""
        return self.basis.nbytes + self.sigma.nbytes + self.tail.nbytes

    def to(self, device: torch.device | str) -> Spectrum:
        """A copy on another device."""
        moved = {name: getattr(self, name).to(device) for name in ("basis", "sigma", "tail")}
        return replace(self, **moved)


def matrix(weight: Tensor) -> Tensor:
    """The matrix of a weight with two or more dimensions: its first as it is, the others flattened.

    That is `[c_out, c_in / groups * kh * kw]` for Linear and Conv (the paper's), `[c_in, ...]` for ConvTranspose,
    `[rows, dim]` for Embedding. The rule's name, `fingerprint.RESHAPE`, goes into cache keys and shift files.
    """
    return weight.reshape(weight.shape[0], math.prod(weight.shape[1:]))


def other_side(weight: Tensor, spectrum: Spectrum, directions: Tensor | None = None) -> Tensor:
    """The other side's singular vectors: float64 `[r, m]`, on the weight's device.

    They are `V^T` where the spectrum stores `U`, and `U^T` where it stores `V`. Most follow from the weight, as
    `diag(1/sigma) Q^T W`; the tail's are stored.

    Args:
        weight: that the spectrum belongs to, of any shape of two or more dimensions.
        directions: `[k]` of integers: only these, `[k, m]` in their order.
    """
    w = matrix(weight.detach()).to(torch.float64)
    a = w if spectrum.side == "left" else w.T
    chosen = (torch.arange(spectrum.rank) if directions is None else directions).to(a.device)
    is_one_sided = chosen < spectrum.one_sided
    found = a.new_empty(len(chosen), a.shape[1])
    one_sided = chosen[is_one_sided]
    basis = spectrum.basis.to(a.device)[:, one_sided].to(a)
    found[is_one_sided] = (basis.T @ a) / spectrum.sigma.to(a)[one_sided, None]
    found[~is_one_sided] = spectrum.tail.to(a)[chosen[~is_one_sided] - spectrum.one_sided]
    return found


def has_no_values(x: Tensor) -> bool:
    """Whether a tensor has only a shape: on the meta device, or PyTorch's `FakeTensor`."""
    return x.is_meta or isinstance(x, FakeTensor)
