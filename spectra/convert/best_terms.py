"""The outer terms that are best for a change, beside the diagonal that is best with them.

    least  ||D - U diag(d) V^T - sum_j a_j (x) right_j||^2,     d >= -sigma,     right_j free, or b_j (x) kernel_j

Given d, the best free terms are the leading singular pairs of what d leaves (Eckart and Young). Given the terms, d is
the projection of what they leave. The two are taken in turn, from the diagonal's own best, until neither improves.
Separable terms have no closed form: their factors are solved for one after the other (alternating least squares), from
those of the free terms.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from spectra.convert.remainder import Remainder
from spectra.convert.weight_change import principal_factors, product_square
from spectra.shift.outer_terms import OuterTerms
from spectra.spectrum.partial import PartialSpectrum

_STEPS = 60

_ENOUGH = 1e-9
"""An improvement by less of `||D||^2` ends the search."""

_MORE = 8
"""Singular pairs beyond those asked for that are followed."""

_NOISE = 1e-7
"""A term that holds less of `||D||` is float32's rounding."""


@dataclass(frozen=True, eq=False)
class _Free:
    """Terms `rows [rows, k]` and `columns [k, columns]`, float64: the leading singular pairs of a remainder.

    `near [r, k + more]` spans a few pairs more, orthonormal, so that one that becomes larger is not missed.
    """

    rows: Tensor
    columns: Tensor
    near: Tensor

    @classmethod
    def of(cls, rest: Remainder, count: int) -> _Free:
        """So many of the leading ones."""
        near = rest.leading(count + _MORE)
        far = rest.times_near(near[:, :count])
        return cls(*rest.oriented(near[:, :count], far), near)

    def solved(self, rest: Remainder) -> _Free:
        """Those of another remainder that is close to the last one."""
        near, _ = torch.linalg.qr(rest.times_far(rest.times_near(self.near)))
        left, s, right = torch.linalg.svd(rest.times_near(near), full_matrices=False)
        count = self.rows.shape[1]
        return _Free(*rest.oriented(near @ left[:, :count], s[:count, None] * right[:count]), near)

    def terms(self, square: float) -> OuterTerms | None:
        """The same as outer terms, orthogonal, largest first, with a and b of equal lengths.

        Those that hold next to nothing of a change of `square` are left out; None if none is left.
        """
        left, s, right = principal_factors(self.rows, self.columns)
        left, s, right = (each[..., s > _NOISE * math.sqrt(square)] for each in (left, s, right.T))
        return OuterTerms((left * s.sqrt()).T.numpy(), (right * s.sqrt()).T.numpy()) if len(s) else None


@dataclass(frozen=True, eq=False)
class _Separable:
    """Terms of float64 `rows [rows, k]`, which are `a`, `b [k, n1]` and `kernel [k, taps]`."""

    rows: Tensor
    b: Tensor
    kernel: Tensor

    @property
    def columns(self) -> Tensor:
        """`b (x) kernel`, `[k, columns]`."""
        return (self.b[:, :, None] * self.kernel[:, None, :]).flatten(1)

    @classmethod
    def nearest(cls, rows: Tensor, columns: Tensor, taps: int) -> _Separable:
        """The separable terms that are nearest to each of some free ones."""
        u, s, vt = torch.linalg.svd(columns.reshape(len(columns), -1, taps), full_matrices=False)
        return cls(rows, u[:, :, 0] * s[:, :1], vt[:, 0])

    def solved(self, rest: Remainder) -> _Separable:
        """Each factor once more, best for the two others as they are."""
        columns = self.columns
        a = rest.times_columns(columns) @ torch.linalg.pinv(columns @ columns.T, hermitian=True)
        gram, under = a.T @ a, rest.times_rows(a).reshape(len(self.b), -1, self.kernel.shape[1])
        b = _solved(gram * (self.kernel @ self.kernel.T), torch.einsum("knt,kt->kn", under, self.kernel))
        kernel = _solved(gram * (b @ b.T), torch.einsum("knt,kn->kt", under, b))
        sizes = kernel.norm(dim=1, keepdim=True).clamp_min(torch.finfo(kernel.dtype).tiny)
        return _Separable(a, b * sizes, kernel / sizes)

    def terms(self, square: float) -> OuterTerms | None:
        """The same as outer terms, largest first, with kernels of norm 1; small ones are left out as `_Free` does."""
        ours, theirs = self.rows.norm(dim=0), self.b.norm(dim=1)
        order = (ours * theirs).argsort(descending=True)
        order = order[(ours * theirs)[order] > _NOISE * math.sqrt(square)]
        if not len(order):
            return None
        balance = (theirs / ours)[order, None].sqrt()
        a, b = self.rows.T[order] * balance, self.b[order] / balance
        return OuterTerms(a.numpy(), b.numpy(), self.kernel[order].numpy())


def _solved(gram: Tensor, right: Tensor) -> Tensor:
    inverse: Tensor = torch.linalg.pinv(gram, hermitian=True)
    return inverse @ right


@dataclass(frozen=True, eq=False)
class Fit:
    """A diagonal and outer terms that are close to a change `D`.

    Attributes:
        d: float64 `[n]`, of the directions that were asked for.
        unclipped: what d would be if singular values could go below zero.
        outer: the terms; None for none.
        taken: by how much the terms lessen `||D - U diag(d) V^T||^2`.
        rest: what both leave; None if that was not asked for.
    """

    d: Tensor
    unclipped: Tensor
    outer: OuterTerms | None = None
    taken: float = 0.0
    rest: Remainder | None = None


def best_fit(change: Tensor, vectors: PartialSpectrum | None, c: Tensor, count: int, taps: int = 1) -> Fit:
    """The diagonal and the outer terms that together are closest to a change.

    Args:
        change: `D`, of the weight's shape or its matrix's.
        vectors: directions of the diagonal, with both sides; None for no direction.
        c: `u_i^T D v_i` of these directions, float64 `[n]`.
        count: how many terms; fewer come where fewer leave nothing.
        taps: of a convolution whose terms are to be separable; 1 for free ones.
    """
    lowest = c if vectors is None else -vectors.sigma
    rest = Remainder.of(change, vectors, torch.maximum(c, lowest))
    outer = None
    if count:
        rest, outer = _alternate(rest, c, lowest, count, taps)
    if outer is None:
        return Fit(rest.d, c, rest=rest)
    rows, columns = torch.from_numpy(outer.a.T.astype("float64")), torch.from_numpy(outer.right)
    taken = float(2 * (rest.times_rows(rows) * columns).sum() - product_square(rows, columns))
    return Fit(rest.d, c - rest.along(rows, columns), outer, taken, rest.with_terms(rows, columns))


def _alternate(
    rest: Remainder, c: Tensor, lowest: Tensor, count: int, taps: int
) -> tuple[Remainder, OuterTerms | None]:
    """Terms and diagonal in turn, from the diagonal alone, until neither improves; arguments as `best_fit` has them.

    The diagonal goes on a little beyond its best, by Nesterov's rule, and from its best again where that was too far.
    """
    terms: _Free | _Separable = _Free.of(rest, count)
    if taps > 1:
        terms = _Separable.nearest(terms.rows, terms.columns, taps)
    square, last = float(rest.change.norm(dtype=torch.float64)) ** 2, math.inf
    best, pace = (rest, terms), 1.0
    for _ in range(_STEPS):
        terms = terms.solved(rest)
        # The terms are a projection of what d leaves, so their square is what they take of it.
        left = float((c - rest.d).square().sum() - product_square(terms.rows, terms.columns))
        if left > last and pace > 1:
            (rest, terms), pace = best, 1.0
            continue
        before, improved, last = best[0].d, last - left, left
        rest = replace(rest, d=torch.maximum(c - rest.along(terms.rows, terms.columns), lowest))
        best = rest, terms
        if improved <= _ENOUGH * square:
            break
        faster = (1 + math.sqrt(1 + 4 * pace**2)) / 2
        beyond, pace = (pace - 1) / faster, faster
        rest = replace(rest, d=torch.maximum(rest.d + beyond * (rest.d - before), lowest))
    rest, terms = best
    return rest, terms.terms(square)


def outer_terms(rows: Tensor, columns: Tensor, taps: int = 1) -> OuterTerms | None:
    """The terms that pairs `rows [rows, k]`, `columns [k, columns]` are: one for each that is not zero, None for none.

    Args:
        taps: of a convolution; its terms get a kernel if that of every column is one vector times another, to float32's
            precision.
    """
    used = (rows.norm(dim=0) * columns.norm(dim=1)).nonzero()[:, 0]
    if not len(used):
        return None
    rows, columns = rows[:, used], columns[used]
    if taps > 1:
        split = _Separable.nearest(rows, columns, taps)
        apart = (split.columns - columns).norm(dim=1) / columns.norm(dim=1)
        if float(apart.max()) < torch.finfo(torch.float32).eps:
            return OuterTerms(rows.T.numpy(), split.b.numpy(), split.kernel.numpy())
    return OuterTerms(rows.T.numpy(), columns.numpy())
