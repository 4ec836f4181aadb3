"""The deltas of a shift, summed up by block and by kind of layer. Needs no model."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass

import numpy as np

from spectra.naming.blocks import grouped
from spectra.shift.shift import Delta, SpectralShift


@dataclass(frozen=True)
class DeltaSummary:
    """Some of a shift's deltas, summed up.

    Attributes:
        name: of the block, kind or weight.
        tensors: number of deltas.
        floats: in all of them.
        norm: `||delta||`. Where the weights have two or more dimensions and no singular value is clipped by the ReLU
            this is `||Delta W||_F` exactly, since `Delta W = U diag(delta) V^T` (docs/algebra.md).
        largest: `max |delta|`.
    """

    name: str
    tensors: int
    floats: int
    norm: float
    largest: float


def by_weight(shift: SpectralShift) -> tuple[DeltaSummary, ...]:
    """One summary per weight, in name order."""
    return tuple(_summary(name, [delta]) for name, delta in shift.items())


def total(shift: SpectralShift) -> DeltaSummary:
    """All deltas summed up."""
    return _summary("total", shift.values())


def by_group(shift: SpectralShift, group_of: Callable[[str], str]) -> tuple[DeltaSummary, ...]:
    """One summary per group of weights (`block_of` or `kind_of` their names), groups in natural order."""
    groups = grouped(shift, group_of)
    return tuple(_summary(group, [shift[name] for name in names]) for group, names in groups.items())


def _summary(name: str, deltas: Iterable[Delta]) -> DeltaSummary:
    deltas = list(deltas)
    return DeltaSummary(
        name=name,
        tensors=len(deltas),
        floats=sum(delta.size for delta in deltas),
        norm=math.sqrt(sum(float(np.sum(np.square(delta, dtype=np.float64))) for delta in deltas)),
        largest=max(float(np.abs(delta).max()) for delta in deltas),
    )
