"""Methods that first leave out a part of every shift, and then sum, or let the shifts agree on a sign.

What is left out is chosen weight by weight: shares of one weight's coordinates, its smallest or largest by |delta|.
Values of equal size go together.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from spectra.combine.merging.registry import Row, Rows, method
from spectra.shift.sums import weighted_sum


@method("ties", shares="each", source="TIES-Merging, arXiv:2306.01708")
def ties(deltas: Rows, weights: Row, *, density: float = 0.2) -> Row:
    """Keeps each shift's largest values, elects a sign, averages what agrees with it."""
    return _elected_mean(np.where(_largest(deltas, density), deltas, 0.0), weights)


@method("dare", shares="each", source="DARE, arXiv:2311.03099")
def dare(deltas: Rows, weights: Row, *, density: float = 0.5, random: Rows) -> Row:
    """Drops values at random, enlarges the rest by 1 / density, sums by weight."""
    return weighted_sum(_dropped(deltas, density, random), weights)


@method("dare-ties", shares="each", source="DARE with the election of TIES, arXiv:2311.03099")
def dare_ties(deltas: Rows, weights: Row, *, density: float = 0.5, random: Rows) -> Row:
    """Drops values at random as dare does, then elects and averages as ties does."""
    return _elected_mean(_dropped(deltas, density, random), weights)


@method("della", shares="each", source="DELLA-Merging, arXiv:2406.11617")
def della(deltas: Rows, weights: Row, *, density: float = 0.5, epsilon: float = 0.2, random: Rows) -> Row:
    """Drops values at random, small ones rather than large ones, then elects and averages.

    A value is kept with a probability that falls with its rank by |delta|, evenly, from `density + epsilon / 2` to
    `density - epsilon / 2`, and enlarged by one over that.
    """
    probabilities = density + epsilon * (0.5 - (_ranks(deltas) + 0.5) / deltas.shape[1])
    return _elected_mean(_dropped(deltas, probabilities, random), weights)


@method("breadcrumbs", shares="each", source="Model Breadcrumbs, arXiv:2312.06795")
def breadcrumbs(deltas: Rows, weights: Row, *, density: float = 0.9, gamma: float = 0.01) -> Row:
    """Leaves out the share gamma of largest values and the smallest ones, sums by weight."""
    chosen = _largest(deltas, density + gamma) & ~_largest(deltas, gamma)
    return weighted_sum(np.where(chosen, deltas, 0.0), weights)


@method("sce", shares="none", source="FuseChat's SCE, arXiv:2408.07990")
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
