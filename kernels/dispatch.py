"""The one place that decides which backend computes, and where formulas meet autograd."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from spectra.kernels import reference


def rebuild(weight: Tensor, basis: Tensor, e: Tensor, *, left: bool) -> Tensor:
    """The shifted weight without its tail; see `reference.rebuild`. Not differentiable: the plans do that."""
    return reference.rebuild(weight, basis, e, left=left)


def factored_apply(a: Tensor, basis: Tensor, e: Tensor, offset: Tensor | None = None, dim: int = -1) -> Tensor:
    """`a + ((a Q - offset) * e) Q^T`, differentiable in `a` and `e`.

    Args:
        a: `[..., r]`, or `[batch, r, ...]` with `dim=1`.
        basis: `[r, h]`, in the dtype of `a`.
        e: `[h]`, float32 or wider; its gradient is accumulated in float32 at least.
        offset: `[h]` or None; see `reference.factored_forward`.
        dim: -1 or 1.
    """
    out: Tensor = _Factored.apply(a, basis, e, offset, dim)  # type: ignore[no-untyped-call]
    return out


def shift_gradient(a: Tensor, b: Tensor, basis: Tensor, dim: int = -1) -> Tensor:
    """`colsum((a Q) * (b Q))`; see `reference.shift_gradient`."""
    return reference.shift_gradient(a, b, basis, dim)


class _Factored(torch.autograd.Function):
    """Keeps `t` and `e` for backward, and nothing as wide as `a` besides."""

    @staticmethod
    def forward(ctx: Any, a: Tensor, basis: Tensor, e: Tensor, offset: Tensor | None, dim: int) -> Tensor:
        y, t = reference.factored_forward(a, basis, e, offset, dim)
        ctx.dim = dim
        ctx.save_for_backward(t, basis, e)
        return y

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        t, basis, e = ctx.saved_tensors
        need_input, _, need_e, _, _ = ctx.needs_input_grad
        grad_input, grad_e = reference.factored_backward(grads[0], t, basis, e, ctx.dim, need_input, need_e)
        if grad_e is not None:
            grad_e = grad_e.to(e.dtype)
        return grad_input, None, grad_e, None, None
