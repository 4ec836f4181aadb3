"""Methods that are a weighted sum."""

from __future__ import annotations

from spectra.combine.merging.registry import method
from spectra.combine.merging.stacked_terms import Factors, Row, Rows, StackedTerms
from spectra.shift.sums import weighted_sum


def _by_weight(terms: StackedTerms, weights: Row) -> Factors:
    """All terms follow each other, the weight in their `a`."""
    return Factors(weights[:, None])


@method("interpolate", shares="alpha", source="SVDiff, arXiv:2303.11305, section 3.3", terms=_by_weight)
def interpolate(deltas: Rows, weights: Row) -> Row:
    """A straight line: alpha times the first and 1 - alpha times the second."""
    return weighted_sum(deltas, weights)


@method(
    "add",
    shares="each",
    default_weight=1.0,
    source="SVDiff, arXiv:2303.11305; task arithmetic, arXiv:2212.04089",
    terms=_by_weight,
)
def add(deltas: Rows, weights: Row) -> Row:
    """The sum; each weight is 1 if none is given."""
    return weighted_sum(deltas, weights)


@method("weighted", shares="each", source="model soups, arXiv:2203.05482", terms=_by_weight)
def weighted(deltas: Rows, weights: Row) -> Row:
    """The sum by weight, not normalised; the mean if no weight is given."""
    return weighted_sum(deltas, weights)
