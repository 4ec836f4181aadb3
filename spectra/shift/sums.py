"""Sums and inner products of what shifts change, by weight name, in float64.

A weight is changed by a diagonal, `U diag(delta) V^T`, by outer terms and by the vectors of a word, which are rows of
it. A weight that a mapping lacks counts as zero in it. The inner product of a diagonal and the rest is
`sum_i delta_i u_i^T change v_i`: it needs singular vectors, all others only what is in the shifts.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
import numpy.typing as npt

from spectra.shift.outer_terms import OuterTerms, Rows, rounded
from spectra.shift.word_vectors import WordVectors

Vector: TypeAlias = npt.NDArray[np.float64]
Deltas: TypeAlias = Mapping[str, npt.NDArray[np.floating]]

SingularPair: TypeAlias = tuple[npt.NDArray[np.floating], npt.NDArray[np.floating]]
"""The leading singular vectors of a weight: left `[rows, K]` and right `[columns, K]`."""

PairOf: TypeAlias = Callable[[str, int], SingularPair | None]
"""At least so many leading singular vectors of a weight by its name, or None where they are not known."""


@dataclass(frozen=True, eq=False)
class Parts:
    """What changes one weight: `delta [r]` along its singular directions, outer terms, and rows of an embedding."""

    delta: npt.NDArray[np.floating]
    outer: OuterTerms | None = None
    words: WordVectors | None = None

    @property
    def directions(self) -> int:
        """Leading directions beyond which delta is zero."""
        used = np.flatnonzero(self.delta)
        return int(used[-1]) + 1 if used.size else 0


def weighted_sum(
    deltas: npt.NDArray[np.floating] | Sequence[npt.NDArray[np.floating]], weights: Sequence[float] | Vector
) -> Vector:
    """`sum_i weights_i * deltas_i`, one term after the other, so that it is the same on every machine.

    Args:
        deltas: `[k, n]`, at least one row.
        weights: `[k]`. A term of weight zero is left out, and one of weight one taken as it is, zeros' signs included.

    Returns:
        float64 `[n]`.
    """
    total: Vector | None = None
    for weight, delta in zip(weights, deltas, strict=True):
        if weight != 0:
            term = np.multiply(delta, weight, dtype=np.float64)
            total = term if total is None else np.add(total, term, out=total)
    return np.zeros(len(deltas[0])) if total is None else total


def scaled_sum(terms: Iterable[tuple[float, Deltas]]) -> dict[str, Vector]:
    """The sum of `scale * deltas` over the terms: float64 `[r]` by weight name, with the weights of all terms."""
    rows: dict[str, list[tuple[float, npt.NDArray[np.floating]]]] = {}
    for scale, deltas in terms:
        for name, delta in deltas.items():
            rows.setdefault(name, []).append((scale, delta))
    return {name: weighted_sum([row[1] for row in rows[name]], [row[0] for row in rows[name]]) for name in sorted(rows)}


def sum_terms(terms: Sequence[tuple[float, OuterTerms]]) -> OuterTerms | None:
    """The sum of `scale * terms` of one weight, or None if nothing of it is left.

    Terms follow each other, the scale in their `a`. Those of equal b and kernel, bit for bit, become one; what is
    zero then is left out. Where some have a kernel and others none, all are written without.

    Raises:
        ShiftFileError: a value that float32 cannot hold.
    """
    if len({(each.b.shape[1], each.taps) for _, each in terms}) > 1:
        terms = [(scale, OuterTerms(each.a, rounded(each.right))) for scale, each in terms]
    alike: dict[bytes, list[tuple[float, OuterTerms, int]]] = {}
    for scale, each in terms:
        for row in range(each.rank):
            key = each.b[row].tobytes() + (b"" if each.kernel is None else each.kernel[row].tobytes())
            alike.setdefault(key, []).append((scale, each, row))
    left: list[tuple[Rows, OuterTerms, int]] = []
    for group in alike.values():
        a = rounded(weighted_sum([each.a[row] for _, each, row in group], [scale for scale, _, _ in group]))
        if a.any():
            left.append((a, *group[0][1:]))
    if not left:
        return None
    kernels = [each.kernel[row] for _, each, row in left if each.kernel is not None]
    b = np.stack([each.b[row] for _, each, row in left])
    return OuterTerms(np.stack([a for a, _, _ in left]), b, np.stack(kernels) if kernels else None)


def sum_words(terms: Sequence[tuple[float, WordVectors]]) -> WordVectors:
    """The sum of `scale * words` of one weight, at least one, by id; each rounded once.

    Raises:
        ShiftFileError: a value that float32 cannot hold.
    """
    rows: dict[int, list[tuple[float, Rows]]] = {}
    for scale, each in terms:
        for token, row in zip(each.ids, each.vectors, strict=True):
            rows.setdefault(token, []).append((scale, row))
    sums = [weighted_sum([row for _, row in group], [scale for scale, _ in group]) for group in rows.values()]
    texts = dict.fromkeys(text for _, each in terms for text in each.text.split(", ") if text)
    return WordVectors(tuple(rows), rounded(np.stack(sums)), ", ".join(texts))


def inner_product(
    a: Mapping[str, Parts] | Deltas, b: Mapping[str, Parts] | Deltas, pair_of: PairOf | None = None
) -> float:
    """The inner product of two changes over the weights that both have.

    Args:
        a, b: parts by weight name, or deltas alone.
        pair_of: gives singular vectors, and is asked where one change has a diagonal and the other something else.
            What it does not know, or without it, these products are left out: they count as zero.
    """
    return sum((weight_product(_parts(a[name]), _parts(b[name]), pair_of, name) for name in a if name in b), 0.0)


def weight_product(a: Parts, b: Parts, pair_of: PairOf | None = None, name: str = "") -> float:
    """The inner product of two changes of the weight `name`; arguments as `inner_product`."""
    total = float(np.sum(a.delta.astype(np.float64) * b.delta))
    if a.outer and b.outer:
        total += a.outer.dot(b.outer)
    if a.words and b.words:
        total += a.words.dot(b.words)
    for one, other in ((a, b), (b, a)):
        if one.words and other.outer:
            total += one.words.dot_terms(other.outer)
    diagonals = [(one, other) for one, other in ((a, b), (b, a)) if one.directions and (other.outer or other.words)]
    pair = pair_of(name, max(one.directions for one, _ in diagonals)) if pair_of and diagonals else None
    return total if pair is None else total + sum(_crossing(one, other, pair) for one, other in diagonals)


def _crossing(diagonal: Parts, other: Parts, pair: SingularPair) -> float:
    """`sum_i delta_i u_i^T change v_i`, where the change is all of `other` but its own diagonal."""
    count = diagonal.directions
    delta = diagonal.delta[:count].astype(np.float64)
    left, right = (side[:, :count].astype(np.float64) for side in pair)
    total = 0.0
    if other.outer:
        total += float(np.sum((other.outer.a @ left) * (other.outer.right @ right) * delta))
    if other.words:
        total += float(np.sum(left[list(other.words.ids)] * (other.words.vectors @ right) * delta))
    return total


def _parts(change: Parts | npt.NDArray[np.floating]) -> Parts:
    return change if isinstance(change, Parts) else Parts(change)
