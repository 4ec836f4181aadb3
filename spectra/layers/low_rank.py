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
from spectra.layers.change import Change
from spectra.layers.frozen_operators import ConvOperator, LinearOperator, Operator, by_products
from spectra.layers.saved_elsewhere import recompute, to_save
from spectra.spectrum.spectrum import matrix

TermOperator = LinearOperator | ConvOperator


class Terms(NamedTuple):
    """Outer terms as a layer computes with them.

    Attributes:
        left: `[rows, k]`.
        right: `[columns, k]`; `[c_in, k]` where there is a kernel.
        kernel: `[k, taps]` of separable terms on a convolution: a product over the channels, then a convolution of each
            of `k` channels by itself.
    """

    left: Tensor
    right: Tensor
    kernel: Tensor | None

    @property
    def columns(self) -> Tensor:
        """The right side over all columns of the weight, `[columns, k]`."""
        if self.kernel is None:
            return self.right
        return (self.right[:, None, :] * self.kernel.T).flatten(0, 1)


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


def low_rank_layer(layer: FrozenLayer, x: Tensor, d: Tensor, change: Change) -> Tensor:
    """The layer's output for `x`, the change of its weight included; differentiable in all but the frozen.

    Args:
        x: the layer's input, in the dtype in which it computes.
        d: `[K]`, change of each singular value; float32 or wider.
        change: its outer terms are read, its delta is not.
    """
    operator, dtype = layer.operator, layer.left.dtype
    if change.a is None or change.b is None:
        terms = Terms(layer.left[:, :0], layer.right[:, :0], None)
    elif change.kernel is None or not isinstance(operator, ConvOperator) or operator.pointwise:
        terms = Terms(change.a.to(dtype).T, change.right.to(dtype).T, None)
    else:
        terms = Terms(change.a.to(dtype).T, change.b.to(dtype).T, change.kernel.to(dtype))
    if not isinstance(operator, TermOperator):
        return _plain(layer, x, d, terms)
    out: Tensor = _LowRank.apply(x, d, *terms, *layer)  # type: ignore[no-untyped-call]
    return out


def _plain(layer: FrozenLayer, x: Tensor, d: Tensor, terms: Terms) -> Tensor:
    """The same by PyTorch's own derivatives, for the operators that are rare."""
    operator, dtype = layer.operator, layer.left.dtype
    left, right = torch.cat([layer.left, terms.left], 1), torch.cat([layer.right, terms.right], 1)
    scaled_left = torch.cat([(layer.left * d).to(dtype), terms.left], 1)
    scaled_right = torch.cat([(layer.right * d).to(dtype), terms.right], 1)
    term = operator.decode(operator.encode(x, left, right), scaled_left, scaled_right)
    return term if layer.weight is None else operator.apply(x, layer.weight, layer.bias) + term


class _LowRank(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, x: Tensor, d: Tensor, left_terms: Tensor, right_terms: Tensor, kernel: Tensor | None, *frozen: Any
    ) -> Tensor:
        operator: TermOperator
        operator, weight, bias, left, right = FrozenLayer(*frozen)  # type: ignore[assignment]
        ctx.operator, ctx.shape, ctx.directions = operator, x.shape, len(d)
        learns_d, learns_left, learns_right, learns_kernel = ctx.needs_input_grad[1:5]
        terms = Terms(left_terms, right_terms, kernel)
        scaled_left = _joined(_scaled(left, d), left_terms)
        made = None
        if weight is not None and _making_pays(weight, left.dtype, operator.bottleneck_rows(x), weight[0].numel()):
            made = _changed(weight, scaled_left, _joined(right, terms.columns))
        t = alone = None
        if made is None or learns_d or learns_left or learns_kernel:
            t, alone = _encode(operator, x, right, terms)
        saved = None
        ctx.made = None
        if learns_right:
            saved, ctx.made = to_save(x)
        keeps = t if learns_d or learns_left else None
        keeps_alone = alone if learns_kernel else None
        ctx.save_for_backward(keeps, keeps_alone, saved, d, *terms, weight, left, right)
        if made is not None:
            return operator.apply(x, made, bias)
        y = None if weight is None else operator.apply(x, weight, bias)
        return _decode(operator, t, scaled_left, y)  # type: ignore[arg-type]

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        t, alone, saved, d, left_terms, right_terms, kernel, weight, left, right = ctx.saved_tensors
        (grad,), operator, directions = grads, ctx.operator, ctx.directions
        needs_x, learns_d, learns_left, learns_right, learns_kernel = ctx.needs_input_grad[:5]
        grad, terms = grad.to(left.dtype), Terms(left_terms, right_terms, kernel)
        made = None
        rows = grad.numel() // max(grad.shape[operator.dim], 1)
        if needs_x and weight is not None and _making_pays(weight, left.dtype, rows, len(weight)):
            made = _changed(weight, _joined(_scaled(left, d), left_terms), _joined(right, terms.columns))
        p = p_alone = None
        if (needs_x and made is None) or learns_d or learns_right or learns_kernel:
            all_left = _joined(left, left_terms)
            p = operator.adjoint(grad, all_left, all_left)  # these operators decode with the left side alone
        if kernel is not None and p is not None:
            of_terms = _channels(p, directions, None, operator.dim).contiguous()
            shape = torch.Size((ctx.shape[0], len(kernel), *ctx.shape[2:]))
            p_alone = operator.input_gradient(of_terms, shape, operator.kernels_of(kernel), len(kernel))
        grad_x = grad_d = grad_left = grad_right = grad_kernel = None
        if made is not None:
            grad_x = operator.input_gradient(grad, ctx.shape, made)
        elif needs_x:
            grad_x = None if weight is None else operator.input_gradient(grad, ctx.shape, weight.to(grad.dtype))
            grad_x = _pull_back(operator, p, p_alone, ctx.shape, _scaled(right, d), terms, grad_x)  # type: ignore[arg-type]
        if learns_d:
            t_directions, p_directions = (_channels(each, 0, directions, operator.dim) for each in (t, p))
            grad_d = kernels.channel_products(t_directions, p_directions, operator.dim).to(d.dtype)
        if learns_left:
            grad_left = kernels.weight_gradient(_channels(t, directions, None, operator.dim), grad, operator.dim)
        if learns_right:
            x = recompute(ctx.made, saved).to(grad.dtype)
            if p_alone is not None:
                grad_right = kernels.weight_gradient(p_alone, x, operator.dim)
            else:
                grad_right = operator.right_gradient(x, _channels(p, directions, None, operator.dim))
        if learns_kernel:
            grad_kernel = operator.kernel_gradient(alone, of_terms)
        return grad_x, grad_d, grad_left, grad_right, grad_kernel, *[None] * 5


def _encode(operator: TermOperator, x: Tensor, right: Tensor, terms: Terms) -> tuple[Tensor, Tensor | None]:
    """The bottleneck of directions and terms, and what separable terms make of the input's channels alone."""
    if terms.kernel is None or not isinstance(operator, ConvOperator):
        joined = _joined(right, terms.right)
        return operator.encode(x, joined, joined), None  # these operators encode with the right side alone
    alone = operator.map_channels(x, terms.right.T)
    t = operator.convolve(alone, operator.kernels_of(terms.kernel), None, len(terms.kernel))
    return (torch.cat([operator.encode(x, right, right), t], 1) if right.shape[1] else t), alone


def _scaled(side: Tensor, d: Tensor) -> Tensor:
    """`side [n, K]` with its columns multiplied by `d`, rounded once."""
    return (side * d).to(side.dtype) if len(d) else side


def _joined(directions: Tensor, terms: Tensor) -> Tensor:
    """Both side by side, `[n, K + k]`; memory of each column lies together, as it does in both."""
    if not terms.shape[1]:
        return directions
    return torch.cat([directions.T, terms.T]).T if directions.shape[1] else terms


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
    return operator.decode(t, left, left) if y is None else _add_mapped(operator, y, t, left)


def _pull_back(
    operator: TermOperator,
    p: Tensor,
    p_alone: Tensor | None,
    shape: torch.Size,
    right: Tensor,
    terms: Terms,
    back: Tensor | None,
) -> Tensor:
    """`back`, which is overwritten, and what arrives at the input through the change.

    Args:
        right: of the directions, scaled.
        p_alone: what arrives behind the kernels of separable terms.
    """
    if p_alone is None:
        joined = _joined(right, terms.right)
        if back is not None and operator.pointwise:
            return _add_mapped(operator, back, p, joined)
        term = operator.pull_back(p, shape, joined, joined)
        return term if back is None else back.add_(term)
    if right.shape[1]:
        term = operator.pull_back(_channels(p, 0, right.shape[1], operator.dim), shape, right, right)
        back = term if back is None else back.add_(term)
    return (
        operator.map_channels(p_alone, terms.right)
        if back is None
        else _add_mapped(operator, back, p_alone, terms.right)
    )


def _add_mapped(operator: TermOperator, y: Tensor, t: Tensor, mapping: Tensor) -> Tensor:
    """`y`, which is overwritten, and `t` with its `k` channels mapped by `mapping [channels, k]`."""
    if operator.dim == -1:
        y.view(-1, y.shape[-1]).addmm_(t.reshape(-1, t.shape[-1]), mapping.T)
        return y
    if by_products(y):
        y.flatten(2).baddbmm_(mapping.expand(len(y), -1, -1), t.flatten(2))
        return y
    return y.add_(operator.map_channels(t, mapping))
