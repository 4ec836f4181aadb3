"""Methods that are a weighted sum."""

from __future__ import annotations

import numpy as np

from spectra.combine.merging.registry import Row, Rows, method
from spectra.shift.sums import weighted_sum


@method("interpolate", shares="alpha", source="SVDiff, arXiv:2303.11305, section 3.3")
def interpolate(deltas: Rows, weights: Row) -> Row:
    """A straight line: alpha times the first and 1 - alpha times the second."""
    return weighted_sum(deltas, weights)


@method("add", shares="each", default_weight=1.0, source="SVDiff, arXiv:2303.11305; task arithmetic, arXiv:2212.04089")
def add(deltas: Rows, weights: Row) -> Row:
    """The sum; each weight is 1 if none is given."""
    return weighted_sum(deltas, weights)


@method("weighted", shares="each", source="model soups, arXiv:2203.05482")
def weighted(deltas: Rows, weights: Row) -> Row:
    """The sum by weight, not normalised; the mean if no weight is given."""
    return weighted_sum(deltas, weights)


@method("model-stock", shares="none", source="Model Stock, arXiv:2403.19522")
def model_stock(deltas: Rows, weights: Row) -> Row:
    """The mean, shortened by how little the shifts agree: k cos / (1 + (k - 1) cos) of it.

    `cos` is the mean cosine between two shifts of the weight; where it is not positive, nothing is left. A shift that
    is zero there has no direction, and its cosines count as 0.
    """
    count = len(deltas)
    lengths = np.sqrt(np.sum(np.square(deltas), axis=1))
    units = deltas / np.where(lengths > 0, lengths, 1.0)[:, None]
    together = np.sum(np.square(np.sum(units, axis=0))) - np.count_nonzero(lengths)
    cos = max(0.0, float(together) / (count * (count - 1))) if count > 1 else 1.0
    return weighted_sum(deltas, [1.0 / count] * count) * (count * cos / (1 + (count - 1) * cos))
