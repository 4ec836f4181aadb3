"""What a shift changes, summed up by block and by kind of layer. Needs no model."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from spectra.analysis.weight_changes import PARTS, Changes
from spectra.naming.blocks import grouped
from spectra.shift.shift import SpectralShift
from spectra.shift.shift_header import open_shift_file


@dataclass(frozen=True)
class ChangeSummary:
    """What a shift adds to some weights, summed up.

    Attributes:
        name: of the block, kind or weight.
        weights: that are changed, or at least named by the shift.
        directions: singular values, and entries of 1-D weights, whose delta is not zero.
        terms: number of outer terms.
        tokens: of the special word.
        norm: `||Delta W||_F` of everything (`spectra.analysis.weight_changes`: as far as the cache tells).
        delta, outer, word: the norm of each part alone: `||d||`, that of the outer terms and of the word's vectors.
        largest: `max |delta|`.
    """

    name: str
    weights: int
    directions: int
    terms: int
    tokens: int
    norm: float
    delta: float
    outer: float
    word: float
    largest: float


def by_weight(shift: SpectralShift, changes: Changes) -> tuple[ChangeSummary, ...]:
    """One summary per weight, in name order."""
    return tuple(
        ChangeSummary(
            name=name,
            weights=1,
            directions=int(np.count_nonzero(delta)),
            terms=shift.outer[name].rank if name in shift.outer else 0,
            tokens=len(shift.words[name].ids) if name in shift.words else 0,
            norm=changes[name].norm(),
            **{part: changes[name].only(part).norm() for part in PARTS},
            largest=float(np.abs(delta).max()),
        )
        for name, delta in shift.items()
    )


def total(parts: Sequence[ChangeSummary]) -> ChangeSummary:
    """Summaries of weights as one."""
    return _joined("total", parts)


def by_group(parts: Sequence[ChangeSummary], group_of: Callable[[str], str]) -> tuple[ChangeSummary, ...]:
    """One summary per group of weights (`block_of` or `kind_of` their names), groups in natural order."""
    named = {part.name: part for part in parts}
    groups = grouped(named, group_of)
    return tuple(_joined(group, [named[name] for name in names]) for group, names in groups.items())


@dataclass(frozen=True)
class StoredPart:
    """What a file holds of one part of a shift.

    Attributes:
        part: of `spectra.analysis.weight_changes.PARTS`.
        weights: that it changes.
        floats: values of it in the file.
        bytes: in the file, the places of chosen directions included; None in a packed file, where all lie together.
    """

    part: str
    weights: int
    floats: int
    bytes: int | None


def stored_parts(path: Path, shift: SpectralShift) -> tuple[StoredPart, ...]:
    """How much of a file each part of the shift takes that was read from it, where there is any.

    Raises:
        ShiftFileError: the file is gone or has changed.
    """
    outer, word = (sum(each.floats for each in part.values()) for part in (shift.outer, shift.words))
    moved = sum(bool(delta.any()) for delta in shift.values())
    weights = {"delta": moved, "outer": len(shift.outer), "word": len(shift.words)}
    floats = {"delta": shift.floats - outer - word, "outer": outer, "word": word}
    sizes = _sizes(path) if shift.precision != "packed" else {}
    return tuple(
        StoredPart(part, weights[part], floats[part], sizes.get(part, 0) if sizes else None)
        for part in PARTS
        if floats[part]
    )


def _sizes(path: Path) -> dict[str, int]:
    """Bytes of each part's tensors."""
    sizes = dict.fromkeys(PARTS, 0)
    with open_shift_file(path) as (_, header):
        for key, tensor in header.tensors.items():
            kind = key.rpartition(".")[2]
            sizes["delta" if kind == "directions" else kind] += tensor.bytes
    return sizes


def _joined(name: str, parts: Sequence[ChangeSummary]) -> ChangeSummary:
    counts = {key: sum(getattr(part, key) for part in parts) for key in ("weights", "directions", "terms", "tokens")}
    norms = {key: math.hypot(*(getattr(part, key) for part in parts)) for key in ("norm", *PARTS)}
    told: dict[str, Any] = counts | norms
    return ChangeSummary(name=name, **told, largest=max(part.largest for part in parts))
