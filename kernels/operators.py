"""The shift's formulas as torch operators, `torch.ops.spectra.*`: schemas, fakes and autograd, without Triton.

`torch.compile(fullgraph=True)` sees each as one opaque node. They are `custom_op` rather than `triton_op`: that way
their whole registration, fakes and autograd included, runs and is checked where there is no GPU, under the
interpreter. Activations are `[S, P, C]` (`layouts.samples`).
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from spectra.kernels.layouts import empty_with, padded


@torch.library.custom_op("spectra::apply", mutates_args=())
def apply(
    a: Tensor,
    right: Tensor,
    left: Tensor,
    values: Tensor,
    sigma: Tensor | None,
    index: Tensor | None,
    offset: Tensor | None,
    residual: bool,
    keep: bool,
) -> tuple[Tensor, Tensor]:
    """`[a +] (t * v) left^T` with `t = a right - offset`, and `t` if it is to be kept; differentiable in a and values.

    Args:
        a: `[S, P, C]`.
        right: `[C, h]`, in the dtype of `a`. Fastest when its columns are contiguous; so is `left`.
        left: `[D, h]`.
        values: `[adapters, h]`, float32: `v` itself, or delta where `sigma` is given.
        sigma: `[h]` float32 or None; given, `v = ReLU(sigma + values)`.
        index: `[S]` int64 or None: sample `s` takes row `index[s]` of `values`, or row 0.
        offset: `[h]` float32 or None.
        residual: whether `a` is added; C = D then.
        keep: whether to keep `t`, which the gradient of `values` needs.

    Returns:
        `out [S, P, D]` and `t [S, P, h rounded up]` (or an empty tensor), both in the dtype of `a`.
    """
    from spectra.kernels import triton_backend

    out, t = _outputs(a, right, left, keep)
    if out.numel():
        triton_backend.apply(a, right, left, values, sigma, index, offset, out, t if keep else None, False, residual)
    return out, t


def _outputs(a: Tensor, right: Tensor, left: Tensor, keep: bool) -> tuple[Tensor, Tensor]:
    s, p, _ = a.shape
    t = a.new_empty(s, p, padded(right.shape[1])) if keep else a.new_empty(0)
    return empty_with(a, left.shape[0]), t


@apply.register_fake
def _(
    a: Tensor,
    right: Tensor,
    left: Tensor,
    values: Tensor,
    sigma: Tensor | None,
    index: Tensor | None,
    offset: Tensor | None,
    residual: bool,
    keep: bool,
) -> tuple[Tensor, Tensor]:
    return _outputs(a, right, left, keep)


@torch.library.custom_op("spectra::apply_backward", mutates_args=())
def apply_backward(
    grad: Tensor,
    t: Tensor,
    right: Tensor,
    left: Tensor,
    values: Tensor,
    sigma: Tensor | None,
    index: Tensor | None,
    residual: bool,
    need_values: bool,
) -> tuple[Tensor, Tensor]:
    """Gradients of `apply`: of `a`, and of `values` (empty if not needed). The product `grad left` serves both."""
    from spectra.kernels import triton_backend

    grad_a = empty_with(grad, right.shape[0])
    h, adapters = right.shape[1], values.shape[0]
    if grad_a.numel() == 0:
        return grad_a, values.new_zeros(values.shape if need_values else 0)
    kept = t.contiguous() if need_values else None
    sums = triton_backend.apply(grad, left, right, values, sigma, index, None, grad_a, kept, need_values, residual)
    if sums is None:
        return grad_a, values.new_empty(0)
    return grad_a, triton_backend.finish(sums, h, adapters, index, sigma, values)


@apply_backward.register_fake
def _(
    grad: Tensor,
    t: Tensor,
    right: Tensor,
    left: Tensor,
    values: Tensor,
    sigma: Tensor | None,
    index: Tensor | None,
    residual: bool,
    need_values: bool,
) -> tuple[Tensor, Tensor]:
    return empty_with(grad, right.shape[0]), values.new_empty(values.shape if need_values else 0)


def _save(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor]) -> None:
    _, right, left, values, sigma, index, _, residual, keep = inputs
    ctx.residual, ctx.keep = residual, keep
    ctx.save_for_backward(output[1], right, left, values, sigma, index)
    ctx.set_materialize_grads(False)


def _backward(ctx: Any, grad: Tensor | None, grad_t: Tensor | None) -> tuple[Tensor | None, ...]:
    if grad is None:
        return (None,) * 9
    t, right, left, values, sigma, index = ctx.saved_tensors
    need_values = ctx.needs_input_grad[3]
    if need_values and not ctx.keep:
        raise ValueError("spectra::apply was called with keep=False, but values need a gradient: pass keep=True")
    grad_a, grad_values = apply_backward(grad, t, right, left, values, sigma, index, ctx.residual, need_values)
    return grad_a, None, None, grad_values if need_values else None, None, None, None, None, None


apply.register_autograd(_backward, setup_context=_save)


@torch.library.custom_op("spectra::rebuild", mutates_args=())
def rebuild(
    weight: Tensor, basis: Tensor, values: Tensor, sigma: Tensor | None, multiplier: float, left: bool
) -> Tensor:
    """`W + Q diag(e) Q^T W` (left) or `W + W Q diag(e) Q^T`.

    Args:
        weight: `[rows, columns]`.
        basis: `[r, h]`, in the dtype of `weight`.
        values: `[h]` float32: `e` itself, or delta where `sigma` is given.
        sigma: `[h]` float32 or None; given, `e = (ReLU(sigma + multiplier * values) - sigma) / sigma`.
    """
    from spectra.kernels import triton_backend

    if weight.numel() == 0 or basis.numel() == 0:
        return weight.clone()
    return triton_backend.rebuild(weight, basis, values, sigma, multiplier, left)


@rebuild.register_fake
def _(weight: Tensor, basis: Tensor, values: Tensor, sigma: Tensor | None, multiplier: float, left: bool) -> Tensor:
    return torch.empty_like(weight)


@torch.library.custom_op("spectra::shift_gradient", mutates_args=())
def shift_gradient(a: Tensor, b: Tensor, basis: Tensor, offset: Tensor | None, over: Tensor | None) -> Tensor:
    """`colsum((a Q - offset) * (b Q))`, over `over` where that is positive and 0 elsewhere: `[h]`, float32.

    Args:
        a: `[S, P, C]`, as is `b`.
        basis: `[C, h]`, in their dtype.
        offset: `[h]` float32 or None.
        over: `[h]` float32 or None.
    """
    from spectra.kernels import triton_backend

    h = basis.shape[1]
    if a.numel() == 0 or h == 0:
        return a.new_zeros(h, dtype=torch.float32)
    return triton_backend.finish(triton_backend.column_sums(a, b, basis, offset), h, 1, over=over)[0]


@shift_gradient.register_fake
def _(a: Tensor, b: Tensor, basis: Tensor, offset: Tensor | None, over: Tensor | None) -> Tensor:
    return a.new_empty(basis.shape[1], dtype=torch.float32)
