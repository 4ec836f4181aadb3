"""The closest shift to any change `D` of a base's weights (docs/algebra.md, section 5).

    c_i = u_i^T D v_i        delta_i = max(c_i, -sigma_i)        ||D - Delta W||^2 = ||D||^2 - ||c||^2 + ||c - delta||^2

A shift can reach no other direction of `D`, and no singular value below zero. A weight of one dimension takes any
change: `delta = D`.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any, TypeAlias

import torch
from torch import Tensor

from spectra.compatibility.rounded_bases import Fingerprints
from spectra.errors import WeightError
from spectra.progress import SILENT, Progress
from spectra.shift.metadata import FINGERPRINT_DIGITS, ROUNDED, ShiftMetadata
from spectra.shift.shift import SpectralShift
from spectra.spectrum.cache.spectrum_cache import SpectrumCache, default_cache
from spectra.spectrum.spectrum import Spectrum, matrix
from spectra.version import versions

ChangeOf: TypeAlias = Callable[[Tensor], Tensor]
"""Gives the change of a base's weight, of its shape or its matrix's, float32 or wider."""

_PANEL = 1024
"""Columns of a matrix that are in float64 at once."""


@dataclass(frozen=True)
class Captured:
    """How much of the change of a weight, or of several, a shift holds.

    Attributes:
        change: `||D||^2`.
        rest: `||D - Delta W||^2`.
        clipped: how many directions would have had to go below zero.
        clipped_rest: the part of `rest` that this costs.
    """

    name: str
    change: float
    rest: float
    clipped: int = 0
    clipped_rest: float = 0.0

    @property
    def energy(self) -> float:
        """The part of the change that is captured, 0 to 1."""
        return 1 - self.rest / self.change if self.change else 1.0

    @property
    def error(self) -> float:
        """`||D - Delta W|| / ||D||`; 0 where there is no change."""
        return math.sqrt(self.rest / self.change) if self.change else 0.0


@dataclass(frozen=True)
class Factors:
    """A change of low rank, `up [rows, k] @ down [k, columns]`, float32, of a weight of `shape`."""

    up: Tensor
    down: Tensor
    shape: tuple[int, ...]
    square: float


@dataclass(frozen=True)
class ClosestDelta:
    """One weight's delta, float32 `[r]`, in the closest shift.

    Attributes:
        fingerprint: the digits of the weight that a shift file keeps.
        rounded: the digits of its rounded copies, by dtype.
        rest: the best approximation of what the delta does not capture, if one was asked for.
    """

    delta: Tensor
    fingerprint: str
    rounded: Mapping[str, str]
    ndim: int
    captured: Captured
    rest: Factors | None = None

    @classmethod
    def of(
        cls, weight: Tensor, spectrum: Spectrum | None, delta: Tensor, captured: Captured, rest: Factors | None = None
    ) -> ClosestDelta:
        """A delta with the fingerprints of its weight."""
        prints = Fingerprints.of(weight, captured.name, spectrum)
        digits = prints.digits()[:FINGERPRINT_DIGITS]
        return cls(delta.to(torch.float32), digits, prints.rounded(), weight.ndim, captured, rest)


def find_closest(
    weights: Mapping[str, Tensor],
    changes: Mapping[str, ChangeOf],
    *,
    rank: int = 0,
    cache: SpectrumCache | None = None,
    progress: Progress = SILENT,
) -> dict[str, ClosestDelta]:
    """The closest delta to the change of each weight, by name, a few weights at a time in memory.

    Args:
        rank: of the approximation of what the shift leaves; 0 for none.

    Raises:
        WeightError: a change that is not finite, or a weight without a spectrum.
    """

    def find(name: str, weight: Tensor, spectrum: Spectrum | None) -> ClosestDelta:
        change = changes[name](weight)
        square = _square(change)
        if not math.isfinite(square):
            raise WeightError(f"{name}: the change has values that are not finite; the model is damaged")
        if spectrum is None:
            return ClosestDelta.of(weight, None, change, Captured(name, square, 0.0))
        c = project(change, weight, spectrum)
        delta = torch.maximum(c, -spectrum.sigma)
        lost = (c - delta).square()
        rest = max(square - float(c.square().sum()), 0.0) + float(lost.sum())
        captured = Captured(name, square, rest, int((lost > 0).sum()), float(lost.sum()))
        factors = approximate_rest(change, weight, spectrum, delta, rank) if rank and rest > 0 else None
        return ClosestDelta.of(weight, spectrum, delta, captured, factors)

    return (cache or default_cache()).visit(weights, find, "projecting", progress)


def shift_of_deltas(found: Mapping[str, ClosestDelta], **facts: Any) -> SpectralShift:
    """The deltas as one shift; what its metadata hold beside the weights' fingerprints and dimensions is in `facts`."""
    metadata = ShiftMetadata(
        **facts,
        versions=versions(),
        fingerprints={name: each.fingerprint for name, each in found.items()},
        ndims={name: each.ndim for name, each in found.items()},
        rounded={dtype: {name: each.rounded[dtype] for name, each in found.items()} for dtype in ROUNDED},
    )
    return SpectralShift({name: each.delta.numpy() for name, each in found.items()}, metadata)


def summed(name: str, parts: Iterable[Captured]) -> Captured:
    """What is captured of several weights together."""
    every = list(parts)
    return Captured(
        name,
        sum(part.change for part in every),
        sum(part.rest for part in every),
        sum(part.clipped for part in every),
        sum(part.clipped_rest for part in every),
    )


def project(change: Tensor, weight: Tensor, spectrum: Spectrum) -> Tensor:
    """Project a change on a weight's singular vectors: `u_i^T D v_i` for every direction, float64 `[r]`.

    With `Q` on the smaller side, `v_i = W^T u_i / sigma_i` makes it `q_i^T (D W^T) q_i / sigma_i` where one side
    is stored (likewise on the right); the tail has both sides.
    """
    d, w = _short_side_first(change, spectrum), _short_side_first(weight, spectrum)
    one_sided, basis = spectrum.one_sided, spectrum.basis.to(torch.float64)
    product = basis.new_zeros(spectrum.rank, spectrum.rank)
    tail = basis.new_zeros(spectrum.rank - one_sided)
    for part in _panels(d):
        panel = d[:, part].to(torch.float64)
        product.addmm_(panel, w[:, part].to(torch.float64).T)
        tail += ((basis[:, one_sided:].T @ panel) * spectrum.tail[:, part]).sum(1)
    stored = basis[:, :one_sided]
    return torch.cat([(stored * (product @ stored)).sum(0) / spectrum.sigma[:one_sided], tail])


def delta_weight(weight: Tensor, spectrum: Spectrum, d: Tensor) -> Tensor:
    """`Delta W = U diag(d) V^T` as the weight's matrix, float32, from `d`, float64 `[r]`; rounded once."""
    columns = _columns(weight, spectrum, d)
    w = _short_side_first(weight, spectrum)
    made = torch.cat([columns(part).to(torch.float32) for part in _panels(w)], dim=1)
    return made if spectrum.side == "left" else made.T


def approximate_rest(change: Tensor, weight: Tensor, spectrum: Spectrum, d: Tensor, rank: int) -> Factors:
    """The best approximation of rank `rank` (Eckart and Young) of `D - U diag(d) V^T`."""
    wide, columns = _short_side_first(change, spectrum), _columns(weight, spectrum, d)

    def rest(part: slice) -> Tensor:
        return wide[:, part].to(torch.float64) - columns(part)

    gram = torch.zeros(spectrum.rank, spectrum.rank, dtype=torch.float64)
    for part in _panels(wide):
        panel = rest(part)
        gram.addmm_(panel, panel.T)
    _, vectors = torch.linalg.eigh(gram)
    kept = vectors[:, -rank:].flip(1)
    other = torch.cat([kept.T @ rest(part) for part in _panels(wide)], dim=1)
    up, down = (kept, other) if spectrum.side == "left" else (other.T, kept.T)
    up, down = up.to(torch.float32).contiguous(), down.to(torch.float32).contiguous()
    return Factors(up, down, tuple(weight.shape), _square(other))


def _columns(weight: Tensor, spectrum: Spectrum, d: Tensor) -> Callable[[slice], Tensor]:
    """Computes any columns of `Delta W`, smaller side first: `Q diag(d / sigma) Q^T W` and the tail's term."""
    w, one_sided, basis = _short_side_first(weight, spectrum), spectrum.one_sided, spectrum.basis.to(torch.float64)
    stored = basis[:, :one_sided]
    inside = (stored * (d[:one_sided] / spectrum.sigma[:one_sided])) @ stored.T
    outside = basis[:, one_sided:] * d[one_sided:]

    def columns(part: slice) -> Tensor:
        return inside @ w[:, part].to(torch.float64) + outside @ spectrum.tail[:, part].to(torch.float64)

    return columns


def _short_side_first(weight: Tensor, spectrum: Spectrum) -> Tensor:
    """The matrix with its smaller side first: `[r, m]`."""
    w = matrix(weight)
    return w if spectrum.side == "left" else w.T


def _panels(a: Tensor) -> Iterable[slice]:
    return (slice(start, start + _PANEL) for start in range(0, a.shape[1], _PANEL))


def _square(change: Tensor) -> float:
    """`||D||^2`, summed in float64."""
    return sum(float(part.to(torch.float64).square().sum()) for part in change.reshape(-1).split(1 << 20))
