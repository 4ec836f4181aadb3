"""Methods that go by directions: a weight's delta as a length and a point on the unit sphere.

What they make is a sum of the shifts, with factors that follow from lengths and angles alone. So the outer terms of a
weight, together one point of their own, are merged by the angles between the shifts' changes.

Their sines, arc tangents and eigenvectors are the C library's and LAPACK's: their last digit, and so on rare occasions
that of a result, may differ from one platform to another.
"""

from __future__ import annotations

import math

import numpy as np

from spectra.combine.merging.registry import method
from spectra.combine.merging.stacked_terms import Factors, Row, Rows, StackedTerms
from spectra.errors import InputError
from spectra.shift.sums import weighted_sum

_PARALLEL = 1e-6
"""Radians from 0 or pi below which two directions span no plane, and the chord is taken instead of the arc."""

_STEPS = 1000
_STILL = 1e-13


def _model_stock_of_terms(terms: StackedTerms, weights: Row) -> Factors:
    """As `model_stock`, by the cosines between the shifts' terms."""
    count = terms.count
    return Factors(np.full((count, 1), _shortened(_points(terms)) / count))


@method("model-stock", shares="none", source="Model Stock, arXiv:2403.19522", terms=_model_stock_of_terms)
def model_stock(deltas: Rows, weights: Row) -> Row:
    """The mean, shortened by how little the shifts agree: k cos / (1 + (k - 1) cos) of it.

    `cos` is the mean cosine between two shifts of the weight; where it is not positive, nothing is left. A shift that
    is zero there has no direction, and its cosines count as 0.
    """
    return weighted_sum(deltas, [1.0 / len(deltas)] * len(deltas)) * _shortened(deltas)


def _shortened(deltas: Rows) -> float:
    count = len(deltas)
    units, lengths = _directions(deltas)
    together = np.sum(np.square(np.sum(units, axis=0))) - np.count_nonzero(lengths)
    cos = max(0.0, float(together) / (count * (count - 1))) if count > 1 else 1.0
    return count * cos / (1 + (count - 1) * cos)


def _slerp_of_terms(terms: StackedTerms, weights: Row) -> Factors:
    """As `slerp`, along the arc between the two shifts' terms."""
    return Factors(_along_arc(_points(terms), weights)[:, None])


@method("slerp", shares="alpha", source="Shoemake 1985, doi:10.1145/325165.325242", terms=_slerp_of_terms)
def slerp(deltas: Rows, weights: Row) -> Row:
    """From the second to the first along the arc between them; alpha 1 is the first.

    `sin(alpha t) / sin(t) * first + sin((1 - alpha) t) / sin(t) * second`, with `t` the angle between the two.
    Opposite or parallel ones, and one that is zero, are interpolated in a straight line.
    """
    return weighted_sum(deltas, _along_arc(deltas, weights))


def _along_arc(deltas: Rows, weights: Row) -> Row:
    """The factors of the two."""
    units, lengths = _directions(deltas)
    angle = _angle(units[0], units[1])
    if lengths.min() == 0 or angle < _PARALLEL or angle > math.pi - _PARALLEL:
        return weights
    return np.array([math.sin(weight * angle) / math.sin(angle) for weight in weights.tolist()])


def _karcher_of_terms(terms: StackedTerms, weights: Row) -> Factors:
    """As `karcher`, of the shifts' terms."""
    points = _points(terms)
    mean = karcher(points, weights)
    factors: Row = np.asarray(np.linalg.lstsq(points.T, mean, rcond=None)[0], np.float64)
    return Factors(factors[:, None])


@method("karcher", shares="each", source="Karcher 1977, doi:10.1002/cpa.3160300502", terms=_karcher_of_terms)
def karcher(deltas: Rows, weights: Row) -> Row:
    """The mean direction on the sphere, at the mean length; weights count by their share of the sum.

    The direction is that from which the weighted sum of squared angles to all is least: where the tangents to them
    cancel. Negative weights turn a shift around. Where the directions cancel each other there is no mean, and the
    result is zero.
    """
    shares = weights / np.sum(np.abs(weights)) if np.any(weights) else weights
    units, lengths = _directions(deltas * np.sign(shares)[:, None])
    shares = np.abs(shares)
    length = float(np.sum(shares * lengths))
    counted = (lengths > 0) & (shares > 0)
    units, shares = units[counted], shares[counted] / max(float(np.sum(shares[counted])), 1e-300)
    mean, size = _unit(np.sum(shares[:, None] * units, axis=0))
    return mean * 0.0 if size < _PARALLEL else _karcher_direction(units, shares, mean) * length


def _karcher_direction(units: Rows, shares: Row, start: Row) -> Row:
    """The least of `f(m) = sum_i shares_i t_i^2 / 2`, `t_i` the angle from `m` to `units_i`, near `start`.

    Its gradient is `-sum_i shares_i t_i / sin(t_i) (units_i - cos(t_i) m)`. Its curvature is at most 1, so that steps
    of 1 always go down; across the directions to all others it is `sum_i shares_i t_i cot(t_i)`, so that steps of one
    over that arrive sooner, where they do not overshoot.
    """
    mean, shortened, moved = start, 1.0, math.inf
    for _ in range(_STEPS):
        # An arc cosine errs by 1e-8 at small angles, and t / sin(t) = 1 + t^2 / 6 by the square of that.
        cosines = np.clip(np.sum(units * mean, axis=1), -1.0, 1.0)
        angles = np.arccos(cosines)
        stretch = shares / np.sinc(np.minimum(angles, math.pi - _PARALLEL) / math.pi)
        curvature = float(np.sum(stretch * cosines))
        tangent = np.sum(stretch[:, None] * units, axis=0) - curvature * mean
        before, moved = moved, float(np.max(np.abs(tangent)))
        if moved < _STILL:
            return mean
        if moved > 0.8 * before:
            shortened /= 2
        mean = _unit(mean + max(1.0, shortened / max(curvature, 1e-3)) * tangent)[0]
    raise InputError("karcher: these shifts point too far apart to have a mean direction; use weighted or ties")


def _points(terms: StackedTerms) -> Rows:
    """Points `[k, k]` that lie to each other as the shifts' terms do, one for each shift."""
    lengths = np.sqrt(np.maximum(np.diag(terms.gram), 0.0))
    safe = np.where(lengths > 0, lengths, 1.0)
    values, vectors = np.linalg.eigh(terms.gram / np.outer(safe, safe))
    points: Rows = vectors * np.sqrt(np.maximum(values, 0.0)) * lengths[:, None]
    return points


def _directions(deltas: Rows) -> tuple[Rows, Row]:
    """Unit vectors `[k, n]`, zero where a delta is, and lengths `[k]`."""
    lengths = np.sqrt(np.sum(np.square(deltas), axis=1))
    return deltas / np.where(lengths > 0, lengths, 1.0)[:, None], lengths


def _unit(vector: Row) -> tuple[Row, float]:
    length = math.sqrt(float(np.sum(np.square(vector))))
    return (vector / length if length else vector), length


def _angle(a: Row, b: Row) -> float:
    """The angle between two unit vectors; accurate for small ones too, where the arc cosine is not (Kahan)."""
    return 2.0 * math.atan2(math.sqrt(float(np.sum(np.square(a - b)))), math.sqrt(float(np.sum(np.square(a + b)))))
