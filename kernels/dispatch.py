"""The one place that decides which backend computes, and where formulas meet autograd.

Triton computes on CUDA and ROCm devices, in float32, float16 and bfloat16, where it is installed; with
TRITON_INTERPRET=1 its interpreter takes the CPU's tensors too, which is how the kernels are tested. Everything else is
plain PyTorch. `torch.compile` sees an operator of `operators.py` in the first case and plain PyTorch in the second.
"""

from __future__ import annotations

import importlib.util
from typing import Any

import torch
from torch import Tensor

from spectra.kernels import layouts, operators, reference
from spectra.kernels.interpreter import interpreted

_DTYPES = (torch.float32, torch.float16, torch.bfloat16)
_INSTALLED = importlib.util.find_spec("triton") is not None
_INTERPRETED = interpreted()  # when the process started: Triton itself reads it when a kernel is defined


def uses_triton(*tensors: Tensor) -> bool:
    """Whether Triton computes with these tensors: matrices or activations, all of one dtype and device."""
    first = tensors[0]
    device = first.device.type
    return (
        (device == "cuda" or (device == "cpu" and _INTERPRETED))
        and first.dtype in _DTYPES
        and all(x.dtype == first.dtype and x.device == first.device and x.numel() > 0 for x in tensors)
        and _INSTALLED
    )


def uses_gram(device: torch.device, dtype: torch.dtype) -> bool:
    """Whether `shift_gradient` on a device takes the Gram matrix where `prefers_gram` says that it is fewer flops.

    On a GPU only in float32, where it is a product of the vendor's library, and only where float64, in which the small
    product is made, is as fast as float32: on data-centre GPUs, for which a "cuda" without a GPU stands too. In half
    precision two projections on tensor cores are faster than a Gram matrix in float32.
    """
    if device.type != "cuda":
        return True
    return dtype == torch.float32 and (not torch.cuda.is_available() or _fast_float64(device))


def _fast_float64(device: torch.device) -> bool:
    """Whether a GPU multiplies in float64 as fast as in float32: by its CUDA capability, or gfx9 (CDNA) on ROCm."""
    major, minor = torch.cuda.get_device_capability(device)
    return major == 9 or (minor == 0 and 6 <= major <= 10)


def rebuild(weight: Tensor, basis: Tensor, e: Tensor, *, left: bool) -> Tensor:
    """The shifted weight without its tail; see `reference.rebuild`. Not differentiable: the plans do that."""
    if uses_triton(weight, basis):
        out: Tensor = operators.rebuild(weight, basis, e.float(), None, 1.0, left)
        return out
    return reference.rebuild(weight, basis, e, left=left)


def rebuild_from_delta(
    weight: Tensor, basis: Tensor, sigma: Tensor, delta: Tensor, *, left: bool, scale: float = 1.0
) -> Tensor:
    """`rebuild` with `e = (ReLU(sigma + scale * delta) - sigma) / sigma`, made inside the product on a GPU.

    Args:
        weight: `[rows, columns]`.
        basis: `[r, h]`, the head's, in the dtype of `weight`.
        sigma: `[h]`, positive, float32 or wider.
        delta: `[h]`, float32 or wider.
        left: whether the basis is of the rows' side.
        scale: of the shift.
    """
    if uses_triton(weight, basis):
        out: Tensor = operators.rebuild(weight, basis, delta.float(), sigma.float(), scale, left)
        return out
    return reference.rebuild(weight, basis, reference.relative_change(sigma, delta, scale), left=left)


def factored_apply(a: Tensor, basis: Tensor, e: Tensor, offset: Tensor | None = None, dim: int = -1) -> Tensor:
    """`a + ((a Q - offset) * e) Q^T`, differentiable in `a` and `e`.

    Args:
        a: `[..., r]`, or `[batch, r, ...]` with `dim=1`.
        basis: `[r, h]`, in the dtype of `a`. A GPU reads it fastest with contiguous columns.
        e: `[h]`, float32 or wider; its gradient is accumulated in float32 at least.
        offset: `[h]` or None; see `reference.factored_forward`.
        dim: -1 or 1.
    """
    if uses_triton(a, basis):
        return _apply(a, basis, basis, e[None], None, None, offset, dim, residual=True)
    out: Tensor = _Factored.apply(a, basis, e, offset, dim, None)  # type: ignore[no-untyped-call]
    return out


def batched_apply(
    a: Tensor, basis: Tensor, e: Tensor, index: Tensor, offset: Tensor | None = None, dim: int = -1
) -> Tensor:
    """`factored_apply` with a row of `e` per sample: sample `n` takes `e[index[n]]`.

    Args:
        a: `[batch, ..., r]`, or `[batch, r, ...]` with `dim=1`.
        basis: `[r, h]`, in the dtype of `a`.
        e: `[adapters, h]`, float32 or wider. A row's gradient sums over its samples in a fixed order.
        index: `[batch]`, int64, each from 0 to adapters - 1.
        offset: `[h]` or None.
        dim: -1 or 1.

    Raises:
        ValueError: `index` is not int64 or not one entry per sample, or `e` is not two-dimensional.
    """
    if index.dtype != torch.int64 or index.shape != a.shape[:1] or e.ndim != 2:
        raise ValueError(
            f"batched_apply: expected e [adapters, h] and an int64 index [{a.shape[0]}], one entry per sample; "
            f"got e {tuple(e.shape)} and index {tuple(index.shape)} of {index.dtype}"
        )
    if uses_triton(a, basis):
        return _apply(a, basis, basis, e, None, index, offset, dim, residual=True)
    out: Tensor = _Factored.apply(a, basis, e, offset, dim, index)  # type: ignore[no-untyped-call]
    return out


def two_sided_apply(x: Tensor, left: Tensor, right: Tensor, sigma: Tensor, delta: Tensor, dim: int = -1) -> Tensor:
    """The paper's product without its weight: `((x V) * ReLU(sigma + delta)) U^T`, differentiable in x and delta.

    Args:
        x: `[..., columns]`, or `[batch, columns, ...]` with `dim=1`.
        left: `U [rows, h]`, in the dtype of `x`.
        right: `V [columns, h]`, likewise.
        sigma: `[h]`, float32 or wider.
        delta: `[h]`, float32 or wider; no gradient where ReLU clips.
        dim: -1 or 1.
    """
    if uses_triton(x, left, right):
        return _apply(x, right, left, delta[None], sigma, None, None, dim, residual=False)
    return reference.two_sided_apply(x, left, right, torch.relu(sigma + delta), dim)


def shift_gradient(
    a: Tensor,
    b: Tensor,
    basis: Tensor,
    dim: int = -1,
    *,
    offset: Tensor | None = None,
    over: Tensor | None = None,
    gram: bool = False,
) -> Tensor:
    """`colsum((a Q - offset) * (b Q))`, divided by `over` where that is positive; see `reference.shift_gradient`."""
    if uses_triton(a, b, basis) and not (gram and reference.prefers_gram(layouts.count(a, dim), *basis.shape)):
        rows = (layouts.samples(x, dim, apart=False) for x in (a, b))
        out: Tensor = operators.shift_gradient(*rows, basis, _float(offset), _float(over))
        return out
    return reference.shift_gradient(a, b, basis, dim, offset, over, gram)


def _apply(
    a: Tensor,
    right: Tensor,
    left: Tensor,
    values: Tensor,
    sigma: Tensor | None,
    index: Tensor | None,
    offset: Tensor | None,
    dim: int,
    residual: bool,
) -> Tensor:
    keep = torch.is_grad_enabled() and values.requires_grad
    x = layouts.samples(a, dim, apart=index is not None)
    y, _ = operators.apply(x, right, left, values.float(), _float(sigma), index, _float(offset), residual, keep)
    return layouts.restored(y, a, dim)


def _float(vector: Tensor | None) -> Tensor | None:
    return None if vector is None else vector.float()


class _Factored(torch.autograd.Function):
    """Keeps `t` and `e` for backward, and nothing as wide as `a` besides."""

    @staticmethod
    def forward(
        ctx: Any, a: Tensor, basis: Tensor, e: Tensor, offset: Tensor | None, dim: int, index: Tensor | None
    ) -> Tensor:
        y, t = reference.factored_forward(a, basis, e, offset, dim, index)
        ctx.dim = dim
        ctx.save_for_backward(t, basis, e, index)
        return y

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        t, basis, e, index = ctx.saved_tensors
        need_input, _, need_e, *_ = ctx.needs_input_grad
        grad_input, grad_e = reference.factored_backward(grads[0], t, basis, e, ctx.dim, need_input, need_e, index)
        if grad_e is not None:
            grad_e = grad_e.to(e.dtype)
        return grad_input, None, grad_e, None, None, None
