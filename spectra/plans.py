"""How one layer computes with its shift: two plans, one cost model, one gradient formula.

The shifted layer is `W_delta = W + (head) + (tail)`. The tail, a few directions with both sides known, is always the
narrow term `decode(encode(x) * d)`. The head is computed in one of two ways, beyond the frozen layer itself:

    factored   y = y0 + ((y0 Q) * e) Q^T      8 N r^2 flops, forward and backward, delta's gradient included
    rebuilt    W + Q diag(e) Q^T W, once for all forwards between two changes of delta, then the ordinary layer

Neither forms dL/dW. Rebuilt takes delta's gradient from the activation that the basis meets: with `y` the layer's
output and `g` its gradient, `u_i^T (dL/dW) v_i = sum_n (g Q)_ni (y Q)_ni / s_i`. Where the basis meets the input the
pair is the input and the gradient that arrives at it. Derivation: docs/algebra.md.
"""

from __future__ import annotations

from typing import Any, Literal

import torch
from torch import Tensor

from spectra import kernels

Plan = Literal["factored", "rebuilt"]


def factored_cost(n: int, r: int) -> int:
    """Flops of the factored plan beyond the frozen layer, forward and backward, for `n` rows."""
    return 8 * n * r * r


def rebuilt_cost(n: int, r: int, m: int) -> int:
    """Flops of the rebuilt plan beyond the frozen layer, forward and backward, the rebuilding included."""
    gradient = 2 * n * r * r + 2 * r**3 if n > kernels.GRAM_ROWS * r else 4 * n * r * r
    return 2 * r * r * (m + r) + gradient


def whole_cost(n: int, r: int, m: int) -> int:
    """Flops beyond the frozen layer of a rebuilt weight through which delta's gradient goes."""
    return 2 * n * m * r + 4 * r * r * m


def choose(n: int, r: int, m: int) -> Plan:
    """The cheaper plan for `n` rows of activations and a weight of `min = r`, `max = m`."""
    return "factored" if factored_cost(n, r) <= rebuilt_cost(n, r, m) else "rebuilt"


def attach_output_gradient(y: Tensor, d: Tensor, s: Tensor, basis: Tensor, bias: Tensor | None, dim: int) -> Tensor:
    """`y` itself, through which delta receives its gradient on the way back.

    Args:
        y: output of the layer with its rebuilt weight, bias included.
        d: `[h]`, change of each singular value; receives the gradient.
        s: `[h]`, the singular values in force; entries of 0 receive none.
        basis: `[rows, h]`.
        bias: `[rows]` or None.
        dim: where `y` has its channels.
    """
    out: Tensor = _OutputGradient.apply(y, d, s, basis, bias, dim)  # type: ignore[no-untyped-call]
    return out


def attach_input_gradient(x: Tensor, d: Tensor, s: Tensor, basis: Tensor, dim: int) -> Tensor:
    """`x` itself; the gradient that arrives at it tells delta's. Its result must feed this layer alone."""
    out: Tensor = _InputGradient.apply(x, d, s, basis, dim)  # type: ignore[no-untyped-call]
    return out


class _OutputGradient(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, y: Tensor, d: Tensor, s: Tensor, basis: Tensor, bias: Tensor | None, dim: int) -> Tensor:
        ctx.dim = dim
        ctx.save_for_backward(y, s, basis, bias)
        return y.view_as(y)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        y, s, basis, bias = ctx.saved_tensors
        (grad,) = grads
        if bias is not None:
            y = y - (bias if ctx.dim == -1 else bias.view(-1, *[1] * (y.ndim - 2)))
        return grad, kernels.shift_gradient(y, grad.to(y.dtype), basis, ctx.dim, over=s), None, None, None, None


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
