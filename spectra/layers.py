"""One live module and its shift: which plan runs, what is kept between steps, and how gradients reach delta.

A layer never changes its module. It computes what the module's forward would, with the shifted weight; the adapter
decides when that happens. With delta at zero the result is the frozen module's, bit for bit.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from spectra import kernels, plans
from spectra.operators import Operator, Place, operator_of
from spectra.spectrum import Spectrum, matrix


def change(sigma: Tensor, delta: Tensor) -> Tensor:
    """`ReLU(sigma + delta) - sigma`, `[r]`, without the cancellation, and with ReLU's gradient (0 where it clips)."""
    return torch.where(sigma + delta > 0, delta, -sigma)


def shifted_weight(weight: Tensor, spectrum: Spectrum, delta: Tensor) -> Tensor:
    """`U diag(ReLU(sigma + delta)) V^T` in the shape and dtype of `weight`, rounded once from float32 or wider.

    Args:
        weight: the frozen weight that `spectrum` was made of.
        delta: `[r]`. All zeros give `weight` itself.

    Differentiable in `delta`, through the weight: the plans do better, this is for inference and rare layers.
    """
    if not delta.requires_grad and not bool(delta.any()):
        return weight
    dtype = torch.promote_types(weight.dtype, torch.float32)
    sigma, basis, tail = spectrum.sigma.to(dtype), spectrum.basis.to(dtype), spectrum.tail.to(dtype)
    d, head, left = change(sigma, delta.to(dtype)), spectrum.head, spectrum.side == "left"
    w = matrix(weight).to(dtype)
    shifted = kernels.rebuild(w, basis[:, :head], d[:head] / sigma[:head], left=left) if head else w
    if head < spectrum.rank:
        # The long side takes d: its gradient is then summed over that side pairwise, not in one long product.
        narrow = (tail.T * d[head:]) @ basis[:, head:].T
        shifted = shifted + (narrow.T if left else narrow)
    return shifted.reshape(weight.shape).to(weight.dtype)


REBUILT_FLOOR = 1 / 4
"""A rebuilt weight's output is too coarse to tell delta's gradient of directions whose shifted singular value is below
this share of rms(sigma): they get both sides explicitly. Measured on matrices of condition 1e2 to 1e8 in float32,
bfloat16 and float16, 1/5 lets the error pass twice that of the paper's formula, 1/4 keeps it below 1.8 times."""


class ShiftedLayer:
    """A module with a weight of two or more dimensions, computing with `delta`.

    Args:
        module: its `weight` stays frozen.
        spectrum: of that weight.
        delta: float32 `[r]`, may be trained.

    The vectors of the spectrum live on the weight's device, in its dtype (and in autocast's, once that is met).
    """

    def __init__(self, module: nn.Module, spectrum: Spectrum, delta: Tensor) -> None:
        self.module = module
        self.delta = delta
        self.plan: plans.Plan | None = None  # an explicit choice; None lets the cost model decide
        self.operator: Operator | None = operator_of(module)
        weight: Tensor = module.weight  # type: ignore[assignment]
        self._spectrum = spectrum.to(weight.device)
        self._sigma = self._spectrum.sigma.to(torch.promote_types(weight.dtype, torch.float32))
        self._floor = float(REBUILT_FLOOR * self._sigma.square().mean().sqrt()) if self._sigma.numel() else 0.0
        place = self.operator.place(spectrum.side) if self.operator else None
        if place is None:  # no activation to map: both sides of every direction are needed
            self._spectrum = with_full_tail(self._spectrum, weight)
        self._place = place
        self._converted: dict[tuple[torch.dtype, torch.device], tuple[Tensor, Tensor, Tensor]] = {}
        self._rebuilt: tuple[tuple[int, torch.device], Tensor, Tensor | None] | None = None

    def forward(self, x: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        """What the module returns for `x` with the weight `U diag(ReLU(sigma + delta)) V^T`."""
        module, operator = self.module, self.operator
        weight: Tensor = module.weight  # type: ignore[assignment]
        bias: Tensor | None = getattr(module, "bias", None)
        self._follow(weight)
        if operator is None or args or kwargs:
            shifted = shifted_weight(weight, self._spectrum, self.delta)
            return with_parameters(module, {"weight": shifted}, x, *args, **kwargs)
        x, dtype = computed(x, weight)
        d, head = change(self._sigma, self.delta), self._spectrum.head
        place = self._place
        if head and place is not None:
            y = self._head(x, weight, bias, d[:head], dtype, operator, place)
        else:
            y = operator.apply(x, weight, bias)
        if head < self._spectrum.rank:
            _, left, right = self._vectors(dtype)
            y = y + narrow(operator, x, left, right, d[head:])
        return y

    def _follow(self, weight: Tensor) -> None:
        """The spectrum goes where the weight went."""
        if self._sigma.device != weight.device:
            self._spectrum, self._sigma = self._spectrum.to(weight.device), self._sigma.to(weight.device)

    def _head(
        self,
        x: Tensor,
        weight: Tensor,
        bias: Tensor | None,
        d: Tensor,
        dtype: torch.dtype,
        operator: Operator,
        place: Place,
    ) -> Tensor:
        """The layer with its head's singular values changed by `d [h]`; the basis meets the activation at `place`."""
        basis, dim = self._vectors(dtype)[0], operator.dim
        if (self.plan or self._cheaper(x, operator)) == "factored":
            return self._factored(x, weight, bias, d / self._sigma[: d.shape[0]], dtype, operator, place)
        rebuilt, small = self._rebuild(weight, d)
        s = (self._sigma[: d.shape[0]] + d).detach()
        s = torch.where(s > self._floor, s, 0)
        if place == "input":
            attached = plans.attach_input_gradient(x, d, s, basis, dim)
            y = operator.apply(attached, rebuilt, bias)
        else:
            y = operator.apply(x, rebuilt, bias)
            y = plans.attach_output_gradient(y, d, s, basis, None if bias is None else bias.to(dtype), dim)
        if small is not None and d.requires_grad and torch.is_grad_enabled():
            left, right = self._explicit(weight, small, dtype)
            # Adds zero: these directions are in the rebuilt weight already, this is for their gradient alone.
            y = y + narrow(operator, x, left, right, d[small] - d[small].detach())
        return y

    def _factored(
        self,
        x: Tensor,
        weight: Tensor,
        bias: Tensor | None,
        e: Tensor,
        dtype: torch.dtype,
        operator: Operator,
        place: Place,
        index: Tensor | None = None,
    ) -> Tensor:
        """The frozen layer; what the basis meets, at `place`, is changed by `e [h]`, or `e [shifts, h]` by `index`."""
        basis, dim = self._vectors(dtype)[0], operator.dim
        a, offset = x, None
        if place == "output":
            a = operator.apply(x, weight, bias)
            offset = None if bias is None else bias.to(dtype) @ basis
        if index is None:
            a = kernels.factored_apply(a, basis, e, offset, dim)
        else:
            a = kernels.batched_apply(a, basis, e, index, offset, dim)
        return operator.apply(a, weight, bias) if place == "input" else a

    def _cheaper(self, x: Tensor, operator: Operator) -> plans.Plan:
        channels = x.shape[operator.dim] if x.is_floating_point() else 1
        stride = math.prod(getattr(operator, "stride", (1,))) if self._place == "output" else 1
        n = x.numel() // max(channels, 1) // stride
        r = self._spectrum.rank
        return plans.choose(n, r, math.prod(self._spectrum.shape) // max(r, 1))

    def _rebuild(self, weight: Tensor, d: Tensor) -> tuple[Tensor, Tensor | None]:
        """The weight with its head shifted, and the head's directions that lie below the floor without being clipped.

        Made once for each value of delta: an optimizer's step changes the tensor's version.
        """
        key = (self.delta._version, weight.device)
        if self._rebuilt is None or self._rebuilt[0] != key:
            with torch.no_grad(), torch.autocast(weight.device.type, enabled=False):
                sigma = self._sigma[: d.shape[0]]
                wide = self._sigma.dtype
                basis, left = self._vectors(weight.dtype)[0].to(wide), self._spectrum.side == "left"
                rebuilt = kernels.rebuild(matrix(weight).to(wide), basis, d / sigma, left=left)
                s = sigma + d
                small = ((s > 0) & (s <= self._floor)).nonzero().squeeze(1)
                self._rebuilt = (
                    key,
                    rebuilt.reshape(weight.shape).to(weight.dtype),
                    small if small.numel() else None,
                )
        return self._rebuilt[1], self._rebuilt[2]

    def _explicit(self, weight: Tensor, index: Tensor, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
        """Both sides of the head's directions `index`: `left [rows, i]`, `right [columns, i]`."""
        wide = self._sigma.dtype
        near = self._spectrum.basis[:, index].to(wide)
        w = matrix(weight).to(wide)
        far = ((w.T if self._spectrum.side == "left" else w) @ near) / self._sigma[index]
        near, far = near.to(dtype), far.to(dtype)
        return (near, far) if self._spectrum.side == "left" else (far, near)

    def _vectors(self, dtype: torch.dtype) -> tuple[Tensor, Tensor, Tensor]:
        """The head's basis `[r, h]`, and the tail's `left [rows, k]` and `right [columns, k]`, in `dtype`."""
        key = (dtype, self._sigma.device)
        if key not in self._converted:
            spectrum = self._spectrum
            basis, tail = spectrum.basis.to(dtype), spectrum.tail.T.to(dtype)
            if kernels.uses_triton(basis):
                # By columns: a head of any width then has columns that are loaded 16 bytes at a time.
                basis = basis.T.contiguous().T
            near = basis[:, spectrum.head :]
            sides = (near, tail) if spectrum.side == "left" else (tail, near)
            self._converted[key] = (basis[:, : spectrum.head], *sides)
        return self._converted[key]


class ShiftedVector:
    """A module with a 1-D weight (a norm's scale): `w + delta`.

    Args:
        delta: float32, as long as the weight.
    """

    def __init__(self, module: nn.Module, delta: Tensor) -> None:
        self.module = module
        self.delta = delta

    def forward(self, *args: Any, **kwargs: Any) -> Tensor:
        """What the module returns with the weight `w + delta`."""
        weight: Tensor = self.module.weight  # type: ignore[assignment]
        return with_parameters(self.module, {"weight": shifted_vector(weight, self.delta)}, *args, **kwargs)


def shifted_vector(weight: Tensor, delta: Tensor) -> Tensor:
    """`w + delta` in the dtype of `weight`, rounded once."""
    return (weight + delta).to(weight.dtype)


def narrow(operator: Operator, x: Tensor, left: Tensor, right: Tensor, d: Tensor) -> Tensor:
    """The term of a few directions, `U diag(d) V^T` applied to `x`; the gradient of `d` is summed in its own dtype.

    Args:
        d: `[k]`, or `[batch, k]` for directions of each sample's own.
    """
    t = operator.encode(x, left, right)
    wide = torch.promote_types(t.dtype, d.dtype)
    return operator.decode((t.to(wide) * kernels.over_channels(d, t.ndim, operator.dim)).to(t.dtype), left, right)


def with_parameters(module: nn.Module, parameters: Mapping[str, Tensor | None], *args: Any, **kwargs: Any) -> Tensor:
    """The module's own forward with some parameters replaced; the module itself stays untouched."""
    twin = copy.copy(module)
    twin.__dict__.pop("forward", None)  # ours, if it is installed
    object.__setattr__(twin, "_parameters", {**module._parameters, **parameters})
    out: Tensor = type(module).forward(twin, *args, **kwargs)
    return out


def computed(x: Tensor, weight: Tensor) -> tuple[Tensor, torch.dtype]:
    """`x` in the dtype in which the layer computes, and that dtype; a gather of rows stays in the table's."""
    dtype = weight.dtype
    if x.is_floating_point() and torch.is_autocast_enabled(weight.device.type):
        dtype = torch.get_autocast_dtype(weight.device.type)
        x = x.to(dtype)
    return x, dtype


def with_full_tail(spectrum: Spectrum, weight: Tensor) -> Spectrum:
    """The same spectrum with the other side of every direction explicit."""
    w, basis, head = matrix(weight).to(torch.float64), spectrum.basis.to(torch.float64), spectrum.head
    far = ((w.T if spectrum.side == "left" else w) @ basis[:, :head]) / spectrum.sigma[:head]
    tail = torch.cat([far.T.to(spectrum.tail.dtype), spectrum.tail])
    return Spectrum(spectrum.side, spectrum.basis, spectrum.sigma, tail, spectrum.shape)
