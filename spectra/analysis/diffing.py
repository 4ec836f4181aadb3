"""Distances between shifts of one base, in all and by weight: exact, from vectors alone (docs/algebra.md, 5).

    ||Delta W_a - Delta W_b||_F = ||d_a - d_b||        d = ReLU(sigma + delta) - sigma

Without a weight's singular values `d` is taken to be `delta`, as if no direction were clipped. That can only lengthen
the distance, since the ReLU brings no two numbers further apart. A weight that a shift does not hold is not changed
by it: its `d` is zero.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeAlias

import numpy as np

from spectra.errors import MismatchError
from spectra.naming.blocks import grouped
from spectra.shift.shift import SpectralShift, check_same_base
from spectra.shift.shift_file import read_shift
from spectra.shift.singular_values import Sigmas, read_sigmas, singular_value_change
from spectra.shift.sums import Vector

Changes: TypeAlias = Mapping[str, Vector]
"""`d [r]` by weight name: what a shift adds to each singular value, or to each entry of a 1-D weight."""


@dataclass(frozen=True)
class Difference:
    """Two shifts side by side, in some of their weights.

    Attributes:
        name: of the block, kind or weight.
        weights: that either of the two holds.
        floats: in all of them.
        first, second: `||Delta W||_F` of each.
        distance: `||Delta W_a - Delta W_b||_F`.
        cosine: between the two changes as one long vector each; None if one of them is zero.
        mean_cosine: mean of the cosines of single weights, each weight counted alike, over those that both change
            (SVDiff, Figure 9a); None if there is none.
        moved: coordinates that both change.
        opposed: those of them that they change with opposite signs.
    """

    name: str
    weights: int
    floats: int
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


def singular_value_changes(shift: SpectralShift, sigmas: Sigmas) -> dict[str, Vector]:
    """The change of each singular value: `d = ReLU(sigma + delta) - sigma`, and `delta` where sigma is unknown.

    Raises:
        MismatchError: a weight has another number of singular values than its delta.
    """
    found: dict[str, Vector] = {}
    for name, delta in shift.items():
        sigma = sigmas.get(name)
        if sigma is not None and sigma.shape != delta.shape:
            raise MismatchError(
                f"{name}: expected a delta of {sigma.size} floats, one for each singular value in the "
                f"cache, got {delta.size}; the shift was changed by hand, or was made by another program"
            )
        found[name] = delta.astype(np.float64) if sigma is None else singular_value_change(sigma, delta)
    return found


def read_changes(files: Sequence[Path]) -> tuple[list[SpectralShift], list[Changes], set[str]]:
    """Shift files that can be compared, with the singular values that the cache knows.

    Returns:
        The shifts; what they change; and the names of weights of which it is not known what is clipped.

    Raises:
        ShiftFileError: a file that cannot be read.
        MismatchError: two were trained on different bases.
    """
    shifts = [read_shift(file) for file in files]
    check_comparable({str(file): shift for file, shift in zip(files, shifts, strict=True)})
    sigmas: Sigmas = {}
    for shift in shifts:
        sigmas |= read_sigmas(shift.metadata, shift.keys() - sigmas.keys())
    unknown = {name for shift in shifts for name in unknown_clipping(shift, sigmas)}
    return shifts, [singular_value_changes(shift, sigmas) for shift in shifts], unknown


def unknown_clipping(shift: SpectralShift, sigmas: Sigmas) -> set[str]:
    """The weights that have singular values which are not known: what the ReLU clips of them cannot be told."""
    ndims = shift.metadata.ndims
    return {name for name in shift if name not in sigmas and ndims.get(name) != 1}


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
    return tuple(_of_weight(name, *_rows([first, second], name)) for name in sorted(first.keys() | second.keys()))


def correlate(shifts: Sequence[Changes]) -> Correlation:
    """Several shifts, each against each. Time grows with the square of their number."""
    size = (len(shifts), len(shifts))
    inner, cosines, counts, squares = (np.zeros(size) for _ in range(4))
    for name in sorted({name for shift in shifts for name in shift}):
        rows = _rows(shifts, name)
        products = rows @ rows.T
        lengths = np.sqrt(np.diag(products))
        both = np.outer(lengths, lengths)
        cosines += np.divide(products, both, out=np.zeros(size), where=both > 0)
        counts += both > 0
        inner += products
        for i, row in enumerate(rows):  # not from `products`: that would lose the digits of a short distance
            squares[i] += np.square(rows - row).sum(axis=1)
    lengths = np.sqrt(np.diag(inner))
    return Correlation(
        norms=lengths,
        mean_cosine=_ratio(cosines, counts),
        cosine=_ratio(inner, np.outer(lengths, lengths)),
        distance=np.sqrt(squares),
    )


def _rows(shifts: Sequence[Changes], name: str) -> Vector:
    """One weight's change by each shift, `[n, r]`; zeros where a shift does not hold the weight."""
    size = next(shift[name].size for shift in shifts if name in shift)
    return np.stack([shift[name] if name in shift else np.zeros(size) for shift in shifts])


def _ratio(over: Vector, under: Vector) -> Vector:
    return np.clip(np.divide(over, under, out=np.full_like(over, np.nan), where=under > 0), -1.0, 1.0)


def _of_weight(name: str, first: Vector, second: Vector) -> Difference:
    lengths = float(np.linalg.norm(first)), float(np.linalg.norm(second))
    cosine = _cosine(float(first @ second), *lengths)
    signs = np.sign(first) * np.sign(second)
    return Difference(
        name=name,
        weights=1,
        floats=first.size,
        first=lengths[0],
        second=lengths[1],
        distance=float(np.linalg.norm(first - second)),
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
        floats=sum(part.floats for part in parts),
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
