"""Shifts of one base as vectors: sums, multiples, inner products. The operators of `SpectralShift` are these.

Every function computes in float64 and rounds once, to the float32 that a shift holds: its relative error is at most
2^-24 a value. An expression of operators therefore rounds once per operator, as float32 arithmetic would;
`combine({dog: 0.7, ...})` and `spectra.merge` round once in all.

A weight that a shift lacks has delta zero in it.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from spectra.errors import InputError, MismatchError
from spectra.naming.patterns import matching
from spectra.shift.metadata import JSON
from spectra.shift.provenance import check_same_base, derive
from spectra.shift.shift import SpectralShift

Vector = npt.NDArray[np.float64]


def combine(terms: Sequence[tuple[float, SpectralShift]]) -> SpectralShift:
    """The sum of `scale * shift` over the terms, rounded once.

    Args:
        terms: scales and shifts, at least one. The result has the weights of all of them.

    Raises:
        InputError: no term, or a scale that is no finite number.
        MismatchError: shifts of different bases.
        ShiftFileError: a value that float32 cannot hold.
    """
    if not terms:
        raise InputError("expected at least one shift to combine, got none")
    for scale, _ in terms:
        if not math.isfinite(scale):
            raise InputError(f"expected a finite scale for a shift, got {scale}")
    shifts = [shift for _, shift in terms]
    check_same_base(shifts)
    deltas: dict[str, Vector] = {}
    for name in sorted({name for shift in shifts for name in shift}):
        having = [(scale, shift[name]) for scale, shift in terms if name in shift]
        check_lengths(name, (delta.size for _, delta in having))
        deltas[name] = weighted_sum(np.array([delta for _, delta in having]), [scale for scale, _ in having])
    return derive(shifts, deltas, {"method": "add", "shifts": _flat(terms)})


def weighted_sum(deltas: npt.NDArray[np.floating], weights: Sequence[float] | Vector) -> Vector:
    """`sum_i weights_i * deltas_i`, one term after the other, so that it is the same on every machine.

    Args:
        deltas: `[k, n]`.
        weights: `[k]`. A term of weight zero is left out, and one of weight one taken as it is, zeros' signs included.

    Returns:
        float64 `[n]`.
    """
    total: Vector | None = None
    for weight, delta in zip(weights, deltas, strict=True):
        if weight != 0:
            term = np.multiply(delta, weight, dtype=np.float64)
            total = term if total is None else np.add(total, term, out=total)
    return np.zeros(deltas.shape[1]) if total is None else total


def norm(shift: SpectralShift) -> float:
    """`||delta||` over all weights; that of Delta W where nothing is clipped (docs/algebra.md)."""
    return math.sqrt(dot(shift, shift))


def dot(a: SpectralShift, b: SpectralShift) -> float:
    """The inner product over the weights that both have.

    Raises:
        MismatchError: shifts of different bases.
    """
    check_same_base([a, b])
    total = 0.0
    for name in a:
        if name in b:
            check_lengths(name, (a[name].size, b[name].size))
            total += float(np.sum(a[name].astype(np.float64) * b[name]))
    return total


def cosine(a: SpectralShift, b: SpectralShift) -> float:
    """Of the angle between two shifts, all weights as one vector; 0 if one of them is zero."""
    lengths = norm(a) * norm(b)
    return min(1.0, max(-1.0, dot(a, b) / lengths)) if lengths else 0.0


def restrict(shift: SpectralShift, pattern: str) -> SpectralShift:
    """Those of its weights that `pattern` means (`spectra.naming.patterns.matching`), as they are.

    Raises:
        TargetError: the pattern means none of them.
    """
    chosen = matching(shift, pattern, shift.metadata.ndims)
    recipe: JSON = {"method": "restrict", "pattern": pattern, "shifts": [described(shift)]}
    return derive([shift], {name: shift[name] for name in chosen}, recipe)


def check_lengths(name: str, sizes: Iterable[int]) -> None:
    """That the deltas of one weight are of one length.

    Raises:
        MismatchError: they are not.
    """
    found = sorted(set(sizes))
    if len(found) > 1:
        raise MismatchError(
            f"these shifts belong to different bases: {name} has {found[0]} floats in one and {found[-1]} in another"
        )


def described(shift: SpectralShift) -> dict[str, Any]:
    """How a recipe names a shift: by its content hash, or by its own recipe if it was never in a file."""
    if shift.metadata.content_hash:
        return {"content_hash": shift.metadata.content_hash}
    return {"recipe": shift.metadata.recipe}


def _flat(terms: Sequence[tuple[float, SpectralShift]]) -> JSON:
    """The terms as a recipe lists them: a sum of sums is one sum, and what occurs twice is one term."""
    flat: list[dict[str, Any]] = []
    for scale, shift in terms:
        for term in _summed(shift):
            known = next((each for each in flat if _same(each, term)), None)
            if known is None:
                flat.append({**term, "scale": scale * term["scale"]})
            else:
                known["scale"] += scale * term["scale"]
    return list(flat)


def _summed(shift: SpectralShift) -> list[dict[str, Any]]:
    """The terms of a shift that is a sum in memory; of any other, itself."""
    recipe: Any = shift.metadata.recipe
    in_memory = not shift.metadata.content_hash and isinstance(recipe, dict)
    if in_memory and recipe.keys() == {"method", "shifts"} and recipe["method"] == "add":
        terms: list[dict[str, Any]] = recipe["shifts"]
        return terms
    return [{**described(shift), "scale": 1.0}]


def _same(a: dict[str, Any], b: dict[str, Any]) -> bool:
    return "content_hash" in a and a["content_hash"] == b.get("content_hash")
