"""How one layer computes with its shift: four plans, and the gradients that they give delta.

The shifted layer is `W_delta = W + (head) + (tail)`: the tail, a few directions with both sides known, is a narrow
term `decode(encode(x) * d)`; the head is a map of one activation, `a + ((a Q) * e) Q^T`.

    factored   the map as it stands
    projected  `D = Q diag(e) Q^T` once for each value of delta, then `a + a D`
    rebuilt    W_delta once for each value of delta, then the ordinary layer
    two-sided  for square weights, all directions of which have both sides: `y0 + ((x V) * d) U^T`

Rebuilt takes delta's gradient from the activation that the basis meets: with `y` the layer's output and `g` its
gradient, `u_i^T (dL/dW) v_i = sum_n (g Q)_ni (y Q)_ni / s_i`; where the basis meets the input the pair is the input
and the gradient that arrives at it; of a square weight it takes dL/dW itself. Derivation: docs/algebra.md. What each
costs, and which is taken: `spectra.costs`.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from spectra import kernels
from spectra.operators import Operator


def projected(
    a: Tensor,
    d: Tensor,
    sigma: Tensor,
    basis: Tensor,
    product: Tensor,
    constant: Tensor | None,
    offset: Tensor | None,
    dim: int,
) -> Tensor:
    """`a + a D - constant`, differentiable in `a` and `d`.

    Args:
        a: the activation that the basis meets, `[..., r]`, or `[batch, r, ...]` with `dim=1`.
        d: `[h]`, change of each singular value; receives the gradient.
        sigma: `[h]`, positive.
        basis: `[r, h]`.
        product: `D = Q diag(d / sigma) Q^T`, `[r, r]`, in the dtype of `a`.
        constant: `bias D [r]` where `a` holds a bias, which the shift must not touch.
        offset: `bias Q [h]`, likewise.
        dim: where `a` has its channels.
    """
    out: Tensor = _Projected.apply(a, d, sigma, basis, product, constant, offset, dim)  # type: ignore[no-untyped-call]
    return out


def attach_output_gradient(y: Tensor, d: Tensor, s: Tensor, basis: Tensor, offset: Tensor | None, dim: int) -> Tensor:
    """`y` itself, through which delta receives its gradient on the way back.

    Args:
        y: output of the layer with its rebuilt weight, bias included.
        d: `[h]`, change of each singular value; receives the gradient.
        s: `[h]`, the singular values in force; entries of 0 receive none.
        basis: `[rows, h]`.
        offset: `bias Q [h]`, or None without a bias.
        dim: where `y` has its channels.
    """
    out: Tensor = _OutputGradient.apply(y, d, s, basis, offset, dim)  # type: ignore[no-untyped-call]
    return out


def attach_input_gradient(x: Tensor, d: Tensor, s: Tensor, basis: Tensor, dim: int) -> Tensor:
    """`x` itself; the gradient that arrives at it tells delta's. Its result must feed this layer alone."""
    out: Tensor = _InputGradient.apply(x, d, s, basis, dim)  # type: ignore[no-untyped-call]
    return out


def attach_explicit_gradient(
    y: Tensor, middle: Tensor, d: Tensor, left: Tensor, right: Tensor, operator: Operator
) -> Tensor:
    """`y` itself, through which directions with both sides known receive their gradient.

    Args:
        y: the layer's output, these directions included.
        middle: `operator.encode` of its input: `k` channels.
        d: `[k]`, receives the gradient.
        left: `[rows, k]`.
        right: `[columns, k]`.
    """
    out: Tensor = _ExplicitGradient.apply(y, middle, d, left, right, operator)  # type: ignore[no-untyped-call]
    return out


def two_sided(
    x: Tensor,
    d: Tensor,
    s: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    left: Tensor,
    right: Tensor,
    operator: Operator,
) -> Tensor:
    """The frozen layer and `((x V) * d) U^T`, differentiable in `x` and `d`; the way back is all `U diag(s) V^T`.

    Args:
        x: the layer's input; the operator is `pointwise`.
        d: `[r]`, change of each singular value.
        s: `[r]`, the singular values in force.
        weight, bias: the frozen ones.
        left: `U [rows, r]`, all directions.
        right: `V [columns, r]`, likewise.
    """
    out: Tensor = _TwoSided.apply(x, d, s, weight, bias, left, right, operator)  # type: ignore[no-untyped-call]
    return out


def attach_weight_gradient(weight: Tensor, d: Tensor, left: Tensor, right: Tensor) -> Tensor:
    """The rebuilt `weight` itself, whose gradient tells delta's: `colsum(U * (G V))`.

    Args:
        weight: of two or more dimensions, seen as `[rows, columns]`.
        d: `[r]`, receives the gradient.
        left: `U [rows, r]`, all directions.
        right: `V [columns, r]`, likewise.
    """
    out: Tensor = _WeightGradient.apply(weight, d, left, right)  # type: ignore[no-untyped-call]
    return out


class _TwoSided(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        x: Tensor,
        d: Tensor,
        s: Tensor,
        weight: Tensor,
        bias: Tensor | None,
        left: Tensor,
        right: Tensor,
        operator: Operator,
    ) -> Tensor:
        ctx.operator = operator
        t = operator.encode(x, left, right)
        ctx.save_for_backward(t if ctx.needs_input_grad[1] else None, s, left, right)
        return operator.apply(x, weight, bias) + operator.decode(kernels.scaled(t, d, operator.dim), left, right)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        t, s, left, right = ctx.saved_tensors
        operator, (grad,) = ctx.operator, grads
        need_x, need_d, *_ = ctx.needs_input_grad
        p = operator.adjoint(grad, left, right)
        grad_x = operator.decode(kernels.scaled(p, s, operator.dim), right, left) if need_x else None
        grad_d = kernels.channel_products(t, p, operator.dim) if need_d else None
        return grad_x, grad_d, None, None, None, None, None, None


class _WeightGradient(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, weight: Tensor, d: Tensor, left: Tensor, right: Tensor) -> Tensor:
        ctx.save_for_backward(left, right)
        return weight.view_as(weight)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        left, right = ctx.saved_tensors
        gradient = grads[0].reshape(len(left), len(right)).to(left.dtype)
        return None, kernels.channel_products(left, gradient @ right, -1), None, None


class _Projected(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        a: Tensor,
        d: Tensor,
        sigma: Tensor,
        basis: Tensor,
        product: Tensor,
        constant: Tensor | None,
        offset: Tensor | None,
        dim: int,
    ) -> Tensor:
        ctx.dim = dim
        # Each part of backward keeps only what it needs; without a gradient of delta that is not `a`.
        kept = (a, sigma, basis, offset) if ctx.needs_input_grad[1] else (None,) * 4
        ctx.save_for_backward(*kept, product)
        return kernels.add_projection(a, product, constant, dim)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        a, sigma, basis, offset, product = ctx.saved_tensors
        (grad,) = grads
        need_input, need_d, *_ = ctx.needs_input_grad
        grad_a = kernels.add_projection(grad, product, None, ctx.dim) if need_input else None
        grad_d = kernels.shift_gradient(a, grad, basis, ctx.dim, offset=offset, over=sigma) if need_d else None
        return grad_a, grad_d, None, None, None, None, None, None


class _OutputGradient(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, y: Tensor, d: Tensor, s: Tensor, basis: Tensor, offset: Tensor | None, dim: int) -> Tensor:
        ctx.dim = dim
        ctx.save_for_backward(y, s, basis, offset)
        return y.view_as(y)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        y, s, basis, offset = ctx.saved_tensors
        (grad,) = grads
        grad_d = kernels.shift_gradient(y, grad.to(y.dtype), basis, ctx.dim, offset=offset, over=s)
        return grad, grad_d, None, None, None, None


class _InputGradient(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, d: Tensor, s: Tensor, basis: Tensor, dim: int) -> Tensor:
        ctx.dim = dim
        ctx.save_for_backward(x, s, basis)
        return x.view_as(x)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        x, s, basis = ctx.saved_tensors
        (grad,) = grads
        return grad, kernels.shift_gradient(x, grad.to(x.dtype), basis, ctx.dim, over=s), None, None, None


class _ExplicitGradient(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, y: Tensor, middle: Tensor, d: Tensor, left: Tensor, right: Tensor, operator: Operator
    ) -> Tensor:
        ctx.operator = operator
        ctx.save_for_backward(middle, left, right)
        return y.view_as(y)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        middle, left, right = ctx.saved_tensors
        (grad,) = grads
        back = ctx.operator.adjoint(grad.to(left.dtype), left, right)
        return grad, None, kernels.channel_products(middle, back, ctx.operator.dim), None, None, None
