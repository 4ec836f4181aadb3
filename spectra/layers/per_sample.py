"""A shift of its own for every sample of a batch: one pass over the shared base.

The frozen layer computes for the whole batch, and each sample takes its own row of changes, by the factored or the
two-sided plan. Deltas are all that many shifts in one batch cost.

In training the samples of each shift follow one another, equally many of each. Where such a run is so long that alone
it would have a weight of its own made, each has (`costs`).
"""

from __future__ import annotations

import copy
from typing import Any

import torch
from torch import Tensor, nn

from spectra import kernels
from spectra.errors import MismatchError
from spectra.layers.frozen_operators import LinearOperator, Operator
from spectra.layers.functional_call import with_parameters
from spectra.layers.shifted_layer import ShiftedLayer
from spectra.layers.shifted_vector import ShiftedVector
from spectra.spectrum.shifted_weight import shifted_matrix, shifted_weight, singular_value_change
from spectra.spectrum.spectrum import Spectrum, matrix


class Samples:
    """The row of the deltas that each sample takes.

    Args:
        rows: `[n]` int64, a row for each prompt.
        images: pictures per prompt; they follow one another, as diffusers orders them.
    """

    def __init__(self, rows: Tensor, images: int = 1) -> None:
        self.images = images
        self.take(rows)

    def take(self, rows: Tensor) -> None:
        """Other rows `[n]`, from the next forward on."""
        self.rows = rows
        self._known: dict[tuple[int, torch.device], Tensor] = {}
        self._runs: dict[tuple[int, int], bool] = {}

    def runs(self, batch: int, shifts: int) -> bool:
        """Whether a batch holds the samples of shift 0, then as many of shift 1, and so on to the last."""
        key = (batch, shifts)
        if key not in self._runs:
            whole = self.images == 1 and len(self.rows) == batch and batch % shifts == 0
            self._runs[key] = whole and torch.equal(
                self.rows.cpu(), torch.arange(shifts).repeat_interleave(batch // shifts)
            )
        return self._runs[key]

    def match(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """`x` with the samples along its first dimension, and the row that each takes, `[batch]`.

        One sample stands for all (a table of positions, say). Several rounds of the samples are those of guidance,
        which asks with and without the prompt in one batch.

        Raises:
            MismatchError: a batch that is no multiple of the samples.
        """
        prompts, pictures = len(self.rows), len(self.rows) * self.images
        if x.shape[0] == 1 and prompts > 1:
            x = x.expand(prompts, *x.shape[1:])
        batch = x.shape[0]
        key = (batch, x.device)
        if key not in self._known:
            if batch == prompts:
                rows = self.rows
            elif batch % pictures == 0:
                rows = self.rows.repeat_interleave(self.images).repeat(batch // pictures)
            else:
                raise MismatchError(
                    f"per_sample was given {prompts} samples of {self.images} pictures; the model was called with a "
                    f"batch of {batch}, which is no multiple of {pictures}"
                )
            self._known[key] = rows.to(x.device)
        return x, self._known[key]


class SampledLayer(ShiftedLayer):
    """A module with a weight of two or more dimensions; `deltas [shifts, r]`, one row of which each sample takes."""

    def __init__(self, module: nn.Module, spectrum: Spectrum, deltas: Tensor, samples: Samples) -> None:
        super().__init__(module, spectrum, deltas)
        self._samples = samples
        self._layers: list[SampledLayer] = []

    def forward(self, x: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        """What the module returns for `x [batch, ...]`, each sample with its own shifted weight."""
        self._follow()
        x, index = self._samples.match(x)
        if self.operator is None or args or kwargs:
            return self._one_by_one(index, x, *args, **kwargs)
        d = singular_value_change(self._vectors.sigma, self.delta)
        if self._materializes_runs(x):
            return self._each_layer(x) if self._vectors.one_sided else self._own_weights(self.operator, x, d)
        if self._vectors.one_sided:
            return self._factored(self.operator, x, d, index)
        return self._two_sided(self.operator, x, d[index], self.work(x))

    def _materializes_runs(self, x: Tensor) -> bool:
        """Whether the runs of a training have a weight each."""
        if not self.delta.requires_grad:
            return False
        self._plan(x)  # lets the layer keep the other side, if the whole batch is worth it
        if not self._samples.runs(x.shape[0], len(self.delta)):
            return False
        return self._plan(x.chunk(len(self.delta))[0])[0] == "materialized"

    def _own_weights(self, operator: Operator, x: Tensor, d: Tensor) -> Tensor:
        """A weight for every run, all made in one product; the gradient goes through them."""
        x, weight, bias, dtype = self._arguments(x)
        shifts = len(d)
        with torch.autocast(weight.device.type, enabled=False):
            basis, left, right = (each.to(d.dtype) for each in self._vectors.of(weight.dtype))
            w = matrix(weight).to(d.dtype)
            shifted = shifted_matrix(w, (basis, left, right), self._vectors.sigma, d, self.spectrum.side).to(dtype)
        if isinstance(operator, LinearOperator):
            y = (x.reshape(shifts, -1, x.shape[-1]) @ shifted.mT).reshape(*x.shape[:-1], -1)
            return y if bias is None else y + bias.to(dtype)
        runs = zip(x.chunk(shifts), shifted.unbind(), strict=True)
        return torch.cat([operator.apply(run, own.reshape(weight.shape), bias) for run, own in runs])

    def _each_layer(self, x: Tensor) -> Tensor:
        """A layer for every run, with a weight of its own."""
        while len(self._layers) < len(self.delta):
            layer = copy.copy(self)
            layer._made = {}  # all is shared but what is made of delta
            self._layers.append(layer)
        parts = []
        for layer, delta, run in zip(self._layers, self.delta.unbind(), x.chunk(len(self.delta)), strict=True):
            layer.delta, layer.plan = delta, self.plan
            parts.append(ShiftedLayer.forward(layer, run))
        return torch.cat(parts)

    def _one_by_one(self, index: Tensor, x: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        """For modules that are no plain operator: a forward for each shift that occurs."""
        weight: Tensor = self.module.weight  # type: ignore[assignment]
        groups = [(row, (index == row).nonzero().squeeze(1)) for row in index.unique().tolist()]
        parts = []
        for row, mine in groups:
            shifted = shifted_weight(weight, self.spectrum, self.delta[row])
            parts.append(with_parameters(self.module, {"weight": shifted}, x[mine], *args, **kwargs))
        return torch.cat(parts)[torch.cat([mine for _, mine in groups]).argsort()]


class SampledVector(ShiftedVector):
    """A norm; `deltas [shifts, r]`, one row of which is added to its scale for each sample."""

    def __init__(self, module: nn.Module, deltas: Tensor, samples: Samples) -> None:
        super().__init__(module, deltas)
        self._samples = samples

    def forward(self, x: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        """The module's own output, and `delta` times what it normalises `x` to."""
        x, index = self._samples.match(x)
        weight: Tensor = self.module.weight  # type: ignore[assignment]
        if self.delta.requires_grad and self._samples.runs(x.shape[0], len(self.delta)):
            # A norm for each run: several short passes over the activations cost less than two long ones more.
            runs = zip(x.chunk(len(self.delta)), self.delta.unbind(), strict=True)
            return torch.cat([self.shifted(run, own) for run, own in runs])
        plain: dict[str, Tensor | None] = {"weight": torch.ones_like(weight)}
        if "bias" in self.module._parameters:
            plain["bias"] = None
        normal = with_parameters(self.module, plain, x, *args, **kwargs)
        # Group norms have their channels second, all others last.
        dim = 1 if isinstance(self.module, (nn.GroupNorm, nn.modules.batchnorm._BatchNorm)) else -1
        own = with_parameters(self.module, {}, x, *args, **kwargs)
        return own + normal * kernels.broadcast_channels(self.delta[index], normal.ndim, dim).to(normal.dtype)
