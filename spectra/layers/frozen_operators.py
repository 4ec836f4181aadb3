"""The frozen operators a shift can act on, as pure functions of (input, weight).

A weight's matrix `[rows, columns]` (`spectrum.matrix`) meets the activations on two sides. Where one of them is a
plain map over channels, a change of `W` on that side is a small matrix product on the activations:

    operator        rows meet          columns meet
    Linear          output, dim -1     input, dim -1
    Conv            output, dim 1      input, dim 1, if the kernel is 1 x 1 (else patches: no plain map)
    ConvTranspose   input, dim 1       (patches of the output: no plain map)
    Embedding       (indices)          output, dim -1

Every operator also splits at a bottleneck: `W = U diag(d) V^T` is `decode(encode(x, ...) * d, ...)`. That form needs
both sides' vectors and serves the two-sided directions of a spectrum, which may be all.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.grad import conv1d_input, conv1d_weight, conv2d_input, conv2d_weight, conv3d_input, conv3d_weight

from spectra import kernels
from spectra.layers.quantised_weights import is_quantised

Place = Literal["input", "output"]


class Operator(ABC):
    """One kind of frozen layer; linear in its input and in its weight.

    Attributes:
        dim: where an activation has its channels, -1 or 1.
    """

    dim = 1

    @property
    def pointwise(self) -> bool:
        """Whether rows and columns both meet channels, row by row of one matrix."""
        return False

    @abstractmethod
    def basis_at(self, side: str) -> Place | None:
        """The activation that meets the `side` ("left": rows, "right": columns) of W over channels, if one does."""

    @abstractmethod
    def apply(self, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        """The layer itself."""

    def encode(self, x: Tensor, left: Tensor, right: Tensor) -> Tensor:
        """The bottleneck of `W = left diag right^T`; `left [rows, k]`, `right [columns, k]`, `k` channels out."""
        return self.map_channels(x, right.T)

    def decode(self, t: Tensor, left: Tensor, right: Tensor) -> Tensor:
        """From the bottleneck to the layer's output, without bias."""
        return self.map_channels(t, left)

    def adjoint(self, grad: Tensor, left: Tensor, right: Tensor) -> Tensor:
        """The way back through `decode`: from the output's gradient to that of the bottleneck."""
        return self.map_channels(grad, left.T)

    def pull_back(self, grad: Tensor, shape: torch.Size, left: Tensor, right: Tensor) -> Tensor:
        """The way back through `encode`: from the bottleneck's gradient to that of an input of `shape`."""
        return self.map_channels(grad, right)

    def map_channels(self, x: Tensor, mapping: Tensor) -> Tensor:
        """`x` with its `p` channels mapped to `q` by `mapping [q, p]`."""
        if self.dim == -1:
            return x @ mapping.T
        if by_products(x):
            return kernels.map_channels(x, mapping.T, self.dim)
        ones = (1,) * (x.ndim - 2)
        pointwise = ConvOperator(ones, ones, (0,) * len(ones), ones)
        return pointwise.apply(x, mapping.reshape(*mapping.shape, *ones), None)

    def bottleneck_rows(self, x: Tensor) -> int:
        """Rows of the bottleneck, for an input `x`."""
        return x.numel() // max(x.shape[self.dim], 1)

    def channels(self, rows: int, columns: int) -> tuple[int, int]:
        """Channels that a row of the bottleneck is made of, 0 if it is gathered, and that are made of it."""
        return columns, rows


@dataclass(frozen=True)
class LinearOperator(Operator):
    """`y = x W^T + b`."""

    dim = -1
    pointwise = True

    def basis_at(self, side: str) -> Place | None:
        return "output" if side == "left" else "input"

    def apply(self, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        return F.linear(x, weight, bias)

    def input_gradient(self, grad: Tensor, shape: torch.Size, weight: Tensor) -> Tensor:
        """The gradient of an input of `shape`, from the output's."""
        return grad @ weight

    def right_gradient(self, x: Tensor, p: Tensor) -> Tensor:
        """The gradient of `right [columns, k]` in `encode(x)`, from that of the bottleneck."""
        return kernels.weight_gradient(p, x, self.dim)


@dataclass(frozen=True)
class EmbeddingOperator(Operator):
    """`y = W[indices]`: only the gathered rows are ever touched."""

    padding_idx: int | None = None
    dim = -1

    def basis_at(self, side: str) -> Place | None:
        return None if side == "left" else "output"

    def apply(self, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        return F.embedding(x, weight, self.padding_idx)

    def encode(self, x: Tensor, left: Tensor, right: Tensor) -> Tensor:
        return F.embedding(x, left)

    def decode(self, t: Tensor, left: Tensor, right: Tensor) -> Tensor:
        return t @ right.T

    def adjoint(self, grad: Tensor, left: Tensor, right: Tensor) -> Tensor:
        return grad @ right

    def pull_back(self, grad: Tensor, shape: torch.Size, left: Tensor, right: Tensor) -> Tensor:
        raise TypeError("indices take no gradient")

    def bottleneck_rows(self, x: Tensor) -> int:
        return x.numel()

    def channels(self, rows: int, columns: int) -> tuple[int, int]:
        return 0, columns


@dataclass(frozen=True)
class ConvOperator(Operator):
    """Convolution in one, two or three dimensions, one group."""

    kernel: tuple[int, ...]
    stride: tuple[int, ...]
    padding: tuple[int, ...]
    dilation: tuple[int, ...]

    def basis_at(self, side: str) -> Place | None:
        if side == "left":
            return "output"
        return "input" if all(k == 1 for k in self.kernel) else None

    @property
    def pointwise(self) -> bool:
        return all(k == 1 for k in (*self.kernel, *self.stride)) and not any(self.padding)

    def apply(self, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        if not x.requires_grad or weight.requires_grad:
            return self.convolve(x, weight, bias)
        out: Tensor = _FrozenConv.apply(x, weight, bias, self)  # type: ignore[no-untyped-call]
        return out

    def convolve(self, x: Tensor, weight: Tensor, bias: Tensor | None, groups: int = 1) -> Tensor:
        conv = (F.conv1d, F.conv2d, F.conv3d)[len(self.kernel) - 1]
        out: Tensor = conv(x, weight, bias, self.stride, self.padding, self.dilation, groups)
        return out

    def filters(self, right: Tensor) -> Tensor:
        """The columns of `right [c_in * kernel, k]` as the `k` filters of a convolution."""
        return right.T.reshape(right.shape[1], -1, *self.kernel)

    def encode(self, x: Tensor, left: Tensor, right: Tensor) -> Tensor:
        return self.apply(x, self.filters(right), None)

    def pull_back(self, grad: Tensor, shape: torch.Size, left: Tensor, right: Tensor) -> Tensor:
        if self.pointwise:
            return self.map_channels(grad, right)
        return self.input_gradient(grad, shape, self.filters(right))

    def input_gradient(self, grad: Tensor, shape: torch.Size, weight: Tensor, groups: int = 1) -> Tensor:
        """The gradient of an input of `shape`, from the output's."""
        back = (conv1d_input, conv2d_input, conv3d_input)[len(self.kernel) - 1]
        x: Tensor = back(shape, weight, grad, self.stride, self.padding, self.dilation, groups)  # type: ignore[no-untyped-call]
        return x

    def kernels_of(self, values: Tensor) -> Tensor:
        """`values [k, taps]` as the weight of a convolution of each of `k` channels by itself."""
        return values.reshape(len(values), 1, *self.kernel)

    def kernel_gradient(self, x: Tensor, grad: Tensor) -> Tensor:
        """`[k, taps]`: the gradient of `kernels_of` such a convolution of `x [batch, k, ...]`, from its output's."""
        count = x.shape[1]
        return self._weight_gradient(x, (count, 1, *self.kernel), grad, count).flatten(1)

    def right_gradient(self, x: Tensor, p: Tensor) -> Tensor:
        """The gradient of `right [columns, k]` in `encode(x)`, from that of the bottleneck."""
        if self.pointwise:
            return kernels.weight_gradient(p, x, self.dim)
        return self._weight_gradient(x, (p.shape[1], x.shape[1], *self.kernel), p).reshape(p.shape[1], -1).T

    def _weight_gradient(self, x: Tensor, shape: tuple[int, ...], grad: Tensor, groups: int = 1) -> Tensor:
        of_weight = (conv1d_weight, conv2d_weight, conv3d_weight)[len(self.kernel) - 1]
        found: Tensor = of_weight(x, shape, grad, self.stride, self.padding, self.dilation, groups)  # type: ignore[no-untyped-call]
        return found

    def bottleneck_rows(self, x: Tensor) -> int:
        # A list: torch.compile follows no generator here.
        sizes = zip(x.shape[2:], self.kernel, self.stride, self.padding, self.dilation, strict=True)
        return x.shape[0] * math.prod([(n + 2 * p - d * (k - 1) - 1) // s + 1 for n, k, s, p, d in sizes])


class _FrozenConv(torch.autograd.Function):
    """A convolution whose weight takes no gradient: it keeps the weight alone, where PyTorch keeps the input too."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor | None, operator: ConvOperator) -> Tensor:
        ctx.operator, ctx.shape = operator, x.shape
        ctx.save_for_backward(weight)
        return operator.convolve(x, weight, bias)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        (weight,), (grad,), operator = ctx.saved_tensors, grads, ctx.operator
        return operator.input_gradient(grad, ctx.shape, weight.to(grad.dtype)), None, None, None


@dataclass(frozen=True)
class ConvTransposeOperator(Operator):
    """The transpose of a convolution; its weight is `[c_in, c_out, ...]`."""

    convolution: ConvOperator
    output_padding: tuple[int, ...]

    def basis_at(self, side: str) -> Place | None:
        return "input" if side == "left" else None

    def apply(self, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        its = self.convolution
        transposed = (F.conv_transpose1d, F.conv_transpose2d, F.conv_transpose3d)[len(its.kernel) - 1]
        out: Tensor = transposed(x, weight, bias, its.stride, its.padding, self.output_padding, 1, its.dilation)
        return out

    def encode(self, x: Tensor, left: Tensor, right: Tensor) -> Tensor:
        return self.convolution.adjoint(x, left, right)

    def decode(self, t: Tensor, left: Tensor, right: Tensor) -> Tensor:
        return self.apply(t, self.convolution.filters(right), None)

    def adjoint(self, grad: Tensor, left: Tensor, right: Tensor) -> Tensor:
        return self.convolution.encode(grad, left, right)

    def pull_back(self, grad: Tensor, shape: torch.Size, left: Tensor, right: Tensor) -> Tensor:
        return self.convolution.decode(grad, left, right)

    def channels(self, rows: int, columns: int) -> tuple[int, int]:
        return rows, columns


def by_products(x: Tensor) -> bool:
    """Whether channels in dimension 1 are mapped by matrix products: a CPU's are several times faster than its 1 x 1
    convolutions of few channels, and a GPU's convolutions keep the order of dimensions in memory.
    """
    return x.device.type == "cpu" and x.is_contiguous()


_CONVS = (nn.Conv1d, nn.Conv2d, nn.Conv3d)
_TRANSPOSED = (nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d)


def operator_of(module: nn.Module) -> Operator | None:
    """The operator that `module` computes, or None where its own forward must be called with a shifted weight.

    None stands for groups, padding other than zeros, an embedding with `max_norm`, or a subclass with its own forward:
    rare in diffusion models, and still correct, at the cost of a gradient through the weight.
    """
    kind = type(module).forward
    if kind is nn.Linear.forward or (isinstance(module, nn.Linear) and is_quantised(module.weight)):
        return LinearOperator()
    if isinstance(module, nn.Embedding) and kind is nn.Embedding.forward and module.max_norm is None:
        return EmbeddingOperator(padding_idx=module.padding_idx)
    if isinstance(module, (*_CONVS, *_TRANSPOSED)):
        if module.groups != 1 or module.padding_mode != "zeros" or isinstance(module.padding, str):
            return None
        convolution = ConvOperator(module.kernel_size, module.stride, module.padding, module.dilation)
        if any(kind is conv.forward for conv in _CONVS):
            return convolution
        if any(kind is conv.forward for conv in _TRANSPOSED):
            return ConvTransposeOperator(convolution, module.output_padding)
    return None


def has_spectrum(module: nn.Module) -> bool:
    """Whether a shift knows how to act on this module's `weight` of two or more dimensions."""
    return isinstance(module, (nn.Linear, nn.Embedding, *_CONVS, *_TRANSPOSED))
