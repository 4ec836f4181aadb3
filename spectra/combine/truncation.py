"""Fewer outer terms of one weight: the best of their number, with the exact error.

Of terms without a kernel the best are the leading singular pairs of `a^T right` (Eckart and Young), found from two thin
QR decompositions and the singular values of a small matrix. Terms `a (x) b (x) kernel` are fitted by alternating least
squares (Carroll and Chang 1970; Kolda and Bader 2009, doi:10.1137/07070111X, section 3.4), from two starts. Where terms
without a kernel come as near in no more floats, these are taken.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
import numpy.typing as npt

from spectra.shift.outer_terms import OuterTerms

_Floats: TypeAlias = npt.NDArray[np.float64]
_Sides: TypeAlias = list[_Floats]
"""The vectors of R terms: `[n0, R]`, `[n1, R]` and, of terms with a kernel, `[taps, R]`."""

_AT_ONCE = 256
"""Terms of which the best are found at once; more are taken in one after the other, that many at a time."""

_NOTHING = 1e-12
"""Relative size below which a singular value is rounding."""

_SWEEPS = 500
_STILL, _EXACT = 1e-6, 1e-14
"""Fall of the squared error in a sweep at which fitting ends: relative to that error, and to the terms' energy."""


@dataclass(frozen=True, eq=False)
class Truncated:
    """Fewer terms of one weight.

    Attributes:
        terms: what is left; None if nothing is.
        energy: `||L||^2` of all terms together.
        lost: `||L - terms||^2`.
    """

    terms: OuterTerms | None
    energy: float
    lost: float


def truncated(terms: OuterTerms, rank: int) -> Truncated:
    """The best `rank` terms for the change that `terms` make; these themselves if there are no more.

    Terms without a kernel are optimal, up to 256 of them; terms with one are a local optimum of the fit. `lost` is of
    the terms as they are rounded to float32, from inner products in float64: its root is exact to 1e-7 of `||L||`.
    """
    energy = max(0.0, terms.dot(terms))
    if terms.rank <= rank:
        return Truncated(terms, energy, 0.0)
    candidates = _fits(terms, rank)
    lost = [_lost(terms, energy, each) for each in candidates]
    best = int(np.argmin(lost))
    return Truncated(candidates[best], energy, lost[best])


def _fits(terms: OuterTerms, rank: int) -> list[OuterTerms | None]:
    """Candidates: `rank` terms, and for terms with a kernel as many without one as take no more floats."""
    if terms.kernel is None:
        return [_rounded(_leading(_sides(terms), rank))]
    found = [_rounded(_separable(_sides(terms), rank))]
    plain = rank * (terms.floats // terms.rank) // sum(terms.shape)
    if plain:
        found.append(_rounded(_leading(_sides(terms, expanded=True), plain)))
    return found


def _leading(sides: _Sides, rank: int) -> _Sides:
    """The leading singular pairs of `left right^T`: `[n0, rank]` and `[columns, rank]`, sigma shared between both."""
    room = max(2 * rank, rank + 32)
    kept = [side[:, :0] for side in sides]
    for start in range(0, sides[0].shape[1], _AT_ONCE):
        block = [np.hstack([old, side[:, start : start + _AT_ONCE]]) for old, side in zip(kept, sides, strict=True)]
        last = start + _AT_ONCE >= sides[0].shape[1]
        kept = _pairs(block, rank if last else room)
    return kept


def _pairs(sides: _Sides, rank: int) -> _Sides:
    (left, left_core), (right, right_core) = map(np.linalg.qr, sides)
    u, sigma, vt = np.linalg.svd(left_core @ right_core.T, full_matrices=False)
    count = min(rank, int(np.count_nonzero(sigma > _NOTHING * sigma[0])))
    shares = np.sqrt(sigma[:count])
    return [left @ (u[:, :count] * shares), right @ (vt[:count].T * shares)]


def _separable(sides: _Sides, rank: int) -> _Sides:
    """The better of two fits of `rank` terms of three vectors each.

    All three sides are first written in an orthonormal basis of what they span, which changes no distance.
    """
    bases, cores = (list(each) for each in zip(*(np.linalg.qr(side) for side in sides), strict=True))
    sizes = math.prod(np.linalg.norm(core, axis=0) for core in cores)
    largest = np.argsort(-sizes, kind="stable")[:rank]
    starts = [_folded(cores, rank), [core[:, largest] for core in cores]]
    fits = [_alternate(cores, start) for start in starts]
    best = min(fits, key=lambda fit: _energy(fit) - 2 * _product(cores, fit))
    return [basis @ side for basis, side in zip(bases, best, strict=True)]


def _folded(cores: _Sides, rank: int) -> _Sides:
    """A start: the leading pairs of the change as a matrix, each right one as its nearest product of two vectors."""
    b, kernel = cores[1:]
    left, right = _leading([cores[0], (b[:, None, :] * kernel[None, :, :]).reshape(-1, b.shape[1])], rank)
    folded = right.T.reshape(-1, len(b), len(kernel))
    u, sigma, vt = np.linalg.svd(folded, full_matrices=False)
    return [left, (u[:, :, 0] * sigma[:, :1]).T, vt[:, 0].T]


def _alternate(cores: _Sides, start: _Sides) -> _Sides:
    """Fits one side after the other until nothing is gained; the vectors of every term are of one length."""
    fit = list(start)
    energy = _energy(cores)
    before = math.inf
    for _ in range(_SWEEPS):
        for side in range(3):
            others = [other for other in range(3) if other != side]
            for other in others:
                lengths = np.linalg.norm(fit[other], axis=0)
                fit[other] = fit[other] / np.where(lengths > 0, lengths, 1.0)
            products = math.prod(cores[other].T @ fit[other] for other in others)
            among = math.prod(fit[other].T @ fit[other] for other in others)
            fit[side] = cores[side] @ products @ np.linalg.pinv(among, hermitian=True)
        # The last side's equations hold: ||L - fit||^2 = ||L||^2 - <L, fit>.
        lost = energy - float(np.sum(fit[2] * (cores[2] @ products)))
        if before - lost <= _STILL * lost + _EXACT * energy:
            break
        before = lost
    return fit


def _product(first: _Sides, second: _Sides) -> float:
    """The inner product of the changes of two sets of terms."""
    return float(np.sum(math.prod(x.T @ y for x, y in zip(first, second, strict=True))))


def _energy(sides: _Sides) -> float:
    return _product(sides, sides)


def _lost(terms: OuterTerms, energy: float, left: OuterTerms | None) -> float:
    """The squared distance of terms of this energy to what is left of them."""
    return energy if left is None else max(0.0, energy - 2 * terms.dot(left) + left.dot(left))


def _sides(terms: OuterTerms, *, expanded: bool = False) -> _Sides:
    """The vectors of the terms as columns, in float64; with `b (x) kernel` as one vector if `expanded`."""
    rights: list[npt.NDArray[np.floating]]
    rights = [terms.right] if expanded or terms.kernel is None else [terms.b, terms.kernel]
    return [side.T.astype(np.float64) for side in (terms.a, *rights)]


def _rounded(sides: _Sides) -> OuterTerms | None:
    """The terms in float32: kernels of length 1, `a` and `b` of one length; None if all are zero."""
    lengths = [np.linalg.norm(side, axis=0) for side in sides]
    sizes = math.prod(lengths)
    held = sizes > 0
    if not held.any():
        return None
    units = [side[:, held] / length[held] for side, length in zip(sides, lengths, strict=True)]
    share = np.sqrt(sizes[held])
    a, b = ((side * share).T.astype(np.float32) for side in units[:2])
    return OuterTerms(a, b, *(side.T.astype(np.float32) for side in units[2:]))
