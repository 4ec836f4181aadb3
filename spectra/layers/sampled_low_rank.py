"""A change of low rank of its own for every sample of a batch, beside one pass of the frozen layer.

Samples share their K directions and differ in `d`, so that only a few small numbers are theirs. Where the weight's
smaller side meets channels, and no sigma is small, its vectors alone serve both ways: `y0 U` is `sigma (x V)`, and a
convolution's output has a ninth of the channels that its patches have (docs/algebra.md, 8).
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from spectra import kernels
from spectra.layers.change import Change
from spectra.layers.changed_weight import Directions, changed_weight
from spectra.layers.delta_gradients import add_low_rank_term
from spectra.layers.frozen_operators import ConvOperator, ConvTransposeOperator, EmbeddingOperator, Operator
from spectra.layers.functional_call import with_parameters
from spectra.layers.low_rank_layer import Computing, LowRankLayer, add_word
from spectra.layers.per_sample import Samples
from spectra.spectrum.decomposition import TAIL_THRESHOLD
from spectra.spectrum.spectrum import Side, Spectrum, has_no_values, matrix


class SampledLowRankLayer(LowRankLayer):
    """A module with a weight of two or more dimensions; every tensor of `changes` has a row for each shift."""

    def __init__(
        self,
        module: nn.Module,
        changes: Change,
        samples: Samples,
        spectrum: Spectrum | Directions | None = None,
        shifted: Computing | None = None,
    ) -> None:
        super().__init__(module, changes, spectrum, shifted)
        self._samples = samples
        self._side: Side = "left" if self.shape[0] <= math.prod(self.shape[1:]) else "right"
        self._by_one_side = (
            self.operator is not None
            and self._directions is not None
            and not self.quantised  # what it computes with is not what sigma is of
            and self.operator.basis_at(self._side) is not None
            and _none_is_small(self._directions.sigma, module.weight)  # type: ignore[arg-type]
        )

    def forward(self, x: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        """What the module returns for `x [batch, ...]`, each sample with its own change."""
        x, index = self._samples.match(x)
        if self.operator is None or args or kwargs:
            return self._one_by_one(index, x, *args, **kwargs)
        x, dtype = self._for_compute(x)
        if self._by_one_side:
            y = self._factored(self.operator, x, dtype, index)
        else:
            y = with_parameters(self.module, {}, x) if self._shifted is None else self._shifted.forward(x)
            if self._directions is not None:
                y = add_low_rank_term(self.operator, x, y, self._sides_in(dtype, x.device), self._d(x.device), index)
        if self.change.a is not None:
            y = y + _terms(self.operator, x, self.change.map(lambda tensor: tensor.to(x.device, dtype)), index)
        return add_word(self.operator, y, x, self.change, index)

    def _factored(self, operator: Operator, x: Tensor, dtype: torch.dtype, index: Tensor) -> Tensor:
        """The frozen layer, what the smaller side meets changed for each sample by that side's vectors."""
        weight: Tensor = self.module.weight  # type: ignore[assignment]
        bias: Tensor | None = getattr(self.module, "bias", None)
        left, right = self._sides_in(dtype, x.device)
        d = self._d(x.device)
        e, basis = d / self._directions.sigma.to(d), left if self._side == "left" else right  # type: ignore[union-attr]
        if operator.basis_at(self._side) == "input":
            return operator.apply(kernels.factored_apply(x, basis, e, index, None, operator.dim), weight, bias)
        offset = None if bias is None else bias.to(basis) @ basis
        return kernels.factored_apply(operator.apply(x, weight, bias), basis, e, index, offset, operator.dim)

    def _one_by_one(self, index: Tensor, x: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        """For modules that are no plain operator: a forward for each shift that occurs."""
        weight: Tensor = self.module.weight  # type: ignore[assignment]
        groups = [(row, (index == row).nonzero().squeeze(1)) for row in index.unique().tolist()]
        parts = []
        for row, mine in groups:
            changed = changed_weight(weight, self.spectrum, self.change.map(lambda tensor, row=row: tensor[row]))  # type: ignore[misc]
            parts.append(with_parameters(self.module, {"weight": changed}, x[mine], *args, **kwargs))
        return torch.cat(parts)[torch.cat([mine for _, mine in groups]).argsort()]


def _none_is_small(sigma: Tensor, weight: Tensor) -> bool:
    """Whether a division by each sigma is harmless: all are above the share of `rms(sigma)` that a tail ends with."""
    if has_no_values(weight):
        return True
    rms = float(torch.linalg.vector_norm(weight.detach(), dtype=torch.float32)) / min(matrix(weight).shape) ** 0.5
    return not len(sigma) or float(sigma.min()) > TAIL_THRESHOLD * rms


def _terms(operator: Operator, x: Tensor, change: Change, index: Tensor) -> Tensor:
    """What the outer terms of each sample's own row add to the layer's output."""
    a: Tensor = change.a[index]  # type: ignore[index]
    if isinstance(operator, EmbeddingOperator):
        own = torch.stack([rows[:, ids].T for rows, ids in zip(a, x.flatten(1), strict=True)])  # [batch, ids, k]
        return (own @ change.right[index]).reshape(*x.shape, -1)
    if isinstance(operator, ConvTransposeOperator):
        t = (a @ x.flatten(2)).reshape(len(x), -1, *x.shape[2:])
        return _transposed(operator, t, change.right[index])
    if isinstance(operator, ConvOperator):
        t = _bottleneck(operator, x, change, index)
        return (a.mT @ t.flatten(2)).reshape(len(x), -1, *t.shape[2:])
    rows = x.reshape(len(x), -1, x.shape[-1])
    return (rows @ change.right[index].mT @ a).reshape(*x.shape[:-1], -1)


def _bottleneck(operator: ConvOperator, x: Tensor, change: Change, index: Tensor) -> Tensor:
    """What each sample's terms make of the input of a convolution, `[batch, k, ...]`."""
    if change.kernel is None and not operator.pointwise:
        return _filtered(operator, x, change, index)
    t = change.b[index] @ x.flatten(2)  # type: ignore[index]
    if change.kernel is None:
        return t.reshape(len(x), -1, *x.shape[2:])
    alone = t.reshape(1, -1, *x.shape[2:])  # every sample and term is a channel of its own
    made = operator.convolve(alone, operator.kernels_of(change.kernel[index].flatten(0, 1)), None, alone.shape[1])
    return made.reshape(len(x), -1, *made.shape[2:])


def _filtered(operator: ConvOperator, x: Tensor, change: Change, index: Tensor) -> Tensor:
    filters = change.right[index].reshape(-1, x.shape[1], *operator.kernel)
    made = operator.convolve(x.reshape(1, -1, *x.shape[2:]), filters, None, len(x))
    return made.reshape(len(x), -1, *made.shape[2:])


def _transposed(operator: ConvTransposeOperator, t: Tensor, right: Tensor) -> Tensor:
    its = operator.convolution
    transposed = (F.conv_transpose1d, F.conv_transpose2d, F.conv_transpose3d)[len(its.kernel) - 1]
    batch, k = t.shape[:2]
    weight = right.reshape(batch * k, -1, *its.kernel)
    wide = t.reshape(1, -1, *t.shape[2:])
    made: Tensor = transposed(wide, weight, None, its.stride, its.padding, operator.output_padding, batch, its.dilation)
    return made.reshape(batch, -1, *made.shape[2:])
