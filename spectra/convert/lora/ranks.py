"""How many directions, and which, a LoRA keeps of a shift: its ranks.

`Delta W = U diag(d) V^T` is a singular value decomposition up to order and sign; with outer terms, d are the singular
values of the whole change. So the best approximation of rank k keeps the k largest `|d|`, and its error is the norm of
the rest: known before a single vector is looked at.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import TypeAlias

import numpy as np
import numpy.typing as npt

from spectra.convert.shifted_base import WeightChange
from spectra.errors import InputError

Directions: TypeAlias = npt.NDArray[np.int64]


def keep_directions(
    changes: Mapping[str, WeightChange], *, rank: int | None = None, error: float | None = None
) -> dict[str, Directions]:
    """The directions to keep of each weight, the largest `|d|` first, without those that do nothing.

    Args:
        changes: of weights with two or more dimensions.
        rank: at most so many directions of each weight.
        error: at most this relative error of all changes together, 0 to 1, with as few floats as that takes: what
            goes first is what does least for the floats it costs. Without either everything is kept.

    Raises:
        InputError: both `rank` and `error`, or one that is out of range.
    """
    if rank is not None and error is not None:
        raise InputError("expected a rank or an error, not both; without either everything is kept")
    if rank is not None and rank < 1:
        raise InputError(f"expected a rank of 1 or more, got {rank}")
    if error is not None and not 0 <= error < 1:
        raise InputError(f"expected an error of 0 or more and below 1, got {error:g}")
    least = 0.0 if error is None else _least_worth(changes, error)
    kept = {}
    for name, each in changes.items():
        order = np.argsort(-np.abs(each.d), kind="stable")
        worth = _worth(each)[order]
        kept[name] = order[(worth >= least) & (worth > 0)][:rank]
    return kept


def truncation_error(changes: Mapping[str, WeightChange], kept: Mapping[str, Directions]) -> float:
    """`||dropped|| / ||Delta W||` over all of these weights, 0 to 1; one that is not in `kept` is dropped whole."""
    total = sum(each.energy for each in changes.values())
    none = np.zeros(0, np.int64)
    dropped = sum(float(np.sum(np.delete(each.d, kept.get(name, none)) ** 2)) for name, each in changes.items())
    return math.sqrt(dropped / total) if total else 0.0


def _worth(change: WeightChange) -> npt.NDArray[np.float64]:
    """Energy of each direction per float that it takes in a file, `[r]`."""
    shape = change.shape
    return change.d**2 / (shape[0] + math.prod(shape[1:]))


def _least_worth(changes: Mapping[str, WeightChange], error: float) -> float:
    """The worth below which all directions can be dropped."""
    worth = np.concatenate([_worth(each) for each in changes.values()] or [np.zeros(0)])
    energy = np.concatenate([each.d**2 for each in changes.values()] or [np.zeros(0)])
    order = np.argsort(worth, kind="stable")
    dropped = np.cumsum(energy[order])
    count = int(np.searchsorted(dropped, error**2 * energy.sum(), side="right"))
    return float(worth[order[count]]) if count < len(order) else math.inf
