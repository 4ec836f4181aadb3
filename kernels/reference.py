"""The formulas of a shift in plain PyTorch: what every other backend is checked against.

Shapes: `r` directions on the basis side, `h <= r` of them one-sided, `N` rows of an activation.
An activation is `[..., r]`, or `[batch, r, ...]` with `dim=1` for the channels of a convolution.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from spectra.kernels import devices

_BLOCK, _BLOCKS = 128, 16
"""The Gram matrix is summed over at most so many blocks of at least so many rows."""

_FEW = 16
"""Up to so many channels on one side of a product, blocks of rows cost more than the product itself."""


def map_channels(x: Tensor, mapping: Tensor, dim: int) -> Tensor:
    """`x` with its dimension `dim` (-1 or 1) of size `p` multiplied by `mapping [p, q]`."""
    if dim == -1:
        return x @ mapping
    return (mapping.T @ x.flatten(2)).unflatten(2, x.shape[2:]) if x.ndim > 2 else x @ mapping


def rows(x: Tensor, dim: int) -> Tensor:
    """`x` as a matrix `[N, channels]`."""
    return (x if dim == -1 else x.movedim(1, -1)).reshape(-1, x.shape[dim])


def channel_sum(product: Tensor, dim: int, per_sample: bool = False) -> Tensor:
    """Sum over all dimensions but `dim`, `[channels]`, in float32 at least; `[batch, channels]` with `per_sample`."""
    dtype = torch.promote_types(product.dtype, torch.float32)
    stays = {dim % product.ndim, *([0] if per_sample else [])}
    summed = [i for i in range(product.ndim) if i not in stays]
    return product.sum(summed, dtype=dtype) if summed else product.to(dtype)  # an empty list would mean all of them


def channel_products(a: Tensor, b: Tensor, dim: int, per_sample: bool = False) -> Tensor:
    """`colsum(a * b)`, `[channels]`, in float32 at least; `[batch, channels]` with `per_sample`."""
    return channel_sum(a.to(torch.promote_types(a.dtype, torch.float32)) * b, dim, per_sample)


def scale_channels(t: Tensor, values: Tensor, dim: int) -> Tensor:
    """`t` with its channels multiplied by `values [c]` or `[batch, c]`, rounded once, in the dtype of `t`.

    In one pass, without a wide product in memory; so autograd does not see through it.
    """
    return torch.mul(t, broadcast_channels(values, t.ndim, dim), out=torch.empty_like(t))


def uses_gram(device: torch.device, dtype: torch.dtype) -> bool:
    """Whether `shift_gradient` on a device takes the Gram matrix where `prefers_gram` says that it is fewer flops.

    On a GPU only in float32, where it is a product of the vendor's library, and only where float64, in which the small
    product is made, is as fast as float32: on data-centre GPUs, for which a "cuda" without a GPU stands too. In half
    precision two projections on tensor cores are faster than a Gram matrix in float32.
    """
    if device.type != "cuda":
        return True
    return dtype == torch.float32 and (not torch.cuda.is_available() or devices.fast_float64(device))


def prefers_gram(n: int, r: int, h: int) -> bool:
    """Whether the Gram matrix, `2 n r^2 + 2 r^2 h` flops, is cheaper than two projections of `n` rows, `4 n r h`."""
    return n * r + r * h < 2 * n * h


def product_dtype(device: torch.device, dtype: torch.dtype) -> torch.dtype:
    """The dtype in which a weight of `dtype` is made anew: its own in half precision on a GPU, else float32 at least.

    Tensor cores add in float32. `W_delta` then errs by .43 to .75 of the paper's formula in the same dtype, and float32
    operands would take it to .43 to .62 at a twelfth of the speed (random weights of condition 10 to 1e5, bfloat16 and
    float16, changes of .01 to .5 of rms(sigma), against float64).
    """
    half = device.type == "cuda" and dtype.itemsize < 4
    return dtype if half else torch.promote_types(dtype, torch.float32)


def rebuild(weight: Tensor, basis: Tensor, e: Tensor, *, left: bool) -> Tensor:
    """`W + Q diag(e) Q^T W` (left) or `W + W Q diag(e) Q^T` (right), in the dtype of `weight [rows, columns]`.

    Args:
        basis: `[r, h]`, orthonormal columns.
        e: `[h]`, relative change of each singular value; folded into the basis once.
    """
    projector = (basis * e).to(basis.dtype) @ basis.T
    return torch.addmm(weight, *((projector, weight) if left else (weight, projector)))


def apply(
    x: Tensor,
    y: Tensor | None,
    right: Tensor,
    left: Tensor,
    values: Tensor,
    index: Tensor | None,
    offset: Tensor | None,
    dim: int,
) -> Tensor:
    """`y + ((x R - offset) * v) L^T` in the dtype of `x`; differentiable in `x`, `y` and `values`.

    Args:
        x: `[..., C]`, or `[batch, C, ...]` with `dim=1`.
        y: `[..., D]` or `[batch, D, ...]`; None stands for `x`, if C = D.
        right: `[C, h]`.
        left: `[D, h]`.
        values: `[h]`, or `[adapters, h]` with `index [batch]`: sample `n` takes `values[index[n]]`.
        offset: `[h]` or None.
    """
    other = None if left is right else left  # torch.compile lets no tensor come twice
    out: Tensor = _Apply.apply(x, y, right, other, values, index, offset, dim)  # type: ignore[no-untyped-call]
    return out


class _Apply(torch.autograd.Function):
    """Keeps the bottleneck and the values for backward, and nothing as wide as `x` besides."""

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
        t = _encode(x, right, offset, dim)
        ctx.dim, ctx.add_input = dim, y is None
        ctx.save_for_backward(t if ctx.needs_input_grad[4] else None, right, left, values, index)
        own = values if index is None else values[index]
        term = map_channels(scale_channels(t, own, dim), (right if left is None else left).T, dim)
        return (x if y is None else y) + term

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        t, right, left, values, index = ctx.saved_tensors
        (grad,), (need_x, need_y, *_), dim = grads, ctx.needs_input_grad, ctx.dim
        grad_x, grad_values = None, None
        if need_x or t is not None:
            p = map_channels(grad, right if left is None else left, dim)
        if need_x:
            grad_x = map_channels(scale_channels(p, values if index is None else values[index], dim), right.T, dim)
            grad_x = grad + grad_x if ctx.add_input else grad_x
        if t is not None:
            sums = channel_products(p, t, dim, per_sample=index is not None)
            grad_values = (sums if index is None else sums_of_adapters(sums, index, len(values))).to(values.dtype)
        return grad_x, grad if need_y else None, None, None, grad_values, None, None, None


def sums_of_adapters(sums: Tensor, index: Tensor | None, adapters: int) -> Tensor:
    """`sums [S, h]` added up for each adapter over its own samples, `[adapters, h]`; over all without an index.

    In a fixed order, where `index_add_` on a GPU has none.
    """
    if index is None:
        return sums.sum(0, keepdim=True)
    mine = index == torch.arange(adapters, device=index.device)[:, None]
    return torch.where(mine[:, :, None], sums, 0).sum(1)


def shift_gradient(
    a: Tensor,
    b: Tensor,
    basis: Tensor,
    s: Tensor,
    dim: int = -1,
    *,
    offset: Tensor | None = None,
    gram: bool = False,
) -> Tensor:
    """`colsum((a Q - offset) * (b Q)) / s`, `[h]`, accumulated in float32 at least; 0 where `s [h]` is not positive.

    With `gram` the Gram matrix `b^T a` is taken where it is cheaper than two projections: in float32 at least, since
    rounded to half precision before its cancellation it would be noise.
    """
    wide = torch.promote_types(a.dtype, torch.float32)
    if gram and prefers_gram(a.numel() // max(a.shape[dim], 1), *basis.shape):
        total = _quadratic(_gram(b, a, dim), basis).to(wide)
        total = total if offset is None else total - offset * (channel_sum(b, dim) @ basis.to(wide))
    else:
        total = channel_products(_encode(a, basis, offset, dim), map_channels(b, basis, dim), dim)
    return torch.where(s > 0, total / s.clamp_min(torch.finfo(s.dtype).tiny), 0)


def weight_gradient(x: Tensor, grad: Tensor, dim: int) -> Tensor:
    """`G = grad^T x`, `[rows, columns]`: a weight's gradient where its rows and columns both meet channels.

    In float32 at least; but a GPU's fast half-precision product returns half precision. A few channels on one side, as
    an outer term has, are one product: the gradient of a term is not projected again, so nothing cancels in it.
    """
    if x.numel() == 0 or (x.is_cuda and x.dtype.itemsize < 4):
        return rows(grad, dim).T @ rows(x, dim)
    if x.dtype.itemsize >= 4 and min(x.shape[dim], grad.shape[dim]) <= _FEW:
        return _summed_product(grad, x, dim)
    return _gram(grad, x, dim)


def singular_gradient(
    gradient: Tensor, weight: Tensor, basis: Tensor, sigma: Tensor, left: Tensor, right: Tensor
) -> Tensor:
    """`u_i^T G v_i` of every direction, `[h + k]`, in float32 at least, from a weight's gradient.

    Args:
        gradient: `G [rows, columns]`.
        weight: the frozen one, `[rows, columns]`.
        basis: `U [rows, h]` of the directions whose other side comes of the weight: `V = W^T U / sigma`.
        sigma: `[h]`, positive.
        left, right: `U [rows, k]` and `V [columns, k]` of the others.
    """
    two_sided = channel_products(left, gradient @ right.to(gradient.dtype), -1)
    if basis.shape[1] == 0:
        return two_sided
    one_sided = _quadratic(gradient @ weight.T.to(gradient.dtype), basis).to(sigma.dtype) / sigma
    return torch.cat([one_sided, two_sided.to(one_sided.dtype)])


def _encode(x: Tensor, basis: Tensor, offset: Tensor | None, dim: int) -> Tensor:
    """`x Q - offset` in the dtype of `x`."""
    t = map_channels(x, basis, dim)
    return t if offset is None else t - broadcast_channels(offset.to(t.dtype), t.ndim, dim)


def _quadratic(product: Tensor, basis: Tensor) -> Tensor:
    """`q_i^T M q_i` of every column of a basis.

    In float64 (Apple's GPU has none): its sums cancel, and the error could pass twice that of the paper's formula.
    """
    exact = product.dtype if product.device.type == "mps" else torch.float64
    m, q = product.to(exact), basis.to(exact)
    return (q * (m @ q)).sum(0)


def _summed_product(b: Tensor, a: Tensor, dim: int) -> Tensor:
    """`b^T a` over all rows; for channels in dimension 1 a product a sample, which copies no activation."""
    if dim == 1 and a.ndim > 2:
        return (b.flatten(2) @ a.flatten(2).mT).sum(0)
    return rows(b, dim).T @ rows(a, dim)


def _gram(b: Tensor, a: Tensor, dim: int) -> Tensor:
    """`b^T a` in float32 at least, over all rows, in blocks of them: short sums round less than one long sum."""
    wide = torch.promote_types(a.dtype, torch.float32)
    size = max(_BLOCK, -(-(a.numel() // a.shape[dim]) // _BLOCKS))
    if dim == 1 and a.ndim > 2:
        pairs = [
            (bs, as_.T)
            for bn, an in zip(b.flatten(2), a.flatten(2), strict=True)
            for bs, as_ in zip(bn.split(size, 1), an.split(size, 1), strict=True)
        ]
    else:
        pairs = [(bs.T, as_) for bs, as_ in zip(rows(b, dim).split(size), rows(a, dim).split(size), strict=True)]
    gram: Tensor = pairs[0][0].to(wide) @ pairs[0][1].to(wide)
    for left, right in pairs[1:]:
        # Not in place, which PyTorch's counter of flops does not see.
        gram = torch.addmm(gram, left.to(wide), right.to(wide))
    return gram


def broadcast_channels(values: Tensor, ndim: int, dim: int) -> Tensor:
    """`values [c]` or `[batch, c]`, shaped to be broadcast over `ndim` dimensions with the channels at `dim`."""
    rest = [1] * (ndim - 2)
    if dim == -1:
        return values if values.ndim == 1 else values.view(len(values), *rest, -1)
    return values.view(*values.shape, *rest)
