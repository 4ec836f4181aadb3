"""Methods that first leave out a part of every shift, and then sum, or let the shifts agree on a sign.

What is left out is chosen weight by weight: shares of one weight's coordinates, its smallest or largest by |delta|.
Values of equal size go together.

Of outer terms, rows and columns of the change `L_i` that they make are left out, by their lengths: where a share of all
entries is meant, its square root of the rows and of the columns. That leaves the rank as it is, and does not depend on
how `L_i` is written as terms. A sign is elected for each row: a row of a shift agrees if it points to the side of the
weighted sum. The mean of rows that agree is taken as far as they point the same way, and those at right angles stand
side by side: row i has the share `w_i / sum_j w_j cos^2(i, j)` in it, over those j that agree and have a positive
cosine. Where all rows are parallel, so that signs are all that differs, that is what is done to deltas.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import numpy.typing as npt

from spectra.combine.merging.registry import method
from spectra.combine.merging.stacked_terms import Factors, Row, Rows, StackedTerms
from spectra.shift.sums import weighted_sum

_Random = tuple[Rows, Rows]


def _ties_of_terms(terms: StackedTerms, weights: Row, *, density: float) -> Factors:
    """Keeps each shift's longest rows and columns, then elects and averages."""
    return _elected_rows(terms, _kept(terms, lambda sizes: _largest(sizes, density**0.5)), weights)


@method("ties", shares="each", source="TIES-Merging, arXiv:2306.01708", terms=_ties_of_terms)
def ties(deltas: Rows, weights: Row, *, density: float = 0.2) -> Row:
    """Keeps each shift's largest values, elects a sign, averages what agrees with it."""
    return _elected_mean(np.where(_largest(deltas, density), deltas, 0.0), weights)


def _dare_of_terms(terms: StackedTerms, weights: Row, *, density: float, random: _Random) -> Factors:
    """Drops rows and columns at random, and sums by weight."""
    kept = _dropped_sides(terms, density, random)
    return Factors(kept.rows * weights[:, None], kept.columns)


@method("dare", shares="each", source="DARE, arXiv:2311.03099", terms=_dare_of_terms)
def dare(deltas: Rows, weights: Row, *, density: float = 0.5, random: Rows) -> Row:
    """Drops values at random, enlarges the rest by 1 / density, sums by weight."""
    return weighted_sum(_dropped(deltas, density, random), weights)


def _dare_ties_of_terms(terms: StackedTerms, weights: Row, *, density: float, random: _Random) -> Factors:
    """Drops rows and columns at random, then elects and averages."""
    return _elected_rows(terms, _dropped_sides(terms, density, random), weights)


@method(
    "dare-ties",
    shares="each",
    source="DARE with the election of TIES, arXiv:2311.03099",
    terms=_dare_ties_of_terms,
)
def dare_ties(deltas: Rows, weights: Row, *, density: float = 0.5, random: Rows) -> Row:
    """Drops values at random as dare does, then elects and averages as ties does."""
    return _elected_mean(_dropped(deltas, density, random), weights)


def _della_of_terms(terms: StackedTerms, weights: Row, *, density: float, epsilon: float, random: _Random) -> Factors:
    """Drops rows and columns at random, short ones rather than long ones, then elects and averages."""
    rows, columns = terms.row_energies, terms.column_energies
    kept = Factors(
        *(
            _dropped(np.ones_like(sizes), np.sqrt(_probabilities(sizes, density, epsilon)), drawn)
            for sizes, drawn in ((rows, random[0]), (columns, random[1]))
        )
    )
    return _elected_rows(terms, kept, weights)


@method("della", shares="each", source="DELLA-Merging, arXiv:2406.11617", terms=_della_of_terms)
def della(deltas: Rows, weights: Row, *, density: float = 0.5, epsilon: float = 0.2, random: Rows) -> Row:
    """Drops values at random, small ones rather than large ones, then elects and averages.

    A value is kept with a probability that falls with its rank by |delta|, evenly, from `density + epsilon / 2` to
    `density - epsilon / 2`, and enlarged by one over that.
    """
    return _elected_mean(_dropped(deltas, _probabilities(deltas, density, epsilon), random), weights)


def _breadcrumbs_of_terms(terms: StackedTerms, weights: Row, *, density: float, gamma: float) -> Factors:
    """Leaves out the longest and the shortest rows and columns, so that these shares of the entries go."""
    most = 1 - (1 - gamma) ** 0.5

    def chosen(sizes: Rows) -> npt.NDArray[np.bool_]:
        return _largest(sizes, density**0.5 + most) & ~_largest(sizes, most)

    kept = _kept(terms, chosen)
    return Factors(kept.rows * weights[:, None], kept.columns)


@method("breadcrumbs", shares="each", source="Model Breadcrumbs, arXiv:2312.06795", terms=_breadcrumbs_of_terms)
def breadcrumbs(deltas: Rows, weights: Row, *, density: float = 0.9, gamma: float = 0.01) -> Row:
    """Leaves out the share gamma of largest values and the smallest ones, sums by weight."""
    chosen = _largest(deltas, density + gamma) & ~_largest(deltas, gamma)
    return weighted_sum(np.where(chosen, deltas, 0.0), weights)


def _sce_of_terms(terms: StackedTerms, weights: Row, *, density: float) -> Factors:
    """Selects the rows and columns where shifts differ most, the same of all, then as `sce`."""
    count, summed = terms.count, terms.together()

    def chosen(own: Rows, of_sum: Rows) -> Rows:
        variance = np.sum(own, axis=0) / count - of_sum[0] / count**2
        return np.repeat(_largest(variance[None], density**0.5).astype(np.float64), count, axis=0)

    kept = Factors(
        chosen(terms.row_energies, summed.row_energies), chosen(terms.column_energies, summed.column_energies)
    )
    energies = np.maximum(np.diag(terms.times(kept).gram), 0.0)
    return _elected_rows(terms, kept, energies, voting=np.ones(count))


@method("sce", shares="none", source="FuseChat's SCE, arXiv:2408.07990", terms=_sce_of_terms)
def sce(deltas: Rows, weights: Row, *, density: float = 0.5) -> Row:
    """Selects where shifts differ most, weighs each by its energy there, averages what agrees in sign."""
    chosen = np.where(_largest(np.var(deltas, axis=0)[None], density), deltas, 0.0)
    energies = np.sum(np.square(chosen), axis=1)
    return _elected_mean(chosen, energies, elected=np.sum(chosen, axis=0))


def _elected_mean(deltas: Rows, weights: Row, elected: Row | None = None) -> Row:
    """The weighted mean of the values that have the elected sign: that of the weighted sum, if no other is given.

    Where the sum is zero there is no sign, and no value. A weight says how much a shift counts; a negative one turns
    the shift around.
    """
    turned = deltas * np.sign(weights)[:, None]
    shares = np.abs(weights)[:, None]
    signs = np.sign(np.sum(turned * shares, axis=0) if elected is None else elected)
    agrees = (turned * signs > 0) * shares
    counted = np.sum(agrees, axis=0)
    mean: Row = np.sum(turned * agrees, axis=0) / np.where(counted > 0, counted, 1.0)
    return mean


def _elected_rows(terms: StackedTerms, kept: Factors, weights: Row, voting: Row | None = None) -> Factors:
    """Of what is kept of the terms, the rows that agree with their sum, averaged as far as they are parallel.

    Args:
        terms, kept: of all shifts.
        weights: `[k]`; a negative one turns the shift around.
        voting: `[k]`: weights of the sum by which rows are elected, if they are others.
    """
    turned = terms.times(kept).times(Factors(np.sign(weights)[:, None]))
    shares = np.abs(weights)
    votes = (shares if voting is None else voting)[:, None]
    lengths = np.sqrt(turned.row_energies)
    agrees = np.zeros(lengths.shape, bool)
    for shift in turned.having:
        agrees[shift] = np.sum(votes * turned.row_products(shift), axis=0) > 0
    said = shares[:, None] * agrees
    rows = np.zeros(lengths.shape)
    for shift in turned.having:
        sizes = lengths[shift] * lengths
        cosines = np.clip(turned.row_products(shift) / np.where(sizes > 0, sizes, 1.0), 0.0, 1.0)
        cosines[shift] = 1.0
        counted = np.sum(said * np.square(cosines), axis=0)
        rows[shift] = said[shift] / np.where(counted > 0, counted, 1.0)
    return Factors(kept.rows * rows * np.sign(weights)[:, None], kept.columns)


def _kept(terms: StackedTerms, choose: Callable[[Rows], npt.NDArray[np.bool_]]) -> Factors:
    """Ones for the rows and columns that are chosen by their energies, zeros for the others."""
    rows, columns = (choose(sizes).astype(np.float64) for sizes in (terms.row_energies, terms.column_energies))
    return Factors(rows, columns)


def _dropped_sides(terms: StackedTerms, density: float, random: _Random) -> Factors:
    """Rows and columns kept with probability `sqrt(density)` each, and divided by it."""
    rows, columns = (_dropped(np.ones(each.shape), density**0.5, each) for each in random)
    return Factors(rows, columns)


def _probabilities(sizes: Rows, density: float, epsilon: float) -> Rows:
    """The probabilities of della, by the ranks of each row's values."""
    probabilities: Rows = density + epsilon * (0.5 - (_ranks(sizes) + 0.5) / sizes.shape[1])
    return probabilities


def _dropped(deltas: Rows, probability: float | Rows, random: Rows) -> Rows:
    """Each value kept with that probability, and then divided by it, so that nothing changes on average."""
    return np.where(random < probability, deltas / probability, 0.0)


def _largest(deltas: Rows, share: float) -> npt.NDArray[np.bool_]:
    """True for the largest values of each row by |delta|: `share` of them, rounded, and values equal to one of them."""
    size = np.abs(deltas)
    number = min(deltas.shape[1], int(share * deltas.shape[1] + 0.5))
    if number == 0:
        return np.zeros(deltas.shape, dtype=bool)
    threshold = np.partition(size, -number, axis=1)[:, -number]
    return size >= threshold[:, None]


def _ranks(deltas: Rows) -> npt.NDArray[np.intp]:
    """Each value's place in its row by |delta|, 0 for the largest; of equal ones the first comes first."""
    order = np.argsort(-np.abs(deltas), axis=1, kind="stable")
    ranks = np.empty_like(order)
    np.put_along_axis(ranks, order, np.arange(deltas.shape[1])[None], axis=1)
    return ranks
