"""The one place that decides which backend computes, and where formulas meet autograd.

Triton computes what it is ahead in: a term whose bottleneck stays on chip, of half-precision activations on a GPU.
Everything else is PyTorch's, whose products follow the user's settings (`torch.backends.cuda.matmul`,
`torch.set_float32_matmul_precision`). With TRITON_INTERPRET=1 Triton's interpreter takes the CPU's tensors too: that is
how the kernel is tested. `torch.compile` sees an operator of `operators.py` in the first case and plain PyTorch in the
second.
"""

from __future__ import annotations

from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor

from spectra.kernels import devices, layouts, operators, reference
from spectra.kernels.configurations import WIDTHS

Impl = Literal["torch", "triton"] | None
"""Who computes: one backend, or None for whichever is ahead."""


class _Term(NamedTuple):
    """`((x right - offset) * v) left^T`; see `reference.apply`. `left` is None where it is `right`."""

    right: Tensor
    left: Tensor | None
    values: Tensor
    row_of_sample: Tensor | None = None
    offset: Tensor | None = None


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
    a: Tensor, basis: Tensor, e: Tensor, offset: Tensor | None = None, dim: int = -1, *, impl: Impl = None
) -> Tensor:
    """`a + ((a Q - offset) * e) Q^T`, differentiable in `a` and `e`.

    Args:
        a: `[..., r]`, or `[batch, r, ...]` with `dim=1`.
        basis: `[r, h]`, in the dtype of `a`. Triton copies it unless its columns are contiguous.
        e: `[h]`, float32 or wider; its gradient is accumulated in float32 at least.
        offset: `[h]` or None: `bias Q` where `a` holds a bias that the shift must not touch.
        dim: -1 or 1.
        impl: who computes.

    Raises:
        ValueError: Triton is asked for and cannot compute this.
    """
    return _apply(a, _Term(basis, None, e, None, offset), None, dim, impl)


def batched_apply(
    a: Tensor,
    basis: Tensor,
    e: Tensor,
    index: Tensor,
    offset: Tensor | None = None,
    dim: int = -1,
    *,
    impl: Impl = None,
) -> Tensor:
    """`factored_apply` with a row of `e` per sample: sample `n` takes `e[index[n]]`.

    Args:
        a: `[batch, ..., r]`, or `[batch, r, ...]` with `dim=1`.
        basis: `[r, h]`, in the dtype of `a`.
        e: `[adapters, h]`, float32 or wider. A row's gradient sums over its samples in a fixed order.
        index: `[batch]`, int64, each from 0 to adapters - 1. On a GPU, where looking would wait for the device, Triton
            makes a sample out of range NaN, and PyTorch's own indexing stops the device.
        offset: `[h]` or None.
        dim: -1 or 1.
        impl: who computes.

    Raises:
        ValueError: `index` is not int64, not one entry per sample, or out of range (on a CPU), `e` is not
            two-dimensional, or Triton is asked for and cannot compute this.
    """
    _check_index(index, a, e)
    return _apply(a, _Term(basis, None, e, index, offset), None, dim, impl)


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
        index: `[batch]` int64 or None: the row of `d` that a sample takes; see `batched_apply`.
        dim: -1 or 1.
        impl: who computes.

    Raises:
        ValueError: as `batched_apply`.
    """
    if index is not None:
        _check_index(index, x, d)
    left, right = sides
    return _apply(x, _Term(right, left, d, index), y, dim, impl)


def _apply(x: Tensor, term: _Term, y: Tensor | None, dim: int, impl: Impl) -> Tensor:
    """`y`, or `x` where that is None, and the term."""
    left = term.right if term.left is None else term.left
    others = (term.right, left) if y is None else (term.right, left, y)
    if not _takes_triton(impl, x, *others, directions=left.shape[1]):
        out: Tensor = _Apply.apply(x, y, *term, dim)  # type: ignore[no-untyped-call]
        return out
    index = term.row_of_sample
    values = term.values[None] if index is None else term.values
    keep = torch.is_grad_enabled() and values.requires_grad
    rows, residual = (each if each is None else layouts.samples(each, dim, apart=index is not None) for each in (x, y))
    offset = _float(term.offset)
    made, _ = operators.apply(rows, term.right, left, values.float(), residual, index, offset, y is None, keep)
    return layouts.restored(made, x, dim)


def _takes_triton(impl: Impl, *tensors: Tensor, directions: int) -> bool:
    able = uses_triton(*tensors) and directions <= WIDTHS[-1]
    if impl not in ("torch", "triton", None):
        raise ValueError(f"expected impl 'torch', 'triton' or None, got {impl!r}")
    if impl == "triton" and not able:
        got = ", ".join(f"{x.dtype} {tuple(x.shape)} on {x.device}" for x in tensors)
        raise ValueError(
            f"impl='triton' computes float16 or bfloat16 tensors of one dtype, none of them empty, with at most "
            f"{WIDTHS[-1]} directions, on an NVIDIA GPU from sm_80 or an AMD GPU of gfx9 on, with Triton installed; "
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


def _float(vector: Tensor | None) -> Tensor | None:
    return None if vector is None else vector.float()


class _Apply(torch.autograd.Function):
    """The term in plain PyTorch. Keeps `t` and the values for backward, and nothing as wide as `x` besides."""

    @staticmethod
    def forward(
        ctx: Any,
        x: Tensor,
        y: Tensor | None,
        right: Tensor,
        left: Tensor | None,
        values: Tensor,
        index: Tensor | None,
        offset: Tensor | None,
        dim: int,
    ) -> Tensor:
        moved, t = reference.apply(x, (right, right if left is None else left), values, dim, index, offset)
        ctx.dim, ctx.add_input = dim, y is None
        ctx.save_for_backward(t if ctx.needs_input_grad[4] else None, right, left, values, index)
        return (x if y is None else y) + moved

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        t, right, left, values, index = ctx.saved_tensors
        (grad,), (need_x, need_y, *_) = grads, ctx.needs_input_grad
        sides = (right if left is None else left, right)
        grad_x, grad_values = reference.apply_backward(grad, t, sides, values, ctx.dim, index, need_x)
        if grad_x is not None and ctx.add_input:
            grad_x = grad + grad_x
        if grad_values is not None:
            grad_values = grad_values.to(values.dtype)
        return grad_x, grad if need_y else None, None, None, grad_values, None, None, None
