"""A shift of its own for every sample of a batch: one pass over the shared base.

In general the factored plan serves: the frozen layer computes for the whole batch, and each sample takes its own row of
relative changes. Deltas are all that many shifts in one batch cost.

In training the samples of each shift follow one another, equally many of each, and a weight for each such run may be
cheaper. Beyond the frozen layer, forward and backward, for `n` rows of activations in a run:

    factored   8 n r^2
    rebuilt    as `plans` has it: the output tells the gradient; for long runs of convolutions
    whole      W + U diag(d) V^T, and delta's gradient through that of the weight, as the paper has it:
               2 n m r + 4 r^2 m, without a pass over the activations; for matrices that are about square
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor, nn

from spectra import kernels, plans
from spectra.errors import MismatchError
from spectra.layers import (
    ShiftedLayer,
    ShiftedVector,
    change,
    computed,
    narrow,
    shifted_vector,
    shifted_weight,
    with_full_tail,
    with_parameters,
)
from spectra.operators import LinearOperator, Operator
from spectra.spectrum import Spectrum, matrix


class Samples:
    """Which row of the deltas each sample takes.

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
        self._sides: tuple[Tensor, Tensor] | None = None
        self._alone: list[ShiftedLayer] = []

    def forward(self, x: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        """What the module returns for `x [batch, ...]`, each sample with its own shifted weight."""
        weight: Tensor = self.module.weight  # type: ignore[assignment]
        self._follow(weight)
        x, index = self._samples.match(x)
        if self.operator is None or args or kwargs:
            return self._one_by_one(weight, index, x, *args, **kwargs)
        x, dtype = computed(x, weight)
        bias: Tensor | None = getattr(self.module, "bias", None)
        operator, place = self.operator, self._place
        plan = self._plan(x, operator)
        if plan == "whole":
            return self._whole(x, weight, bias, dtype, operator)
        if plan == "rebuilt":
            return self._each_rebuilt(x)
        d, head = change(self._sigma, self.delta), self._spectrum.head
        if not head or place is None:
            y = operator.apply(x, weight, bias)
        else:
            y = self._factored(x, weight, bias, d[:, :head] / self._sigma[:head], dtype, operator, place, index)
        if head < self._spectrum.rank:
            _, left, right = self._vectors(dtype)
            y = y + narrow(operator, x, left, right, d[index, head:])
        return y

    def _plan(self, x: Tensor, operator: Operator) -> str:
        """The cheapest way for this batch."""
        shifts, r = len(self.delta), self._spectrum.rank
        if not self.delta.requires_grad or self._place is None or not x.is_floating_point():
            return "factored"
        if not self._samples.runs(x.shape[0], shifts):
            return "factored"
        m = math.prod(self._spectrum.shape) // max(r, 1)
        n = x.numel() // (x.shape[operator.dim] * shifts * math.prod(getattr(operator, "stride", (1,))))
        costs = {
            "factored": plans.factored_cost(n, r),
            "rebuilt": plans.rebuilt_cost(n, r, m),
            "whole": plans.whole_cost(n, r, m),
        }
        return min(costs, key=costs.__getitem__)

    def _each_rebuilt(self, x: Tensor) -> Tensor:
        """A layer of its own for every run."""
        if not self._alone:
            self._alone = [ShiftedLayer(self.module, self._spectrum, delta) for delta in self.delta]
        parts = []
        for layer, delta, run in zip(self._alone, self.delta.unbind(), x.chunk(len(self.delta)), strict=True):
            layer.delta, layer.plan = delta, "rebuilt"
            parts.append(layer.forward(run))
        return torch.cat(parts)

    def _whole(self, x: Tensor, weight: Tensor, bias: Tensor | None, dtype: torch.dtype, operator: Operator) -> Tensor:
        """Each run with a weight of its own, through which the gradient goes."""
        shifts = len(self.delta)
        with torch.autocast(weight.device.type, enabled=False):
            left, right = self._both_sides(weight)
            d, w = change(self._sigma, self.delta), matrix(weight).to(self._sigma.dtype)
            shifted = (w + (left * d.unsqueeze(1)) @ right.T).to(dtype)  # [shifts, rows, columns]
        if isinstance(operator, LinearOperator):
            y = x.reshape(shifts, -1, x.shape[-1]) @ shifted.mT
            y = y.reshape(*x.shape[:-1], -1)
            return y if bias is None else y + bias.to(dtype)
        runs = zip(x.chunk(shifts), shifted.unbind(), strict=True)
        return torch.cat([operator.apply(run, own.reshape(weight.shape), bias) for run, own in runs])

    def _both_sides(self, weight: Tensor) -> tuple[Tensor, Tensor]:
        """`left [rows, r]` and `right [columns, r]`, the singular vectors of every direction."""
        if self._sides is None or self._sides[0].device != weight.device:
            spectrum, dtype = with_full_tail(self._spectrum, weight), self._sigma.dtype
            near, far = spectrum.basis.to(dtype), spectrum.tail.T.to(dtype)
            self._sides = (near, far) if spectrum.side == "left" else (far, near)
        return self._sides

    def _one_by_one(self, weight: Tensor, index: Tensor, x: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        """For modules that are no plain operator: a forward for each shift that occurs."""
        groups = [(row, (index == row).nonzero().squeeze(1)) for row in index.unique().tolist()]
        parts = []
        for row, mine in groups:
            shifted = shifted_weight(weight, self._spectrum, self.delta[row])
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
            return torch.cat(
                [with_parameters(self.module, {"weight": shifted_vector(weight, own)}, run) for run, own in runs]
            )
        plain: dict[str, Tensor | None] = {"weight": torch.ones_like(weight)}
        if "bias" in self.module._parameters:
            plain["bias"] = None
        normal = with_parameters(self.module, plain, x, *args, **kwargs)
        # Group norms have their channels second, all others last.
        dim = 1 if isinstance(self.module, (nn.GroupNorm, nn.modules.batchnorm._BatchNorm)) else -1
        own = with_parameters(self.module, {}, x, *args, **kwargs)
        return own + normal * kernels.over_channels(self.delta[index], normal.ndim, dim).to(normal.dtype)
