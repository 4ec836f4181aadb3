"""A weight rebuilt once for each value of delta, with what delta's gradient needs then: the rebuilt plan's part that
is not made in every forward.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor

from spectra import kernels
from spectra.layers.singular_vectors import Vectors
from spectra.spectrum.spectrum import has_no_values, matrix

REBUILT_FLOOR = 0.3
"""A rebuilt weight's output is too coarse to tell delta's gradient of directions whose shifted singular value is below
this share of rms(sigma): they get both sides explicitly. Measured on matrices of condition 1e2 to 1e8 in float32,
bfloat16 and float16, 1/4 lets the error pass twice that of the paper's formula on one matrix in 56."""

LOW_RESERVE = 1 / 16
"""Where their number must not depend on values (torch.compile), room for this share of all directions to sink below
the floor in training. Of more than that, the highest divide by their shifted value all the same."""


class Rebuilt(NamedTuple):
    """What is made once for each value of delta.

    Attributes:
        weight: the shifted weight, tail included, in the frozen weight's shape and dtype.
        s: `[h]`, the head's singular values in force, 0 where they are clipped or explicit.
        explicit: `[k]`, the directions with both sides given; none without a gradient.
        left: `[rows, k]`, their vectors.
        right: `[columns, k]`, likewise.
    """

    weight: Tensor
    s: Tensor
    explicit: Tensor
    left: Tensor
    right: Tensor


def expected_low(vectors: Vectors) -> int:
    """How many directions of the head lie below the floor at delta = 0.

    Without values a density of sigma that is even near 0 is assumed.
    """
    sigma, spectrum = vectors.sigma, vectors.spectrum
    if has_no_values(sigma):
        return min((spectrum.rank - spectrum.head) // 2, spectrum.head)
    return int((sigma[: spectrum.head] <= _floor(sigma)).sum())


def rebuild(weight: Tensor, vectors: Vectors, d: Tensor, expected: int, *, learns: bool) -> Rebuilt:
    """The weight by `d [r]`, and what delta's gradient is read with.

    Args:
        weight: the frozen one.
        d: change of each singular value.
        expected: `expected_low` of these vectors.
        learns: whether a gradient will be asked for; without one there is nothing explicit.
    """
    spectrum, head, wide = vectors.spectrum, vectors.head, vectors.sigma.dtype
    basis, left, right = (each.to(wide) for each in vectors.of(weight.dtype))
    on_rows, sigma = spectrum.side == "left", vectors.sigma[:head]
    w = matrix(weight).to(wide)
    rebuilt = kernels.rebuild(w, basis, d[:head] / sigma, left=on_rows) if head else w
    if head < spectrum.rank:
        rebuilt = torch.addmm(rebuilt, left * d[head:], right.T)
    s = torch.relu(sigma + d[:head])
    index = torch.arange(head, spectrum.rank, device=d.device)
    if learns:
        low = (s > 0) & (s <= _floor(vectors.sigma))
        lowest = torch.where(low, s, torch.inf).topk(_count(low, vectors, expected), largest=False).indices
        picked = low.index_select(0, lowest)
        near = basis.index_select(1, lowest)
        far = ((w.T if on_rows else w) @ near) / sigma.index_select(0, lowest)
        near = near * picked  # the others have their gradient by `s`
        left = torch.cat([near if on_rows else far, left], 1)
        right = torch.cat([far if on_rows else near, right], 1)
        index = torch.cat([lowest, index])
        s = s.index_copy(0, lowest, torch.where(picked, 0, s.index_select(0, lowest)))
    else:
        left, right, index = left[:, :0], right[:, :0], index[:0]  # copies of the tail that nobody would read
    narrow = (each.to(weight.dtype) for each in (left, right))
    return Rebuilt(rebuilt.reshape(weight.shape).to(weight.dtype), s, index, *narrow)


def _floor(sigma: Tensor) -> Tensor:
    return REBUILT_FLOOR * sigma.square().mean().sqrt()


def _count(low: Tensor, vectors: Vectors, expected: int) -> int:
    """How many of the head's directions are made explicit; in a graph, and without values, a fixed number."""
    if torch.compiler.is_compiling():
        return min(expected + math.ceil(LOW_RESERVE * vectors.spectrum.rank), vectors.head)
    return expected if has_no_values(low) else int(low.sum())
