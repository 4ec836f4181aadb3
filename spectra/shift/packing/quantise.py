"""Values to whole numbers: one step for all pieces of a group, as large as the error that is allowed.

One step for all is reverse water-filling: every piece with more energy than the error takes the same error, and one
with less becomes zero and costs nothing. A piece is a delta, a vector of an outer term, or the vectors of a word. What
changes matrices, 1-D weights and words are groups, each within the error, since the shifts of norms are so small beside
the others that they would vanish.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import TypeAlias

import numpy as np
import numpy.typing as npt

from spectra.errors import ShiftFileError
from spectra.shift.packing.tokens import to_tokens
from spectra.shift.packing.trellis import Floats, Integers, Rate, find_path, level
from spectra.shift.shift import Delta

Measure: TypeAlias = Callable[[Floats, Floats], Floats]

_LANES, _SHORTEST_LANE = 256, 1024
"""Sequences at most, and values of each at least: many decode fast, each costs two or three bytes."""

_CLOSE = 0.996
"""A step is good when the error lies between this fraction of what is allowed and all of it."""

_SEARCHES, _PATIENCE, _LAST = 4, 12, 50
"""Paths that are searched at least; after which any step within the error is good; and at most.

After twice the patience what tokens cost is left out: it can lead a handful of values from one extreme to the other.
"""

_SQUARED_ERROR = 0.26
"""Mean error of the trellis at high rates, in squared steps."""

_UNSEEN = 0.05
"""A token that has not occurred costs as much as if it had, this often."""


@dataclass(frozen=True)
class Quantised:
    """Pieces as whole numbers.

    Attributes:
        steps: of each group; 0 where all of it is zero.
        errors: of each group, `||values - quantised|| / ||values||`, in what `measure` counts.
        scales: of each piece, 0, 1, ... by the size of its values, in fourths of an octave; -1 if all of it is zero.
        lanes: sequences of the trellis: value i belongs to lane `i % lanes`.
        k: `[n]`, of the values of all pieces that are not zero, one piece after the other.
        odd: `[n]`, whether the trellis' state was odd before each.
        negative: `[n]`.
    """

    steps: tuple[float, ...]
    errors: tuple[float, ...]
    scales: tuple[int, ...]
    lanes: int
    k: Integers
    odd: Integers
    negative: npt.NDArray[np.bool_]


def dequantise(k: Integers, odd: Integers, negative: npt.NDArray[np.bool_], steps: Floats) -> Delta:
    """The values that whole numbers stand for, `[n]`, rounded once to float32."""
    values = level(k, odd) * steps
    with np.errstate(over="ignore"):
        rounded: Delta = np.where(negative, -values, values).astype(np.float32)
    return rounded


def quantise(
    pieces: Sequence[npt.NDArray[np.floating]],
    groups: Sequence[int],
    error: float,
    *,
    bundles: Sequence[int] | None = None,
    measure: Measure = lambda squared, _: squared,
) -> Quantised:
    """The cheapest whole numbers whose error is at most `error`, relative to the norm of each group.

    Args:
        pieces: vectors of floats.
        groups: of each piece: 0, 1, ...
        error: above 0, below 1.
        bundles: the first piece of each bundle of pieces that are zero together; by default each stands alone.
        measure: the squared error that counts for each piece, from the squared differences of its values and from the
            values `[n]` that are read; these differences by default. Without any value, it is what `error` is part of.

    Raises:
        ShiftFileError: no step was found; values of very different size can need more digits than there are.
    """
    values, group = np.concatenate(pieces).astype(np.float64), np.array(groups)
    owner = np.repeat(np.arange(len(pieces)), [piece.size for piece in pieces])
    sizes, energy = np.bincount(owner), np.bincount(owner, values**2).astype(np.float64)
    starts = np.arange(len(pieces)) if bundles is None else np.array(bundles)
    together = np.diff(np.append(starts, len(pieces)))
    largest = np.maximum.reduceat(np.abs(values), np.cumsum(sizes) - sizes)
    norms = np.sqrt(np.bincount(group, measure(energy, np.zeros(len(values)))))
    steps = error * norms / np.sqrt(_SQUARED_ERROR * np.maximum(np.bincount(group, sizes), 1))
    scales = _scales(np.sqrt(energy / sizes), steps[group])
    counts: Integers | None = None
    for search in range(1, _LAST + 1):
        # What does not reach a step becomes zero whatever the path.
        alive = np.logical_and.reduceat((largest >= steps[group]) & (energy > 0), starts).repeat(together)
        coded = alive[owner]
        step, scale = steps[group[owner[coded]]], scales[owner[coded]]
        patient = search < _PATIENCE
        rate = None if counts is None or search > 2 * _PATIENCE else _rate(counts, scale)
        lanes = min(max(len(step) // _SHORTEST_LANE, 1), _LANES)
        k, odd = find_path(values[coded] / step, lanes, rate)
        negative = (values[coded] < 0) & (k > 0)
        counts = count_tokens(k, odd, scale, int(scales.max()) + 1)
        restored = np.zeros(len(values))
        restored[coded] = dequantise(k, odd, negative, step)
        squared = np.bincount(owner, (values - restored) ** 2).astype(np.float64)
        missed = np.sqrt(np.bincount(group, measure(squared, restored)))
        errors = missed / np.where(norms > 0, norms, 1)
        close = (errors >= _CLOSE * error) | (norms == 0) | (not patient)
        if search >= _SEARCHES and (errors <= error).all() and close.all():
            known = np.where(alive, scales, -1)
            return Quantised(tuple(steps), tuple(errors), tuple(known), lanes, k, odd, negative)
        better = np.clip(0.5 * (1 + _CLOSE) * error / np.maximum(errors, 1e-300), 0.5, 2)
        steps = steps * (better if patient else np.minimum(better, 1))
    raise ShiftFileError(f"expected an error of at most {error:g}, reached {errors.max():.3g}; allow a larger one")


def _scales(rms: Floats, steps: Floats) -> Integers:
    """The size of each piece's values in steps, in fourths of an octave from the smallest that counts."""
    known = np.maximum(rms, 1e-300) / np.where(steps > 0, steps, 1)
    found = np.clip(np.round(4 * np.log2(known)), -16, 120).astype(np.int64)
    smallest: Integers = found - found.min()
    return smallest


def count_tokens(k: Integers, odd: Integers, scale: Integers, scales: int) -> Integers:
    """Occurrences of each token, `[scales, 2, tokens]`: by the scale of its weight and the trellis' state."""
    tokens, _ = to_tokens(k)
    width = int(tokens.max(initial=0)) + 1
    flat = np.bincount((2 * scale + odd) * width + tokens, minlength=2 * scales * width)
    return flat.reshape(scales, 2, width).astype(np.int64)


def _rate(counts: Integers, scale: Integers) -> Rate:
    """The bits that a number costs if tokens are as frequent as they were in the search before."""
    weighed = counts + _UNSEEN
    bits = np.log2(weighed.sum(2, keepdims=True)) - np.log2(weighed)

    def rate(k: Integers, odd: int) -> Floats:
        tokens, below = to_tokens(k)
        costs: Floats = bits[scale, odd, np.minimum(tokens, counts.shape[2] - 1)] + below + (k > 0)
        return costs

    return rate


def merge_scales(counts: Integers) -> tuple[Integers, Integers]:
    """Neighbouring scales that share their frequencies, where a table of their own costs more than it saves.

    Args:
        counts: from `count_tokens`.

    Returns:
        The class of each scale `[scales]`, and the counts of each class `[classes, 2, tokens]`.
    """
    members = [[scale] for scale in range(len(counts))]
    tables = list(counts)
    table_bits = 16 * counts[0].size
    while len(tables) > 1:
        saved = [table_bits + _entropy(a) + _entropy(b) - _entropy(a + b) for a, b in pairwise(tables)]
        best = int(np.argmax(saved))
        if saved[best] <= 0:
            break
        tables[best : best + 2] = [tables[best] + tables[best + 1]]
        members[best : best + 2] = [members[best] + members[best + 1]]
    classes = np.zeros(len(counts), dtype=np.int64)
    for number, scales in enumerate(members):
        classes[scales] = number
    return classes, np.array(tables)


def _entropy(counts: Integers) -> float:
    """Bits that all of the tokens take."""
    total = counts.sum(1, keepdims=True)
    terms = np.where(counts > 0, counts * (np.log2(np.maximum(total, 1)) - np.log2(np.maximum(counts, 1))), 0.0)
    return float(terms.sum())
