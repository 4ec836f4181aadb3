"""A shift of its own for every sample of a batch: one pass over the shared base, through the factored plan.

The frozen layer computes for the whole batch; each sample then takes its own row of relative changes. Deltas are all
that many shifts in one batch cost.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from spectra import kernels
from spectra.errors import MismatchError
from spectra.layers import (
    ShiftedLayer,
    ShiftedVector,
    change,
    computed,
    narrow,
    shifted_weight,
    with_parameters,
)
from spectra.spectrum import Spectrum


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
        d, head = change(self._sigma, self.delta), self._spectrum.head
        if not head or place is None:
            y = operator.apply(x, weight, bias)
        else:
            y = self._factored(x, weight, bias, d[:, :head] / self._sigma[:head], dtype, operator, place, index)
        if head < self._spectrum.rank:
            _, left, right = self._vectors(dtype)
            y = y + narrow(operator, x, left, right, d[index, head:])
        return y

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
        plain: dict[str, Tensor | None] = {"weight": torch.ones_like(weight)}
        if "bias" in self.module._parameters:
            plain["bias"] = None
        normal = with_parameters(self.module, plain, x, *args, **kwargs)
        # Group norms have their channels second, all others last.
        dim = 1 if isinstance(self.module, (nn.GroupNorm, nn.modules.batchnorm._BatchNorm)) else -1
        own = with_parameters(self.module, {}, x, *args, **kwargs)
        return own + normal * kernels.over_channels(self.delta[index], normal.ndim, dim).to(normal.dtype)
