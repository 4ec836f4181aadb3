"""The closest shift to any change `D` of a base's weights (docs/algebra.md, section 5).

    c_i = u_i^T D v_i        delta_i = max(c_i, -sigma_i)        ||D - Delta W||^2 = ||D||^2 - ||c||^2 + ||c - delta||^2

A diagonal can reach no other direction of `D`, and no singular value below zero; outer terms take the best of what it
leaves (`spectra.convert.best_terms`). A weight of one dimension takes any change: `delta = D`.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any, TypeAlias

import torch
from torch import Tensor

from spectra.compatibility.base_check import delta_length
from spectra.compatibility.rounded_bases import Fingerprints
from spectra.convert.best_terms import Fit, best_fit, outer_terms
from spectra.convert.projection import AnySpectrum, project
from spectra.convert.weight_change import WeightShift, product_square, spectrum_for
from spectra.errors import InputError, WeightError
from spectra.progress import SILENT, Progress
from spectra.shift.metadata import FINGERPRINT_DIGITS, ROUNDED, ShiftMetadata
from spectra.shift.outer_terms import OuterTerms
from spectra.shift.shift import SpectralShift
from spectra.shift.word_vectors import WordVectors
from spectra.spectrum.cache.spectrum_cache import SpectrumCache, default_cache
from spectra.spectrum.cache.workers import for_each
from spectra.spectrum.leading import cut
from spectra.spectrum.spectrum import Spectrum, matrix
from spectra.version import versions

_CANCELLED = 1e-4
"""Below this share of `||D||^2` what is left is measured, not computed from the squares."""

ChangeOf: TypeAlias = Callable[[Tensor], Tensor]
"""Gives the change of a base's weight, of its shape or its matrix's, float32 or wider."""

PairsOf: TypeAlias = Callable[[Tensor], tuple[Tensor, Tensor]]
"""Gives the change of a base's weight as up `[rows, m]` and down `[m, columns]`, float64."""


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

    @classmethod
    def of(cls, rows: Tensor, columns: Tensor, shape: tuple[int, ...]) -> Factors:
        """From factors in float64."""
        up, down = rows.to(torch.float32).contiguous(), columns.to(torch.float32).contiguous()
        return cls(up, down, shape, float(product_square(rows, columns)))


@dataclass(frozen=True)
class ShiftForm:
    """What a shift may consist of.

    Attributes:
        directions: so many leading directions of each weight have a delta; None for all.
        outer: at most so many outer terms of each weight of two or more dimensions.
        separable: a convolution's terms are `a (x) b (x) kernel`.
    """

    directions: int | None = None
    outer: int = 0
    separable: bool = False

    def __post_init__(self) -> None:
        if (self.directions or 0) < 0 or self.outer < 0:
            raise InputError(f"expected 0 or more directions and outer terms, got {self.directions} and {self.outer}")
        if self.separable and not self.outer:
            raise InputError("separable terms were asked for, but no outer terms: say how many (--outer)")
        if self.directions == 0 and not self.outer:
            raise InputError("no directions and no outer terms are no shift: ask for some of either")


@dataclass(frozen=True)
class ClosestPart:
    """One weight's delta, float32 `[r]`, and its outer terms, in the closest shift.

    Attributes:
        fingerprint: the digits of the weight that a shift file keeps.
        rounded: the digits of its rounded copies, by dtype.
        rest: the best approximation of what the shift does not capture, if one was asked for.
    """

    delta: Tensor
    fingerprint: str
    rounded: Mapping[str, str]
    ndim: int
    captured: Captured
    outer: OuterTerms | None = None
    rest: Factors | None = None

    @classmethod
    def of(
        cls, weight: Tensor, spectrum: AnySpectrum | None, delta: Tensor, captured: Captured, **more: Any
    ) -> ClosestPart:
        """A delta, and what `more` there is, with the fingerprints of its weight."""
        prints = Fingerprints.of(weight, captured.name, spectrum)
        digits = prints.digits()[:FINGERPRINT_DIGITS]
        return cls(delta.to(torch.float32), digits, prints.rounded(), weight.ndim, captured, **more)


def find_closest(
    weights: Mapping[str, Tensor],
    changes: Mapping[str, ChangeOf],
    form: ShiftForm | None = None,
    *,
    rank: int = 0,
    cache: SpectrumCache | None = None,
    progress: Progress = SILENT,
) -> dict[str, ClosestPart]:
    """What is closest to the change of each weight, by name, a few weights at a time in memory.

    Args:
        form: of the shift; by default a delta for all directions and nothing else.
        rank: of the approximation of what the shift leaves; 0 for none.

    Raises:
        WeightError: a change that is not finite, or a weight without a spectrum.
    """
    form, cache = form or ShiftForm(), cache or default_cache()

    def find(name: str) -> ClosestPart:
        weight = weights[name]
        return closest_part(name, changes[name](weight), weight, form, rank, cache)

    return for_each(weights, find, "projecting", progress)


def closest_part(
    name: str, change: Tensor, weight: Tensor, form: ShiftForm, rank: int, cache: SpectrumCache
) -> ClosestPart:
    """What is closest to the change of one weight; arguments and errors as `find_closest`."""
    square = _square(change)
    if not math.isfinite(square):
        raise WeightError(f"{name}: the change has values that are not finite; the model is damaged")
    if weight.ndim == 1:
        return ClosestPart.of(weight, None, change, Captured(name, square, 0.0))
    length = delta_length(weight.shape)
    directions = length if form.directions is None else min(form.directions, length)
    spectrum, none = spectrum_for(name, weight, directions, cache), torch.zeros(0, dtype=torch.float64)
    c = none if spectrum is None else project(change, weight, spectrum)[:directions]
    lowest = none if spectrum is None else -spectrum.sigma[:directions]
    if form.outer or rank:
        both = cut(spectrum, weight, directions) if isinstance(spectrum, Spectrum) else spectrum
        fit = best_fit(change, both, c, form.outer, math.prod(weight.shape[2:]) if form.separable else 1)
    else:
        fit = Fit(torch.maximum(c, lowest), c)
    lost = (fit.unclipped - fit.d).square()
    missed = max(square - float(c.square().sum()) + float((c - fit.d).square().sum()) - fit.taken, 0.0)
    if missed < _CANCELLED * square:  # a difference of nearly equal squares has no digits left
        made = WeightShift(name, fit.d, fit.outer).change(weight, spectrum)
        missed = _square(matrix(change) - made)
    captured = Captured(name, square, missed, int((fit.unclipped < lowest).sum()), float(lost.sum()))
    factors = Factors.of(*fit.rest.low_rank(rank), tuple(weight.shape)) if rank and fit.rest and missed else None
    delta = torch.cat([fit.d, fit.d.new_zeros(length - directions)])
    return ClosestPart.of(weight, spectrum, delta, captured, outer=fit.outer, rest=factors)


def take_pairs(
    weights: Mapping[str, Tensor], pairs: Mapping[str, PairsOf], progress: Progress = SILENT
) -> dict[str, ClosestPart]:
    """The changes that are pairs of vectors as outer terms: exactly, but for float32's rounding of the scale in them.

    Pairs that do nothing are left out. Those of a convolution have a kernel if all of them are separable.
    """

    def take(name: str) -> ClosestPart:
        weight = weights[name]
        up, down = pairs[name](weight)
        captured = Captured(name, float(product_square(up, down)), 0.0)
        delta = torch.zeros(delta_length(weight.shape))
        return ClosestPart.of(weight, None, delta, captured, outer=outer_terms(up, down, math.prod(weight.shape[2:])))

    return for_each(pairs, take, "taking over", progress)


def shift_of_parts(
    found: Mapping[str, ClosestPart], words: Mapping[str, WordVectors] | None = None, **facts: Any
) -> SpectralShift:
    """The parts as one shift; what its metadata hold beside the weights' fingerprints and dimensions is in `facts`."""
    metadata = ShiftMetadata(
        **facts,
        versions=versions(),
        fingerprints={name: each.fingerprint for name, each in found.items()},
        ndims={name: each.ndim for name, each in found.items()},
        rounded={dtype: {name: each.rounded[dtype] for name, each in found.items()} for dtype in ROUNDED},
    )
    deltas = {name: each.delta.numpy() for name, each in found.items()}
    outer = {name: each.outer for name, each in found.items() if each.outer is not None}
    return SpectralShift(deltas, metadata, outer=outer, words=words or {})


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


def _square(change: Tensor) -> float:
    """`||D||^2`, summed in float64."""
    return sum(float(part.to(torch.float64).square().sum()) for part in change.reshape(-1).split(1 << 20))
