"""The leading directions of one frozen weight: the largest singular values with both sides' vectors, and nothing else.

`W ~ left diag(sigma) right^T`, `K` directions of `r`. `W_delta = W + left diag(d) right^T` needs no more than these
where delta is nonzero on them alone, and divides by no sigma.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import torch
from torch import Tensor


@dataclass(frozen=True, eq=False)
class PartialSpectrum:
    """The first K directions of a weight, in the order and with the signs of `decompose`.

    Attributes:
        left: float32 `[rows, K]`, orthonormal columns; memory of each column lies together.
        right: float32 `[columns, K]`, likewise.
        sigma: float64 `[K]`, descending, not negative.
        shape: of the weight as the module holds it.
        residual: `||W v - sigma u||` or `||W^T u - sigma v||`, whichever is larger, over the largest sigma; of all
            directions together, as the root of the sum of squares, which no direction's own exceeds. From float64.
        orthogonality: the largest entry of `left^T left - 1` and `right^T right - 1`.
        from_full: it was cut from a full decomposition.
        fingerprint: of the weight (`spectra.spectrum.fingerprint`), where it came through the cache; else empty.
    """

    left: Tensor
    right: Tensor
    sigma: Tensor
    shape: tuple[int, ...]
    residual: float
    orthogonality: float
    from_full: bool = False
    fingerprint: str = ""

    @property
    def directions(self) -> int:
        """Number of directions `K` that are here."""
        return self.sigma.shape[0]

    @property
    def rank(self) -> int:
        """Number of directions `r` of the weight, the length of its delta."""
        return min(self.shape[0], math.prod(self.shape[1:]))

    @property
    def floats(self) -> int:
        """Floats stored: `K (rows + columns + 1)`."""
        return self.left.numel() + self.right.numel() + self.sigma.numel()

    @property
    def bytes(self) -> int:
        """Size of the vectors and sigma in bytes."""
        return self.left.nbytes + self.right.nbytes + self.sigma.nbytes

    def first(self, directions: int) -> PartialSpectrum:
        """The first so many of these directions, as views."""
        if directions >= self.directions:
            return self
        cut = {name: getattr(self, name)[..., :directions] for name in ("left", "right", "sigma")}
        return replace(self, **cut)

    def to(self, device: torch.device | str) -> PartialSpectrum:
        """A copy on another device."""
        moved = {name: getattr(self, name).to(device) for name in ("left", "right", "sigma")}
        return replace(self, **moved)
