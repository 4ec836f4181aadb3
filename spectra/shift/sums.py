"""Sums and inner products of deltas by weight name, in float64.

A weight that a mapping lacks counts as zero in it.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import TypeAlias

import numpy as np
import numpy.typing as npt

Vector: TypeAlias = npt.NDArray[np.float64]
Deltas: TypeAlias = Mapping[str, npt.NDArray[np.floating]]


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


def inner_product(a: Deltas, b: Deltas) -> float:
    """`a . b` over the weights that both have."""
    return sum((float(np.sum(a[name].astype(np.float64) * b[name])) for name in a if name in b), 0.0)
