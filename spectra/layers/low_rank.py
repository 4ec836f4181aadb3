"""A frozen layer and a term of low rank beside it, `U diag(d) V^T + A^T B`, as functions of tensors.

`U [rows, K]` and `V [columns, K]` are frozen and `d [K]` is trained: that is a shift of K directions. Outer terms are
trained on both sides. Both are one bottleneck of `K + k` channels, which is all that is kept for the way back: only the
gradient of a term's right side needs the layer's input, and most inputs are kept elsewhere anyway (`saved_elsewhere`).

Where a layer meets more rows than its weight has, the weight is made with its change for each way, and thrown away:
the same products, over fewer rows, and no pass over the activations (docs/algebra.md).
"""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor

from spectra import kernels
from spectra.layers.frozen_operators import ConvOperator, LinearOperator, Operator
from spectra.layers.saved_elsewhere import recompute, to_save
from spectra.spectrum.spectrum import matrix

TermOperator = LinearOperator | ConvOperator


class FrozenLayer(NamedTuple):
    """What does not learn.

    Attributes:
        operator: of the layer.
        weight: its weight; None for the term alone.
        bias: its bias.
        left: `U [rows, K]`, in the dtype in which the layer computes; K may be 0.
        right: `V [columns, K]`, likewise.
    """

    operator: Operator
    weight: Tensor | None
    bias: Tensor | None
    left: Tensor
    right: Tensor


def low_rank_layer(layer: FrozenLayer, x: Tensor, d: Tensor, a: Tensor | None, right: Tensor | None) -> Tensor:
    """The layer's output for `x`, the change of its weight included; differentiable in all but the frozen.

    Args:
        x: the layer's input, in the dtype in which it computes.
        d: `[K]`, change of each singular value; float32 or wider.
        a: `[k, rows]`, or None: no outer terms.
        right: `[k, columns]`.
    """
    operator = layer.operator
    if a is None or right is None:
        left_terms, right_terms = layer.left[:, :0], layer.right[:, :0]
    else:
        left_terms, right_terms = (side.to(layer.left.dtype).T for side in (a, right))
    if not isinstance(operator, TermOperator):
        return _plain(layer, x, d, left_terms, right_terms)
    out: Tensor = _LowRank.apply(x, d, left_terms, right_terms, *layer)  # type: ignore[no-untyped-call]
    return out


def _plain(layer: FrozenLayer, x: Tensor, d: Tensor, left_terms: Tensor, right_terms: Tensor) -> Tensor:
    """The same by PyTorch's own derivatives, for the operators that are rare."""
    operator, dtype = layer.operator, layer.left.dtype
    left, right = torch.cat([layer.left, left_terms], 1), torch.cat([layer.right, right_terms], 1)
    scaled_left = torch.cat([(layer.left * d).to(dtype), left_terms], 1)
    scaled_right = torch.cat([(layer.right * d).to(dtype), right_terms], 1)
    term = operator.decode(operator.encode(x, left, right), scaled_left, scaled_right)
    return term if layer.weight is None else operator.apply(x, layer.weight, layer.bias) + term


class _LowRank(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, d: Tensor, left_terms: Tensor, right_terms: Tensor, *frozen: Any) -> Tensor:
        operator: TermOperator
        operator, weight, bias, left, right = FrozenLayer(*frozen)  # type: ignore[assignment]
        ctx.operator, ctx.shape, ctx.directions = operator, x.shape, len(d)
        learns_d, learns_left, learns_right = ctx.needs_input_grad[1:4]
        scaled_left, all_right = _joined(_scaled(left, d), left_terms), _joined(right, right_terms)
        made = None
        if weight is not None and _making_pays(weight, left.dtype, operator.bottleneck_rows(x), weight[0].numel()):
            made = _changed(weight, scaled_left, all_right)
        t = None
        if made is None or learns_d or learns_left:
            t = operator.encode(x, all_right, all_right)  # these operators encode with the right side alone
        saved = None
        ctx.made = None
        if learns_right:
            saved, ctx.made = to_save(x)
        keeps = t if learns_d or learns_left else None
        ctx.save_for_backward(keeps, saved, d, left_terms, right_terms, weight, left, right)
        if made is not None:
            return operator.apply(x, made, bias)
        y = None if weight is None else operator.apply(x, weight, bias)
        return _decode(operator, t, scaled_left, y)  # type: ignore[arg-type]

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        t, saved, d, left_terms, right_terms, weight, left, right = ctx.saved_tensors
        (grad,), operator, directions = grads, ctx.operator, ctx.directions
        needs_x, learns_d, learns_left, learns_right = ctx.needs_input_grad[:4]
        grad = grad.to(left.dtype)
        made = None
        rows = grad.numel() // max(grad.shape[operator.dim], 1)
        if needs_x and weight is not None and _making_pays(weight, left.dtype, rows, len(weight)):
            made = _changed(weight, _joined(_scaled(left, d), left_terms), _joined(right, right_terms))
        p = None
        if (needs_x and made is None) or learns_d or learns_right:
            all_left = _joined(left, left_terms)
            p = operator.adjoint(grad, all_left, all_left)  # and decode with the left one alone
        grad_x = grad_d = grad_left = grad_right = None
        if made is not None:
            grad_x = operator.input_gradient(grad, ctx.shape, made)
        elif needs_x:
            back = None if weight is None else operator.input_gradient(grad, ctx.shape, weight.to(grad.dtype))
            grad_x = _pull_back(operator, p, ctx.shape, _joined(_scaled(right, d), right_terms), back)  # type: ignore[arg-type]
        if learns_d:
            t_directions, p_directions = (_channels(each, 0, directions, operator.dim) for each in (t, p))
            grad_d = kernels.channel_products(t_directions, p_directions, operator.dim).to(d.dtype)
        if learns_left:
            grad_left = kernels.weight_gradient(_channels(t, directions, None, operator.dim), grad, operator.dim)
        if learns_right:
            x = recompute(ctx.made, saved).to(grad.dtype)
            grad_right = operator.right_gradient(x, _channels(p, directions, None, operator.dim))
        return grad_x, grad_d, grad_left, grad_right, *[None] * 5


def _scaled(side: Tensor, d: Tensor) -> Tensor:
    """`side [n, K]` with its columns multiplied by `d`, rounded once."""
    return (side * d).to(side.dtype) if len(d) else side


def _joined(directions: Tensor, terms: Tensor) -> Tensor:
    """Both side by side, `[n, K + k]`."""
    if not terms.shape[1]:
        return directions
    return torch.cat([directions, terms], 1) if directions.shape[1] else terms


def _channels(t: Any, start: int, stop: int | None, dim: int) -> Any:
    return t[..., start:stop] if dim == -1 else t[:, start:stop]


def _making_pays(weight: Tensor, dtype: torch.dtype, rows: int, side: int) -> bool:
    """Whether the weight with its change is fewer products than the change's own way.

    Args:
        weight: the frozen one; one of another dtype is not made anew.
        dtype: in which the layer computes.
        rows: of the activation at that way's end.
        side: what making the weight has in their place: its columns for the output, its rows for the input.
    """
    return weight.dtype == dtype and rows > side


def _changed(weight: Tensor, left: Tensor, right: Tensor) -> Tensor:
    return torch.addmm(matrix(weight), left, right.T).reshape(weight.shape)


def _decode(operator: TermOperator, t: Tensor, left: Tensor, y: Tensor | None) -> Tensor:
    """`y`, which is overwritten, and the term's output."""
    if y is None or operator.dim != -1:
        term = operator.decode(t, left, left)
        return term if y is None else y.add_(term)
    y.view(-1, y.shape[-1]).addmm_(t.reshape(-1, t.shape[-1]), left.T)
    return y


def _pull_back(operator: TermOperator, p: Tensor, shape: torch.Size, right: Tensor, back: Tensor | None) -> Tensor:
    """`back`, which is overwritten, and what arrives at the input through the term."""
    if back is None or operator.dim != -1:
        term = operator.pull_back(p, shape, right, right)
        return term if back is None else back.add_(term)
    back.view(-1, back.shape[-1]).addmm_(p.reshape(-1, p.shape[-1]), right.T)
    return back
