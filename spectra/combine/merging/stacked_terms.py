"""The outer terms of one weight in all shifts of a merge, and what methods ask of them: sizes and inner products.

A shift changes the weight's matrix by `L_i = sum_s a_s (x) right_s` over its terms. All that is asked here is asked of
`L_i`, so that it does not depend on how `L_i` is written as terms, nor on how a term is split into its vectors. Sums
are taken term after term, none through BLAS, so that they are the same everywhere.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import TypeAlias

import numpy as np
import numpy.typing as npt

from spectra.shift.outer_terms import OuterTerms
from spectra.shift.sums import sum_terms

Rows: TypeAlias = npt.NDArray[np.float64]
"""`[k, n]`: the deltas of one weight, a row for each shift; zeros where a shift lacks the weight."""

Row: TypeAlias = npt.NDArray[np.float64]
"""`[n]`, or `[k]` for the weights of the shifts."""


@dataclass(frozen=True, eq=False)
class Factors:
    """What a method makes of the terms: `sum_i diag(rows_i) L_i diag(columns_i)`.

    Attributes:
        rows: `[k, n0]`, or `[k, 1]` for one number for each shift.
        columns: `[k, n1]`, for the entries of `b`; None is 1 for all.
    """

    rows: Rows
    columns: Rows | None = None


@dataclass(frozen=True, eq=False)
class StackedTerms:
    """All terms of one weight, in float64; of R terms of k shifts.

    Attributes:
        a: `[R, n0]`.
        b: `[R, n1]`.
        kernel: `[R, taps]`, or None.
        owners: `[R]`, ascending: the shift of each term, from 0.
        count: shifts, k, those without terms included.
    """

    a: Rows
    b: Rows
    kernel: Rows | None
    owners: npt.NDArray[np.intp]
    count: int

    def times(self, factors: Factors) -> StackedTerms:
        """The terms of `diag(rows_i) L_i diag(columns_i)`."""
        b = self.b if factors.columns is None else self.b * factors.columns[self.owners]
        return replace(self, a=self.a * factors.rows[self.owners], b=b)

    @cached_property
    def having(self) -> list[int]:
        """The shifts that have terms."""
        return [int(each) for each in np.unique(self.owners)]

    @cached_property
    def right_products(self) -> Rows:
        """`right_s . right_t`: `[R, R]`."""
        products = _products(self.b)
        return products if self.kernel is None else products * _products(self.kernel)

    @cached_property
    def gram(self) -> Rows:
        """`<L_i, L_j>`: `[k, k]`."""
        by_owner = self.by_shift(_products(self.a) * self.right_products)
        return self.by_shift(by_owner.T)

    @cached_property
    def row_energies(self) -> Rows:
        """`||L_i[n, :]||^2`: `[k, n0]`."""
        found = np.zeros((self.count, self.a.shape[1]))
        for shift in self.having:
            own = np.flatnonzero(self.owners == shift)
            found[shift] = _quadratic(self.a[own], self.right_products[np.ix_(own, own)])
        return found

    @cached_property
    def column_energies(self) -> Rows:
        """`||L_i[:, m]||^2`, over the entries of a kernel too: `[k, n1]`."""
        found = np.zeros((self.count, self.b.shape[1]))
        for shift in self.having:
            own = np.flatnonzero(self.owners == shift)
            products = _products(self.a[own])
            found[shift] = _quadratic(
                self.b[own], products if self.kernel is None else products * _products(self.kernel[own])
            )
        return found

    def row_products(self, shift: int) -> Rows:
        """`L_i[n, :] . L_j[n, :]` of one shift i with every j: `[k, n0]`."""
        found = np.zeros((self.count, self.a.shape[1]))
        for term in np.flatnonzero(self.owners == shift):
            found += self.a[term] * self.by_shift(self.right_products[term][:, None] * self.a)
        return found

    def together(self) -> StackedTerms:
        """The terms of all shifts as those of one."""
        return replace(self, owners=np.zeros_like(self.owners), count=1)

    def by_shift(self, values: Rows) -> Rows:
        """Values `[R, n]` of terms summed up by shift: `[k, n]`."""
        found = np.zeros((self.count, *values.shape[1:]))
        found[self.having] = np.add.reduceat(values, np.searchsorted(self.owners, self.having), axis=0)
        return found


def stack_terms(shifts: Sequence[OuterTerms | None], scales: Row | None = None) -> StackedTerms:
    """Stacks the terms of one weight.

    Args:
        shifts: its terms in each shift, at least one not None. Where some have a kernel and others none, all are
            written without.
        scales: of the shifts, `[k]`, taken into `a`; 1 by default.
    """
    held = [(shift, terms) for shift, terms in enumerate(_of_one_form(shifts)) if terms is not None]
    factors = np.ones(len(shifts)) if scales is None else scales
    kernels = [terms.kernel for _, terms in held if terms.kernel is not None]
    return StackedTerms(
        a=np.concatenate([np.multiply(terms.a, factors[shift], dtype=np.float64) for shift, terms in held]),
        b=np.concatenate([terms.b for _, terms in held]).astype(np.float64),
        kernel=np.concatenate(kernels).astype(np.float64) if kernels else None,
        owners=np.concatenate([np.full(terms.rank, shift, np.intp) for shift, terms in held]),
        count=len(shifts),
    )


def multiplied(shifts: Sequence[OuterTerms | None], scales: Row, factors: Factors) -> OuterTerms | None:
    """`sum_i diag(rows_i) scale_i L_i diag(columns_i)` as terms; None if nothing of it is left.

    Raises:
        ShiftFileError: a value that float32 cannot hold.
    """
    if factors.rows.shape[1] == 1 and factors.columns is None:
        one_each = (factors.rows[:, 0] * scales).tolist()
        return sum_terms([(factor, each) for factor, each in zip(one_each, shifts, strict=True) if each and factor])
    found = []
    for shift, terms in enumerate(_of_one_form(shifts)):
        if terms is not None:
            with np.errstate(over="ignore"):
                a = (terms.a * (scales[shift] * factors.rows[shift])).astype(np.float32)
                b = terms.b if factors.columns is None else (terms.b * factors.columns[shift]).astype(np.float32)
            found.append((1.0, OuterTerms(a, b, terms.kernel)))
    return sum_terms(found)


def _of_one_form(shifts: Sequence[OuterTerms | None]) -> list[OuterTerms | None]:
    """All with a kernel of one size, or all without."""
    if len({(each.b.shape[1], each.taps) for each in shifts if each}) <= 1:
        return list(shifts)
    return [OuterTerms(each.a, each.right.astype(np.float32)) if each else None for each in shifts]


def _products(vectors: Rows) -> Rows:
    """Inner products of rows, each with each."""
    found: Rows = np.einsum("sn,tn->st", vectors, vectors)
    return found


def _quadratic(vectors: Rows, products: Rows) -> Row:
    """`sum_st vectors_s[n] products_st vectors_t[n]`: `[n]`, at least 0."""
    found: Row = np.maximum(np.einsum("sn,st,tn->n", vectors, products, vectors), 0.0)
    return found
