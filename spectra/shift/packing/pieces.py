"""The values of a shift as pieces that are quantised with one step, and back.

All of them are in the unit of Delta W: an error of a piece is as large an error of Delta W. A delta is so already, and
the vectors of a word. Of an outer term all vectors are given the norm of the term; then to first order

    ||a (x) b (x) kernel - a' (x) b' (x) kernel'||^2 = ||da||^2 + ||db||^2 + ||dkernel||^2

and only a needs its norm back: b and kernel are read as directions. The error is that of the products, not this sum.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from spectra.shift.few_directions import Shortened, few, lengthen, shorten
from spectra.shift.outer_terms import OuterTerms
from spectra.shift.packing.trellis import Floats
from spectra.shift.packing.weights import PackedWeight, Terms
from spectra.shift.shift import SpectralShift
from spectra.shift.word_vectors import WordVectors

Sides = tuple[npt.NDArray[np.floating], ...]


@dataclass(frozen=True)
class Pieces:
    """The pieces of a shift.

    Attributes:
        weights: what each weight has.
        values: of each piece, `[n]`.
        bundles: the first piece of each bundle: pieces that are nothing without each other, as those of a term.
        masks: of the deltas that have one, bool `[length]`.
        terms: a, b and kernel of outer terms by weight name, float64; b and kernel have norm 1.
    """

    weights: tuple[PackedWeight, ...]
    values: tuple[npt.NDArray[np.floating], ...]
    bundles: tuple[int, ...]
    masks: tuple[npt.NDArray[np.bool_], ...]
    terms: Mapping[str, Sides]

    @property
    def groups(self) -> list[int]:
        """The group of each piece, an index into `GROUPS`."""
        return [group for weight in self.weights for _, group in weight.pieces]

    def measure(self, squared: Floats, restored: Floats) -> Floats:
        """The squared error of Delta W for each piece, `[pieces]`: that of all terms of a weight stands at their first.

        Args:
            squared: squared differences of each piece's values.
            restored: `[n]`, what is read in place of the values.
        """
        found, piece, place = squared.copy(), 0, 0
        for weight in self.weights:
            first = piece + (weight.count > 0)
            start = place + weight.count
            if weight.terms:
                packed = _sides(restored[start:], weight.terms)
                last = first + weight.terms.rank * len(weight.terms.sides)
                found[first:last] = 0
                found[first] = _squared_difference(self.terms[weight.name], packed)
            piece += len(weight.pieces)
            place += sum(size for size, _ in weight.pieces)
        return found


def packed_pieces(shift: SpectralShift) -> tuple[Pieces, bool]:
    """The pieces that a packed file of a shift holds, and whether they are whole deltas alone, as in version 2."""
    if shift.outer or shift.words or few(shift.values()):
        pieces = pieces_of(shift, deltas_only=False)
        if pieces.values:
            return pieces, False
    return pieces_of(SpectralShift(shift, shift.metadata), deltas_only=True), True


def pieces_of(shift: SpectralShift, *, deltas_only: bool) -> Pieces:
    """The pieces of a shift; with `deltas_only` each delta whole, zeros included. Terms that are zero are left out."""
    weights: list[PackedWeight] = []
    values: list[npt.NDArray[np.floating]] = []
    bundles: list[int] = []
    masks: list[npt.NDArray[np.bool_]] = []
    sides = {name: _unit_sides(outer.sides) for name, outer in shift.outer.items()}
    for name, delta in shift.items():
        kept, places = (delta, None) if deltas_only else shorten(delta + np.float32(0))  # no signs of zeros
        if places is not None:
            masks.append(np.isin(np.arange(delta.size), places))
        terms = None
        if name in sides and len(sides[name][0]):
            lengths = [side.shape[1] for side in sides[name]]
            terms = Terms(len(sides[name][0]), *lengths, *([0] if len(lengths) == 2 else []))
        shape = shift.words[name].vectors.shape if name in shift.words else (0, 0)
        ndim = shift.metadata.ndims.get(name, 0)
        weights.append(PackedWeight(name, delta.size, ndim, kept.size, places is not None, terms, *shape))
        if kept.size:
            bundles.append(len(values))
            values.append(kept)
        for a, *directions in zip(*sides[name], strict=True) if terms else ():
            bundles.append(len(values))
            values += [a, *(side * _norm(a) for side in directions)]
        if name in shift.words:
            bundles.append(len(values))
            values.append(shift.words[name].vectors.reshape(-1))
    return Pieces(tuple(weights), tuple(values), tuple(bundles), tuple(masks), sides)


def parts_of(
    weights: Sequence[PackedWeight],
    values: npt.NDArray[np.float32],
    masks: Sequence[npt.NDArray[np.bool_]],
    words: Mapping[str, tuple[tuple[int, ...], str]],
) -> tuple[dict[str, npt.NDArray[Any]], dict[str, OuterTerms], dict[str, WordVectors]]:
    """Deltas, outer terms and words again. Terms that have become zero are left out.

    Args:
        weights: what each weight has.
        values: of all pieces, one after the other.
        masks: of the deltas that have one.
        words: token ids and text, of the weights that have word vectors.
    """
    deltas: dict[str, npt.NDArray[Any]] = {}
    outer: dict[str, OuterTerms] = {}
    found: dict[str, WordVectors] = {}
    place, left = 0, iter(masks)
    for weight in weights:
        places = np.flatnonzero(next(left)).astype(np.uint32) if weight.masked else None
        deltas[weight.name] = lengthen(Shortened(values[place : place + weight.count], places), weight.length)
        place += weight.count
        if weight.terms:
            sides = _nonzero(_sides(values[place:], weight.terms))
            if len(sides[0]):
                outer[weight.name] = OuterTerms(*(side.astype(np.float32) for side in sides))
            place += weight.terms.rank * sum(weight.terms.sides)
        if weight.tokens:
            size = weight.tokens * weight.dim
            vectors = values[place : place + size].reshape(weight.tokens, weight.dim)
            found[weight.name] = WordVectors(words[weight.name][0], vectors, words[weight.name][1])
            place += size
    return deltas, outer, found


def _unit_sides(sides: Sides) -> Sides:
    """a, b and kernel in float64: a has the norms of all, the others norm 1. Terms that are zero are left out."""
    a, *directions = (side.astype(np.float64) for side in _nonzero(sides))
    for place, side in enumerate(directions):
        norms = np.array([_norm(row) for row in side])[:, None]
        directions[place], a = side / norms, a * norms
    return (a, *directions)


def _sides(values: npt.NDArray[np.floating], terms: Terms) -> Sides:
    """a, b and kernel from the values of all terms, as they are read: float32, b and kernel of norm 1."""
    rows = values[: terms.rank * sum(terms.sides)].reshape(terms.rank, -1)
    a, *directions = np.split(rows, np.cumsum(terms.sides)[:-1], axis=1)
    units = []
    for side in directions:
        norms = np.array([_norm(row) for row in side])[:, None]
        units.append(np.divide(side, norms, out=np.zeros(side.shape), where=norms > 0).astype(np.float32))
    return (a.astype(np.float32), *units)


def _norm(vector: npt.NDArray[np.floating]) -> float:
    """The norm, rounded once, so that it is the same on every machine."""
    largest = float(np.abs(vector).max(initial=0))
    return largest * math.sqrt(math.fsum((vector.astype(np.float64) / largest) ** 2)) if largest else 0.0


def _nonzero(sides: Sides) -> Sides:
    """Without the terms of which a vector is zero."""
    kept = np.all([side.any(axis=1) for side in sides], axis=0)
    return tuple(side[kept] for side in sides)


def _squared_difference(old: Sides, packed: Sides) -> float:
    """`||sum_j a_j (x) b_j (x) kernel_j - a'_j (x) b'_j (x) kernel'_j||^2`, without a difference of large numbers.

    Telescoping, `a b k - a' b' k' = (a - a') b k + a' (b - b') k + a' b' (k - k')`.
    """
    new = [side.astype(np.float64) for side in packed]
    steps = [[*new[:i], old[i] - new[i], *old[i + 1 :]] for i in range(len(old))]
    stacked = [np.concatenate(rows) for rows in zip(*steps, strict=True)]
    return max(0.0, float(np.sum(math.prod((rows @ rows.T for rows in stacked[1:]), start=stacked[0] @ stacked[0].T))))
