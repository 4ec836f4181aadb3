"""Layers as functions of tensors, and the gradients that they give delta; derivations are in docs/algebra.md.

A weight with its shift is `W_delta = W + Q diag(e) Q^T W + U diag(d) V^T` (or with the first term on the right):
directions that go by the basis `Q` alone, and a low-rank term of those with both sides kept.

Delta's gradient is `u_i^T G v_i` with the weight's gradient `G`. It is read from `G` itself where that is cheap, from
both sides' activations, or from the one activation that the basis meets: with `y` the layer's output and `g` its
gradient, `u_i^T G v_i = sum_n (g Q)_ni (y Q)_ni / s_i`; where the basis meets the input, the pair is the input and the
gradient that arrives at it.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor

from spectra import kernels
from spectra.layers.frozen_operators import Operator
from spectra.layers.saved_elsewhere import recompute, to_save
from spectra.spectrum.spectrum import matrix


def add_low_rank_term(
    operator: Operator, x: Tensor, y: Tensor, sides: tuple[Tensor, Tensor], d: Tensor, index: Tensor | None = None
) -> Tensor:
    """`y`, and `U diag(d) V^T` applied to `x`; differentiable in all three.

    Args:
        x: the layer's input.
        y: its output without these directions.
        sides: `U [rows, k]` and `V [columns, k]`.
        d: `[k]`, or `[shifts, k]` with `index`; float32 or wider, and so is the sum of its gradient.
        index: `[batch]` int64: the row of `d` that each sample takes.
    """
    if operator.pointwise and operator.dim == -1:
        return kernels.low_rank_apply(x, y, sides, d, index, operator.dim)
    own = d if index is None else d[index]
    scaled: Tensor = _Scaled.apply(operator.encode(x, *sides), own, operator.dim)  # type: ignore[no-untyped-call]
    return y + operator.decode(scaled, *sides)


class BothSides(NamedTuple):
    """A layer by both sides of all its directions.

    Attributes:
        left: `U [rows, r]`.
        right: `V [columns, r]`.
        weight: the frozen one, or None to compute without it.
        bias: the layer's.
    """

    left: Tensor
    right: Tensor
    weight: Tensor | None
    bias: Tensor | None


def two_sided(
    x: Tensor, d: Tensor, s: Tensor, sides: BothSides, operator: Operator, saves_input: bool = False
) -> Tensor:
    """The frozen layer and `((x V) * d) U^T`, or without its weight `((x V) * s) U^T`; differentiable in `x` and `d`.

    Args:
        x: the layer's input.
        d: `[r]`, or `[batch, r]` for each sample's own: change of each singular value.
        s: likewise, the singular values in force.
        saves_input: save `x` for the way back, and make `x V` again, instead of saving `x V`.
    """
    out: Tensor = _TwoSided.apply(x, d, s, operator, saves_input, *sides)  # type: ignore[no-untyped-call]
    return out


def attach_gradient(
    a: Tensor, d: Tensor, s: Tensor, basis: Tensor, offset: Tensor | None, dim: int, gram: bool
) -> Tensor:
    """`a` itself, through which delta receives its gradient on the way back.

    Args:
        a: input or output of the layer with its shifted weight; an input must feed this layer alone.
        d: `[h]`, change of each singular value; receives the gradient.
        s: `[h]`, the singular values in force; entries of 0 receive no gradient.
        basis: `[r, h]`.
        offset: `bias Q [h]` where `a` holds a bias, or None.
        dim: where `a` has its channels.
        gram: see `kernels.shift_gradient`.
    """
    out: Tensor = _BasisGradient.apply(a, d, s, basis, offset, dim, gram)  # type: ignore[no-untyped-call]
    return out


def attach_explicit_gradient(
    y: Tensor, encoded: Tensor, d: Tensor, left: Tensor, right: Tensor, operator: Operator
) -> Tensor:
    """`y` itself, through which directions with both sides known receive their gradient.

    Args:
        y: the layer's output, these directions included.
        encoded: `operator.encode` of its input: `k` channels.
        d: `[k]`, receives the gradient.
        left: `[rows, k]`.
        right: `[columns, k]`.
    """
    out: Tensor = _ExplicitGradient.apply(y, encoded, d, left, right, operator)  # type: ignore[no-untyped-call]
    return out


def by_weight_gradient(
    x: Tensor, d: Tensor, shifted: Tensor, bias: Tensor | None, sides: tuple[Tensor, ...], operator: Operator
) -> Tensor:
    """The layer with its `shifted` weight; delta's gradient comes from that weight's, `G = g^T x`.

    Args:
        x: the layer's input; the operator is `pointwise`.
        d: `[r]`, change of each singular value; receives the gradient.
        shifted: the weight in force.
        sides: weight, basis, sigma, left and right of the frozen weight, as `kernels.singular_gradient` takes them.
    """
    out: Tensor = _ByWeight.apply(x, d, shifted, bias, operator, *sides)  # type: ignore[no-untyped-call]
    return out


class _Scaled(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, t: Tensor, values: Tensor, dim: int) -> Tensor:
        ctx.dim = dim
        ctx.save_for_backward(t if ctx.needs_input_grad[1] else None, values)
        return kernels.scale_channels(t, values, dim)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        t, values = ctx.saved_tensors
        (grad,), dim = grads, ctx.dim
        grad_t = kernels.scale_channels(grad, values, dim) if ctx.needs_input_grad[0] else None
        if not ctx.needs_input_grad[1]:
            return grad_t, None, None
        return grad_t, kernels.channel_products(t, grad, dim, per_sample=values.ndim == 2).to(values.dtype), None


class _TwoSided(torch.autograd.Function):
    """On the way back all is `U diag(s) V^T`, whether the way forth had the frozen weight or not."""

    @staticmethod
    def forward(
        ctx: Any, x: Tensor, d: Tensor, s: Tensor, operator: Operator, saves_input: bool, *sides: Tensor | None
    ) -> Tensor:
        left, right, weight, bias = BothSides(*sides)  # type: ignore[arg-type]
        ctx.operator, ctx.saves_input, ctx.shape = operator, saves_input, x.shape
        t = operator.encode(x, left, right)
        held, ctx.made = to_save(x) if saves_input else (t, None)
        ctx.save_for_backward(held if ctx.needs_input_grad[1] else None, s, left, right)
        y = operator.decode(kernels.scale_channels(t, s if weight is None else d, operator.dim), left, right)
        if weight is not None:
            return operator.apply(x, weight, bias) + y
        return y if bias is None else y + kernels.broadcast_channels(bias.to(y.dtype), y.ndim, operator.dim)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        held, s, left, right = ctx.saved_tensors
        operator, (grad,) = ctx.operator, grads
        p = operator.adjoint(grad, left, right)
        grad_x, grad_d = None, None
        if ctx.needs_input_grad[0]:
            grad_x = operator.pull_back(kernels.scale_channels(p, s, operator.dim), ctx.shape, left, right)
        if ctx.needs_input_grad[1]:
            t = operator.encode(recompute(ctx.made, held), left, right) if ctx.saves_input else held
            grad_d = kernels.channel_products(t, p, operator.dim, per_sample=s.ndim == 2)
        return grad_x, grad_d, *[None] * 7


class _ByWeight(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, x: Tensor, d: Tensor, shifted: Tensor, bias: Tensor | None, operator: Operator, *sides: Tensor
    ) -> Tensor:
        ctx.operator = operator
        saved, ctx.made = to_save(x)
        ctx.save_for_backward(saved, shifted, *sides)
        return operator.apply(x, shifted, bias)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        saved, shifted, *sides = ctx.saved_tensors
        (grad,), dim = grads, ctx.operator.dim
        grad_x = kernels.map_channels(grad, matrix(shifted).to(grad.dtype), dim) if ctx.needs_input_grad[0] else None
        gradient = kernels.weight_gradient(recompute(ctx.made, saved), grad, dim)
        grad_d = kernels.singular_gradient(gradient, *sides)
        return grad_x, grad_d, *[None] * (len(sides) + 3)


class _BasisGradient(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, a: Tensor, d: Tensor, s: Tensor, basis: Tensor, offset: Tensor | None, dim: int, gram: bool
    ) -> Tensor:
        ctx.dim, ctx.gram = dim, gram
        saved, ctx.made = to_save(a)
        ctx.save_for_backward(saved, s, basis, offset)
        return a.view_as(a)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        saved, s, basis, offset = ctx.saved_tensors
        (grad,), a = grads, recompute(ctx.made, saved)
        grad_d = kernels.shift_gradient(a, grad.to(a.dtype), basis, s, ctx.dim, offset=offset, gram=ctx.gram)
        return grad, grad_d, *[None] * 5


class _ExplicitGradient(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, y: Tensor, encoded: Tensor, d: Tensor, left: Tensor, right: Tensor, operator: Operator
    ) -> Tensor:
        ctx.operator = operator
        ctx.save_for_backward(encoded, left, right)
        return y.view_as(y)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        encoded, left, right = ctx.saved_tensors
        (grad,) = grads
        back = ctx.operator.adjoint(grad.to(left.dtype), left, right)
        return grad, None, kernels.channel_products(encoded, back, ctx.operator.dim), *[None] * 3
