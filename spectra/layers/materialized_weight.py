"""A shifted weight made once for each value of delta, with what delta's gradient needs then."""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor

from spectra import kernels
from spectra.layers.singular_vectors import SingularVectors
from spectra.spectrum.shifted_weight import shifted_matrix
from spectra.spectrum.spectrum import has_no_values, matrix

NEAR_ZERO = 0.3
"""The output of a materialized weight is too coarse to tell delta's gradient of directions whose shifted singular value
is below this share of rms(sigma): they get both sides explicitly. Measured on matrices of condition 1e2 to 1e8 in
float32, bfloat16 and float16, 1/4 lets the error pass twice that of the paper's formula on one matrix in 56."""

NEAR_ZERO_RESERVE = 1 / 16
"""Where their number must not depend on values (torch.compile), room for this share of all directions to sink below
the threshold in training. Of more than that, the highest divide by their shifted value all the same."""


class MaterializedWeight(NamedTuple):
    """What is made once for each value of delta.

    Attributes:
        weight: the shifted weight, all directions included, in the frozen weight's shape and dtype.
        s: `[h]`, singular values in force of the one-sided directions, 0 where they are clipped or explicit.
        explicit: `[k]`, the directions with both sides given; none without a gradient.
        left: `U [rows, k]` of these.
        right: `V [columns, k]`, likewise.
    """

    weight: Tensor
    s: Tensor
    explicit: Tensor
    left: Tensor
    right: Tensor


def expected_near_zero(vectors: SingularVectors) -> int:
    """How many one-sided directions lie below the threshold at delta = 0.

    Without values a density of sigma that is even near 0 is assumed.
    """
    sigma, one_sided = vectors.sigma, vectors.one_sided
    if has_no_values(sigma):
        return min((len(sigma) - one_sided) // 2, one_sided)
    return int((sigma[:one_sided] <= _threshold(sigma)).sum())


def materialize(
    weight: Tensor, vectors: SingularVectors, d: Tensor, expected: int, *, learns: bool
) -> MaterializedWeight:
    """The weight changed by `d [r]`, and what delta's gradient is read with.

    Args:
        weight: the frozen one.
        d: change of each singular value.
        expected: `expected_near_zero` of these vectors.
        learns: whether a gradient will be read from rows of activations; without one there is nothing explicit.
    """
    one_sided, side, sigma = vectors.one_sided, vectors.spectrum.side, vectors.sigma
    basis, left, right = vectors.of(weight.dtype)
    dtype = kernels.product_dtype(weight.device, weight.dtype)
    w, q, u, v = (each.to(dtype) for each in (matrix(weight), basis, left, right))
    shifted = shifted_matrix(w, (q, u, v), sigma, d, side).reshape(weight.shape).to(weight.dtype)
    s, explicit = sigma[:one_sided] + d[:one_sided], torch.arange(one_sided, len(sigma), device=d.device)
    if not learns:
        return MaterializedWeight(shifted, s, explicit[:0], left[:, :0], right[:, :0])
    if one_sided:
        low = (s > 0) & (s <= _threshold(sigma))
        lowest = torch.where(low, s, torch.inf).topk(_count(low, expected), largest=False).indices
        picked = low.index_select(0, lowest)
        stored = basis.index_select(1, lowest).to(sigma.dtype)
        other = ((w.T if side == "left" else w).to(sigma.dtype) @ stored) / sigma.index_select(0, lowest)
        stored = stored * picked  # the others have their gradient by `s`
        more = (stored, other) if side == "left" else (other, stored)
        left, right = (torch.cat([new.to(old.dtype), old], 1) for new, old in zip(more, (left, right), strict=True))
        explicit = torch.cat([lowest, explicit])
        s = s.index_copy(0, lowest, torch.where(picked, 0, s.index_select(0, lowest)))
    return MaterializedWeight(shifted, s, explicit, left, right)


def _threshold(sigma: Tensor) -> Tensor:
    return NEAR_ZERO * sigma.square().mean().sqrt()


def _count(low: Tensor, expected: int) -> int:
    """How many one-sided directions are made explicit; in a graph, and without values, a fixed number."""
    if torch.compiler.is_compiling():
        return min(expected + math.ceil(NEAR_ZERO_RESERVE * len(low)), len(low))
    return expected if has_no_values(low) else int(low.sum())
