"""Distances between shifts of one base, in all and by weight: exact, from vectors alone (docs/algebra.md, 6 and 8).

A weight that a shift does not hold is not changed by it. What the cache lacks for exactness is told by `Unknown`.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from spectra.analysis.weight_changes import PARTS, Array, Change, Changes, OuterSum, Unknown, weight_changes
from spectra.errors import MismatchError
from spectra.naming.blocks import grouped
from spectra.shift.shift import SpectralShift, check_same_base
from spectra.shift.shift_file import read_shift
from spectra.shift.sums import Vector

_CLOSE = 1e-6
"""Where the squared distance of two outer sums is below this part of their squares, it is taken from their difference:
the difference of squares would have lost too many digits."""


@dataclass(frozen=True)
class Difference:
    """Two shifts side by side, in some of their weights.

    Attributes:
        name: of the block, kind or weight.
        weights: that either of the two holds.
        first, second: `||Delta W||_F` of each.
        distance: `||Delta W_a - Delta W_b||_F`.
        cosine: between the two changes as one long vector each; None if one of them is zero.
        mean_cosine: mean of the cosines of single weights, each weight counted alike, over those that both change
            (SVDiff, Figure 9a); None if there is none.
        moved: singular values, and entries of 1-D weights, that both change.
        opposed: those of them that they change with opposite signs.
    """

    name: str
    weights: int
    first: float
    second: float
    distance: float
    cosine: float | None
    mean_cosine: float | None
    moved: int
    opposed: int


@dataclass(frozen=True)
class Correlation:
    """Several shifts of one base, each with each: symmetric arrays `[n, n]`.

    Attributes:
        mean_cosine, cosine, distance: as in `Difference`; NaN stands for None.
        norms: `||Delta W||_F` of each, `[n]`.
    """

    norms: Vector
    mean_cosine: Vector
    cosine: Vector
    distance: Vector


def read_changes(files: Sequence[Path]) -> tuple[list[SpectralShift], list[Changes], Unknown]:
    """Shift files that can be compared, and what they change.

    Returns:
        The shifts; what they change; and of which weights the cache lacks something.

    Raises:
        ShiftFileError: a file that cannot be read.
        MismatchError: two were trained on different bases.
    """
    shifts = [read_shift(file) for file in files]
    check_comparable({str(file): shift for file, shift in zip(files, shifts, strict=True)})
    return shifts, *weight_changes(shifts)


def check_comparable(shifts: Mapping[str, SpectralShift]) -> None:
    """Checks that shifts have the same singular vectors, without which they cannot be compared.

    Args:
        shifts: by a name that a message can call them by.

    Raises:
        MismatchError: two were trained on different bases; the message names them.
    """
    try:
        check_same_base(shifts.values())
    except MismatchError:
        for (one, first), (other, second) in itertools.combinations(shifts.items(), 2):
            try:
                check_same_base([first, second])
            except MismatchError as error:
                raise MismatchError(f"{one} and {other}: {error}") from error
        raise


def compare(first: Changes, second: Changes) -> Difference:
    """Two shifts in all their weights together."""
    return total(by_weight(first, second))


def total(parts: Sequence[Difference]) -> Difference:
    """Differences of weights summed up."""
    return _joined("total", parts)


def by_group(parts: Sequence[Difference], group_of: Callable[[str], str]) -> tuple[Difference, ...]:
    """Differences of weights summed up by group: `block_of` or `kind_of` their names."""
    named = {part.name: part for part in parts}
    groups = grouped(named, group_of)
    return tuple(_joined(group, [named[name] for name in names]) for group, names in groups.items())


def by_weight(first: Changes, second: Changes) -> tuple[Difference, ...]:
    """One difference for each weight that either of them holds, in name order."""
    return tuple(_of_weight(name, *_both([first, second], name)) for name in sorted(first.keys() | second.keys()))


def by_part(first: Changes, second: Changes) -> tuple[Difference, ...]:
    """The differences of deltas, of outer terms and of words (`PARTS`), each of those that either of them has."""
    found = []
    for part in PARTS:
        sides = [{name: only for name, c in side.items() if (only := c.only(part))} for side in (first, second)]
        if any(sides):
            found.append(_joined(part, by_weight(*sides)))
    return tuple(found)


def correlate(shifts: Sequence[Changes]) -> Correlation:
    """Several shifts, each against each. Time grows with the square of their number."""
    size = (len(shifts), len(shifts))
    inner, cosines, counts, squares = (np.zeros(size) for _ in range(4))
    for name in sorted({name for shift in shifts for name in shift}):
        products, distances = _products(_both(shifts, name))
        lengths = np.sqrt(np.diag(products).clip(min=0))
        both = np.outer(lengths, lengths)
        cosines += np.divide(products, both, out=np.zeros(size), where=both > 0)
        counts += both > 0
        inner += products
        squares += distances
    lengths = np.sqrt(np.diag(inner).clip(min=0))
    return Correlation(
        norms=lengths,
        mean_cosine=_ratio(cosines, counts),
        cosine=_ratio(inner, np.outer(lengths, lengths)),
        distance=np.sqrt(squares.clip(min=0)),
    )


def _both(shifts: Sequence[Changes], name: str) -> list[Change]:
    """One weight's change by each shift; none where a shift does not hold the weight."""
    size = next(shift[name].d.size for shift in shifts if name in shift)
    return [shift[name] if name in shift else Change.zero(size) for shift in shifts]


def _products(changes: Sequence[Change]) -> tuple[Array, Array]:
    """The inner products of one weight's changes, each with each, and the squares of their distances: `[n, n]` both."""
    rows, along = (np.stack([getattr(change, key) for change in changes]) for key in ("d", "along"))
    moved = rows.any(axis=0)
    rows, along = rows[:, moved], along[:, moved]
    products, squares = _outer_products([change.outer for change in changes])
    crossed = rows @ along.T
    products += rows @ rows.T + crossed + crossed.T
    for i, (row, projected) in enumerate(zip(rows, along, strict=True)):
        apart = rows - row  # and not from `products`, which would lose the digits of a short distance
        squares[i] += (apart * (apart + 2 * (along - projected))).sum(axis=1)
    return products, squares


def _outer_products(sums: Sequence[OuterSum]) -> tuple[Array, Array]:
    """As `_products`, of outer sums."""
    count = len(sums)
    everything = OuterSum.joined(sums)
    if not len(everything):
        return np.zeros((count, count)), np.zeros((count, count))
    members = np.repeat(np.eye(count), [len(each) for each in sums], axis=1)
    products: Array = members @ everything.products() @ members.T
    lengths = np.diag(products)
    scale = lengths[:, None] + lengths
    squares = scale - 2 * products
    for i, j in np.argwhere(np.triu(squares < _CLOSE * scale, k=1)):
        squares[i, j] = squares[j, i] = (sums[i] - sums[j]).norm() ** 2
    np.fill_diagonal(squares, 0.0)
    return products, squares


def _ratio(over: Vector, under: Vector) -> Vector:
    return np.clip(np.divide(over, under, out=np.full_like(over, np.nan), where=under > 0), -1.0, 1.0)


def _of_weight(name: str, first: Change, second: Change) -> Difference:
    lengths = first.norm(), second.norm()
    cosine = _cosine(first.dot(second), *lengths)
    signs = np.sign(first.d) * np.sign(second.d)
    return Difference(
        name=name,
        weights=1,
        first=lengths[0],
        second=lengths[1],
        distance=first.distance(second),
        cosine=cosine,
        mean_cosine=cosine,
        moved=int(np.count_nonzero(signs)),
        opposed=int(np.count_nonzero(signs < 0)),
    )


def _joined(name: str, parts: Sequence[Difference]) -> Difference:
    first, second = (math.hypot(*lengths) for lengths in zip(*((p.first, p.second) for p in parts), strict=True))
    known = [part.cosine for part in parts if part.cosine is not None]
    inner = sum((part.cosine or 0.0) * part.first * part.second for part in parts)
    return Difference(
        name=name,
        weights=sum(part.weights for part in parts),
        first=first,
        second=second,
        distance=math.hypot(*(part.distance for part in parts)),
        cosine=_cosine(inner, first, second),
        mean_cosine=math.fsum(known) / len(known) if known else None,
        moved=sum(part.moved for part in parts),
        opposed=sum(part.opposed for part in parts),
    )


def _cosine(inner: float, first: float, second: float) -> float | None:
    return min(1.0, max(-1.0, inner / (first * second))) if first and second else None
