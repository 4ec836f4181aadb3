"""Activations as `[samples, rows, channels]`, the form that operators and kernels share, without copying."""

from __future__ import annotations

from torch import Tensor

ROUND = 16
"""Widths of intermediates are rounded up to this many elements, so that their rows are loaded 16 bytes at a time."""


def padded(h: int) -> int:
    """`h` rounded up to a multiple of `ROUND`."""
    return -(-h // ROUND) * ROUND


def count(x: Tensor, dim: int) -> int:
    """How many rows an activation has whose channels are at `dim`."""
    return x.numel() // max(x.shape[dim], 1)


def samples(x: Tensor, dim: int, *, apart: bool) -> Tensor:
    """`x` as `[S, P, channels]`, a view wherever its strides allow one.

    Args:
        x: `[..., channels]`, or `[batch, channels, ...]` with `dim=1`.
        dim: -1 or 1.
        apart: keep the first dimension as S, for a row of `e` per sample; otherwise one sample may hold all rows.
    """
    if dim == 1 and x.ndim > 2:
        return x.flatten(2).transpose(1, 2)
    if apart:
        return x.reshape(x.shape[0], -1, x.shape[-1])
    return x.reshape(1, -1, x.shape[-1])


def restored(y: Tensor, like: Tensor, dim: int) -> Tensor:
    """The inverse of `samples`: `y [S, P, channels]` in the shape of `like`, but for the number of channels."""
    if dim == 1 and like.ndim > 2:
        out: Tensor = y.transpose(1, 2).unflatten(2, like.shape[2:])
        return out
    return y.reshape(*like.shape[:-1], y.shape[-1])


def empty_with(x: Tensor, channels: int) -> Tensor:
    """`[S, P, channels]`, laid out as `x [S, P, C]` is: channels last unless its rows are the contiguous ones."""
    s, p, _ = x.shape
    if x.stride(2) != 1 and x.stride(1) == 1:
        return x.new_empty(s, channels, p).transpose(1, 2)
    return x.new_empty(s, p, channels)


def by_columns(matrix: Tensor) -> Tensor:
    """`matrix` with contiguous columns, which the kernels load 16 bytes at a time; a copy where it has others."""
    return matrix if matrix.stride(0) == 1 else matrix.T.contiguous().T
