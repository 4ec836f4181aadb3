"""The one place that decides which backend computes.

Triton computes what it is ahead in: a term whose bottleneck stays on chip, of half-precision activations on a GPU.
Everything else is PyTorch's, whose products follow the user's settings (`torch.backends.cuda.matmul`,
`torch.set_float32_matmul_precision`). With TRITON_INTERPRET=1 Triton's interpreter takes the CPU's tensors too: that is
how the kernel is tested. `torch.compile` sees an operator of `torch_operators.py` in the first case and plain PyTorch
in the second.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor

from spectra.kernels import devices, reference, torch_operators
from spectra.kernels.configurations import WIDTHS

Impl = Literal["torch", "triton"] | None
"""Who computes: one backend, or None for whichever is ahead."""


def uses_triton(*tensors: Tensor) -> bool:
    """Whether Triton can compute with these tensors: matrices or activations, all of one dtype and device."""
    first = tensors[0]
    return (
        first.dtype in (torch.float16, torch.bfloat16)
        and all(x.dtype == first.dtype and x.device == first.device and x.numel() > 0 for x in tensors)
        and devices.INSTALLED
        and devices.architecture(first.device) is not None
    )


def factored_apply(
    a: Tensor,
    basis: Tensor,
    e: Tensor,
    index: Tensor | None = None,
    offset: Tensor | None = None,
    dim: int = -1,
    *,
    impl: Impl = None,
) -> Tensor:
    """`a + ((a Q - offset) * e) Q^T`, differentiable in `a` and `e`.

    Args:
        a: `[..., r]`, or `[batch, r, ...]` with `dim=1`.
        basis: `[r, h]`, in the dtype of `a`. Triton copies it unless its columns are contiguous.
        e: `[h]`, or `[adapters, h]` with `index`; float32 or wider. Its gradient is accumulated in float32 at least,
            and a row's sums over its samples in a fixed order.
        index: `[batch]` int64, the row of `e` that each sample takes, from 0 to adapters - 1, or None. On a GPU, where
            looking would wait for the device, Triton makes a sample out of range NaN, and PyTorch's own indexing stops
            the device.
        offset: `[h]` or None: `bias Q` where `a` holds a bias that the shift must not touch.
        dim: -1 or 1.
        impl: who computes.

    Raises:
        ValueError: `index` is not int64, not one entry per sample, or out of range (on a CPU), `e` is not
            two-dimensional with it, or Triton is asked for and cannot compute this.
    """
    return _apply(a, None, (basis, basis), e, index, offset, dim, impl)


def low_rank_apply(
    x: Tensor,
    y: Tensor,
    sides: tuple[Tensor, Tensor],
    d: Tensor,
    index: Tensor | None = None,
    dim: int = -1,
    *,
    impl: Impl = None,
) -> Tensor:
    """`y + ((x V) * d) U^T`, a term of few directions beside the frozen layer's output; differentiable in x, y and d.

    Args:
        x: the layer's input, `[..., columns]`, or `[batch, columns, ...]` with `dim=1`.
        y: its output, `[..., rows]` or `[batch, rows, ...]`.
        sides: `U [rows, k]` and `V [columns, k]`, in the dtype of `x`.
        d: `[k]`, or `[adapters, k]` with `index`; float32 or wider, as its gradient is.
        index: `[batch]` int64 or None: the row of `d` that a sample takes; see `factored_apply`.
        dim: -1 or 1.
        impl: who computes.

    Raises:
        ValueError: as `factored_apply`.
    """
    left, right = sides
    return _apply(x, y, (right, left), d, index, None, dim, impl)


def _apply(
    x: Tensor,
    y: Tensor | None,
    sides: tuple[Tensor, Tensor],
    values: Tensor,
    index: Tensor | None,
    offset: Tensor | None,
    dim: int,
    impl: Impl,
) -> Tensor:
    """`reference.apply` by the backend that is ahead, or that is asked for."""
    right, left = sides
    if index is not None:
        _check_index(index, x, values)
    if not _takes_triton(impl, [x, right, left] if y is None else [x, right, left, y], directions=left.shape[1]):
        return reference.apply(x, y, right, left, values, index, offset, dim)
    per_sample = index is not None
    values = (values if per_sample else values[None]).float()
    keep = torch.is_grad_enabled() and values.requires_grad
    residual = None if y is None else _as_samples(y, dim, per_sample)
    offset = None if offset is None else offset.float()
    rows = _as_samples(x, dim, per_sample)
    out, _ = torch_operators.low_rank_apply(rows, right, left, values, residual, index, offset, y is None, keep)
    return _from_samples(out, x, dim)


def _as_samples(x: Tensor, dim: int, per_sample: bool) -> Tensor:
    """`x` as `[S, P, channels]`, a view where its strides allow one; S may be 1 unless `per_sample`."""
    if dim == 1 and x.ndim > 2:
        return x.flatten(2).transpose(1, 2)
    return x.reshape(x.shape[0] if per_sample else 1, -1, x.shape[-1])


def _from_samples(y: Tensor, like: Tensor, dim: int) -> Tensor:
    """The inverse of `_as_samples`: `y [S, P, channels]` in the shape of `like`, but for the number of channels."""
    if dim == 1 and like.ndim > 2:
        out: Tensor = y.transpose(1, 2).unflatten(2, like.shape[2:])
        return out
    return y.reshape(*like.shape[:-1], y.shape[-1])


def _takes_triton(impl: Impl, tensors: Sequence[Tensor], directions: int) -> bool:
    if impl not in ("torch", "triton", None):
        raise ValueError(f"expected impl 'torch', 'triton' or None, got {impl!r}")
    able = uses_triton(*tensors) and directions <= WIDTHS[-1]
    if impl == "triton" and not able:
        got = ", ".join(f"{x.dtype} {tuple(x.shape)} on {x.device}" for x in tensors)
        raise ValueError(
            f"impl='triton' computes float16 or bfloat16 tensors of one dtype, none of them empty, with at most "
            f"{WIDTHS[-1]} directions, on an NVIDIA GPU from sm_80 or an AMD GPU from MI200 on, with Triton installed; "
            f"got {got}. Pass impl=None to let PyTorch compute what Triton does not"
        )
    return able and impl != "torch"


def _check_index(index: Tensor, x: Tensor, values: Tensor) -> None:
    if index.dtype != torch.int64 or index.shape != x.shape[:1] or values.ndim != 2:
        raise ValueError(
            f"expected values [adapters, directions] and an int64 index [{x.shape[0]}], one entry per sample; "
            f"got values {tuple(values.shape)} and index {tuple(index.shape)} of {index.dtype}"
        )
    if torch.compiler.is_compiling() or index.device.type != "cpu" or index.numel() == 0:
        return
    low, high = int(index.min()), int(index.max())
    if low < 0 or high >= len(values):
        raise ValueError(f"expected an index from 0 to {len(values) - 1}, a row of values; got {low} to {high}")
