"""The term of a shift as torch operators, `torch.ops.spectra.*`: schemas, fakes and autograd, without Triton.

`torch.compile(fullgraph=True)` sees each as one opaque node. They are `custom_op` rather than `triton_op`: that way
their whole registration, fakes and autograd included, runs and is checked where there is no GPU, under the
interpreter. Activations are `[S, P, C]`, S samples (or one for all) of P rows, matrices float16 or bfloat16, vectors
float32.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from spectra.kernels import reference


@torch.library.custom_op("spectra::low_rank_apply", mutates_args=())
def low_rank_apply(
    x: Tensor,
    right: Tensor,
    left: Tensor,
    values: Tensor,
    residual: Tensor | None,
    index: Tensor | None,
    offset: Tensor | None,
    add_input: bool,
    keep: bool,
) -> tuple[Tensor, Tensor]:
    """`[residual +] [x +] (t * v) left^T` with `t = x right - offset`; differentiable in x, values and residual.

    Args:
        x: `[S, P, C]`.
        right: `[C, h]`, h at most the last of `configurations.WIDTHS`. Columns that are not contiguous are copied, as
            are those of `left`.
        left: `[D, h]`.
        values: `[adapters, h]`.
        residual: `[S, P, D]` or None.
        index: `[S]` int64 or None: sample `s` takes row `index[s]` of `values`, or row 0.
        offset: `[h]` or None.
        add_input: whether `x` is added, in place of a residual; C = D then.
        keep: whether to keep `t`, which the gradient of `values` needs.

    Returns:
        `out [S, P, D]` and `t [S, P, h rounded up]` (or an empty tensor), both in the dtype of `x`.
    """
    from spectra.kernels import triton_backend

    out, t = _outputs(x, right, left, keep)
    if out.numel():
        added, kept = (x if add_input else residual), (t if keep else None)
        triton_backend.launch(x, (right, left), (values, index), out=out, residual=added, offset=offset, t=kept)
    return out, t


def _outputs(x: Tensor, right: Tensor, left: Tensor, keep: bool) -> tuple[Tensor, Tensor]:
    s, p, _ = x.shape
    width = -(-right.shape[1] // 16) * 16  # so that rows of t are loaded 16 bytes at a time
    return _empty(x, left.shape[0]), x.new_empty(s, p, width) if keep else x.new_empty(0)


def _empty(x: Tensor, channels: int) -> Tensor:
    """`[S, P, channels]`, laid out as `x [S, P, C]` is: channels last unless its rows are the contiguous ones."""
    s, p, _ = x.shape
    if x.stride(2) != 1 and x.stride(1) == 1:
        return x.new_empty(s, channels, p).transpose(1, 2)
    return x.new_empty(s, p, channels)


@low_rank_apply.register_fake
def _(x: Tensor, right: Tensor, left: Tensor, *rest: Any) -> tuple[Tensor, Tensor]:
    return _outputs(x, right, left, rest[-1])


@torch.library.custom_op("spectra::low_rank_apply_backward", mutates_args=())
def low_rank_apply_backward(
    grad: Tensor,
    t: Tensor,
    right: Tensor,
    left: Tensor,
    values: Tensor,
    index: Tensor | None,
    add_input: bool,
    need_values: bool,
) -> tuple[Tensor, Tensor]:
    """Gradients that `low_rank_apply` gives `x`, and `values` (empty if not needed); `grad left` serves both."""
    from spectra.kernels import triton_backend

    grad_x, kept = _empty(grad, right.shape[0]), t.contiguous() if need_values else None
    added, sums = grad if add_input else None, None
    if grad_x.numel():
        sums = triton_backend.launch(
            grad, (left, right), (values, index), out=grad_x, residual=added, t=kept, sums=need_values
        )
    if sums is None:
        return grad_x, values.new_zeros(values.shape if need_values else 0)
    return grad_x, reference.sums_of_adapters(sums.sum(1)[:, : right.shape[1]], index, len(values))


@low_rank_apply_backward.register_fake
def _(grad: Tensor, t: Tensor, right: Tensor, left: Tensor, values: Tensor, *rest: Any) -> tuple[Tensor, Tensor]:
    return _empty(grad, right.shape[0]), values.new_empty(values.shape if rest[-1] else 0)


def _save(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor]) -> None:
    _, right, left, values, _, index, _, ctx.add_input, ctx.keep = inputs
    ctx.save_for_backward(output[1], right, left, values, index)
    ctx.set_materialize_grads(False)


def _backward(ctx: Any, grad: Tensor | None, grad_t: Tensor | None) -> tuple[Tensor | None, ...]:
    if grad is None:
        return (None,) * 9
    t, right, left, values, index = ctx.saved_tensors
    need_x, _, _, need_values, need_residual, *_ = ctx.needs_input_grad
    if need_values and not ctx.keep:
        raise ValueError(
            "spectra::low_rank_apply was called with keep=False, but values need a gradient: pass keep=True"
        )
    grad_x, grad_values = None, None
    if need_x or need_values:
        grad_x, grad_values = low_rank_apply_backward(grad, t, right, left, values, index, ctx.add_input, need_values)
    return grad_x, None, None, grad_values if need_values else None, grad if need_residual else None, *[None] * 4


low_rank_apply.register_autograd(_backward, setup_context=_save)
