"""How one layer computes with its shift: four plans, and the gradients that they give delta.

The shifted layer is `W_delta = W + (head) + (tail)`: the tail, a few directions with both sides known, is a narrow
term `decode(encode(x) * d)`; the head is a map of one activation, `a + ((a Q) * e) Q^T`.

    factored   the map as it stands
    projected  `D = Q diag(e) Q^T` once for each value of delta, then `a + a D`
    rebuilt    W_delta once for each value of delta, then the ordinary layer
    two-sided  where all directions have both sides: `((x V) * s) U^T`

Rebuilt takes delta's gradient from the activation that the basis meets: with `y` the layer's output and `g` its
gradient, `u_i^T (dL/dW) v_i = sum_n (g Q)_ni (y Q)_ni / s_i`; where the basis meets the input the pair is the input
and the gradient that arrives at it; or it takes it from dL/dW itself. Derivation: docs/algebra.md. What each costs, and
which is taken: `spectra.layers.costs`.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from spectra import kernels
from spectra.layers.operators import Operator
from spectra.layers.saved_elsewhere import producing_norm, recompute
from spectra.spectrum.spectrum import matrix


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
    norm, saved = producing_norm(a)
    out: Tensor = _Projected.apply(  # type: ignore[no-untyped-call]
        a, saved, norm, d, sigma, basis, product, constant, offset, dim
    )
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
    norm, saved = producing_norm(x)
    out: Tensor = _InputGradient.apply(x, saved, norm, d, s, basis, dim)  # type: ignore[no-untyped-call]
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


def scale(t: Tensor, values: Tensor, dim: int) -> Tensor:
    """`kernels.scaled`, differentiable in `t` and `values`; keeps `t` in its own dtype.

    Args:
        values: `[channels]`, or `[batch, channels]` for each sample's own, float32 or wider.
    """
    out: Tensor = _Scaled.apply(t, values, dim)  # type: ignore[no-untyped-call]
    return out


def two_sided(
    x: Tensor,
    d: Tensor,
    s: Tensor,
    weight: Tensor | None,
    bias: Tensor | None,
    left: Tensor,
    right: Tensor,
    operator: Operator,
    keep_input: bool,
) -> Tensor:
    """The frozen layer and `((x V) * d) U^T`, or `((x V) * s) U^T` alone; differentiable in `x` and `d`.

    The way back is all `U diag(s) V^T`.

    Args:
        x: the layer's input.
        d: `[r]`, or `[batch, r]` for each sample's own: change of each singular value.
        s: likewise, the singular values in force.
        weight: the frozen one, or None to leave its product out.
        bias: the layer's.
        left: `U [rows, r]`, all directions.
        right: `V [columns, r]`, likewise.
        keep_input: hold `x` for the way back, and make `x V` again of it, instead of holding `x V`.
    """
    norm, saved = producing_norm(x)
    out: Tensor = _TwoSided.apply(  # type: ignore[no-untyped-call]
        x, saved, norm, d, s, weight, bias, left, right, operator, keep_input
    )
    return out


class Sides(NamedTuple):
    """What tells delta's gradient from a weight's: `kernels.singular_gradient` of `weight` and these."""

    weight: Tensor
    basis: Tensor
    sigma: Tensor
    left: Tensor
    right: Tensor


def rebuilt_by_weight(
    x: Tensor, d: Tensor, shifted: Tensor, bias: Tensor | None, sides: Sides, operator: Operator
) -> Tensor:
    """The layer with its `shifted` weight; delta's gradient comes from that weight's, `G = g^T x`.

    Args:
        x: the layer's input; the operator is `pointwise`.
        d: `[r]`, change of each singular value; receives the gradient.
        sides: of the frozen weight, as a matrix.
    """
    norm, saved = producing_norm(x)
    out: Tensor = _ByWeight.apply(x, saved, norm, d, shifted, bias, operator, *sides)  # type: ignore[no-untyped-call]
    return out


def _gram(x: Tensor) -> bool:
    return kernels.uses_gram(x.device, x.dtype)


class _Scaled(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, t: Tensor, values: Tensor, dim: int) -> Tensor:
        ctx.dim = dim
        ctx.save_for_backward(t if ctx.needs_input_grad[1] else None, values)
        return kernels.scaled(t, values, dim)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        t, values = ctx.saved_tensors
        (grad,), dim = grads, ctx.dim
        grad_t = kernels.scaled(grad, values, dim) if ctx.needs_input_grad[0] else None
        if not ctx.needs_input_grad[1]:
            return grad_t, None, None
        return grad_t, kernels.channel_products(t, grad, dim, apart=values.ndim == 2).to(values.dtype), None


class _TwoSided(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        x: Tensor,
        saved: Tensor | None,
        norm: nn.Module | None,
        d: Tensor,
        s: Tensor,
        weight: Tensor | None,
        bias: Tensor | None,
        left: Tensor,
        right: Tensor,
        operator: Operator,
        keep_input: bool,
    ) -> Tensor:
        ctx.operator, ctx.norm, ctx.keep_input, ctx.shape = operator, norm, keep_input, x.shape
        t = operator.encode(x, left, right)
        held = (x if saved is None else saved) if keep_input else t
        ctx.save_for_backward(held if ctx.needs_input_grad[3] else None, s, left, right)
        if weight is not None:
            return operator.apply(x, weight, bias) + operator.decode(kernels.scaled(t, d, operator.dim), left, right)
        y = operator.decode(kernels.scaled(t, s, operator.dim), left, right)
        return y if bias is None else y + kernels.over_channels(bias.to(y.dtype), y.ndim, operator.dim)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        held, s, left, right = ctx.saved_tensors
        operator, (grad,) = ctx.operator, grads
        need_x, need_d = ctx.needs_input_grad[0], ctx.needs_input_grad[3]
        p = operator.adjoint(grad, left, right)
        grad_x, grad_d = None, None
        if need_x:
            grad_x = operator.pull_back(kernels.scaled(p, s, operator.dim), ctx.shape, left, right)
        if need_d:
            t = operator.encode(recompute(ctx.norm, held), left, right) if ctx.keep_input else held
            grad_d = kernels.channel_products(t, p, operator.dim, apart=s.ndim == 2)
        return grad_x, None, None, grad_d, *[None] * 7


class _ByWeight(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        x: Tensor,
        saved: Tensor | None,
        norm: nn.Module | None,
        d: Tensor,
        shifted: Tensor,
        bias: Tensor | None,
        operator: Operator,
        *sides: Tensor,
    ) -> Tensor:
        ctx.operator, ctx.norm = operator, norm
        ctx.save_for_backward(x if saved is None else saved, shifted, *sides)
        return operator.apply(x, shifted, bias)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        held, shifted, *sides = ctx.saved_tensors
        (grad,), dim = grads, ctx.operator.dim
        grad_x = kernels.along(grad, matrix(shifted).to(grad.dtype), dim) if ctx.needs_input_grad[0] else None
        gradient = kernels.weight_gradient(recompute(ctx.norm, held), grad, dim)
        grad_d = kernels.singular_gradient(gradient, *sides)
        return grad_x, None, None, grad_d, *[None] * (len(sides) + 3)


class _Projected(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        a: Tensor,
        saved: Tensor | None,
        norm: nn.Module | None,
        d: Tensor,
        sigma: Tensor,
        basis: Tensor,
        product: Tensor,
        constant: Tensor | None,
        offset: Tensor | None,
        dim: int,
    ) -> Tensor:
        ctx.dim, ctx.norm = dim, norm
        # Each part of backward keeps only what it needs; without a gradient of delta that is not `a`.
        kept = (a if saved is None else saved, sigma, basis, offset) if ctx.needs_input_grad[3] else (None,) * 4
        ctx.save_for_backward(*kept, product)
        return kernels.add_projection(a, product, constant, dim)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        held, sigma, basis, offset, product = ctx.saved_tensors
        (grad,), dim = grads, ctx.dim
        grad_a, grad_d = None, None
        if ctx.needs_input_grad[0]:
            grad_a = kernels.add_projection(grad, product, None, dim)
        if ctx.needs_input_grad[3]:
            a = recompute(ctx.norm, held)
            grad_d = kernels.shift_gradient(a, grad, basis, dim, offset=offset, over=sigma, gram=_gram(a))
        return grad_a, None, None, grad_d, *[None] * 6


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
        grad_d = kernels.shift_gradient(y, grad.to(y.dtype), basis, ctx.dim, offset=offset, over=s, gram=_gram(y))
        return grad, grad_d, None, None, None, None


class _InputGradient(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        x: Tensor,
        saved: Tensor | None,
        norm: nn.Module | None,
        d: Tensor,
        s: Tensor,
        basis: Tensor,
        dim: int,
    ) -> Tensor:
        ctx.dim, ctx.norm = dim, norm
        ctx.save_for_backward(x if saved is None else saved, s, basis)
        return x.view_as(x)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        held, s, basis = ctx.saved_tensors
        (grad,), x = grads, recompute(ctx.norm, held)
        grad_d = kernels.shift_gradient(x, grad.to(x.dtype), basis, ctx.dim, over=s, gram=_gram(x))
        return grad, None, None, grad_d, None, None, None


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
