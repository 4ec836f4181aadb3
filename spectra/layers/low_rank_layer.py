"""One live module and a change of low rank: K directions of its weight, outer terms, vectors for the special word.

Like `shifted_layer`, it computes what the module's forward would with the changed weight, and changes no module. It
needs no decomposition but the K directions'. At zero the result is the frozen module's, bit for bit.

A quantised weight keeps its own product, and the change is a term of its own beside it.
"""

from __future__ import annotations

import math
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from spectra.layers.change import Change
from spectra.layers.changed_weight import Directions, changed_weight
from spectra.layers.frozen_operators import EmbeddingOperator, Operator, operator_of
from spectra.layers.functional_call import cast_for_compute, with_parameters
from spectra.layers.low_rank import FrozenLayer, low_rank_layer
from spectra.layers.quantised_weights import is_quantised, weight_shape
from spectra.spectrum.shifted_weight import singular_value_change
from spectra.spectrum.spectrum import Spectrum


class Computing(Protocol):
    """What computes a module's output with the directions of its weight changed."""

    def forward(self, x: Tensor, *args: Any, **kwargs: Any) -> Tensor: ...


class LowRankLayer:
    """A module with a weight of two or more dimensions, computing with `change`.

    Args:
        module: its `weight` stays frozen.
        change: its tensors may be trained.
        spectrum: the directions that `change.delta` is of; None where it has none.
        shifted: computes the module with a delta of all directions, where the spectrum is whole.

    Attributes:
        made_once: make the changed weight once for each value of the change, for a model that draws.
    """

    def __init__(
        self,
        module: nn.Module,
        change: Change,
        spectrum: Spectrum | Directions | None = None,
        shifted: Computing | None = None,
    ) -> None:
        self.module, self.change, self.spectrum = module, change, spectrum
        self.operator = operator_of(module)
        self.quantised, self.shape = is_quantised(module.weight), weight_shape(module.weight)  # type: ignore[arg-type]
        self.made_once = False
        self._directions = None if isinstance(spectrum, Spectrum) else spectrum
        self._shifted = shifted
        self._sides: dict[tuple[torch.dtype, torch.device], tuple[Tensor, Tensor]] = {}
        self._made: tuple[list[int], Tensor] | None = None

    def forward(self, x: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        """What the module returns for `x` with the changed weight."""
        weight: Tensor = self.module.weight  # type: ignore[assignment]
        made_once = self.made_once and self._shifted is None and not self.quantised
        if made_once and not torch.compiler.is_compiling():
            return with_parameters(self.module, {"weight": self._changed_once(weight)}, x, *args, **kwargs)
        if self.operator is None or args or kwargs:
            return self._through_weight(x, *args, **kwargs)
        if self._shifted is None and self._low_rank and not self.quantised:
            y = self._apply(weight, x)
        else:
            y = with_parameters(self.module, {}, x) if self._shifted is None else self._shifted.forward(x)
            if self._low_rank:
                y = y + self._apply(None, x).to(y.dtype)
        return add_word(self.operator, y, x, self.change)

    @property
    def _low_rank(self) -> bool:
        return self.change.a is not None or self._directions is not None

    def _apply(self, weight: Tensor | None, x: Tensor) -> Tensor:
        """The module with its directions and terms changed, or without `weight` what the terms alone give."""
        x, dtype = self._for_compute(x)
        bias = getattr(self.module, "bias", None)
        left, right = self._sides_in(dtype, x.device)
        layer = FrozenLayer(self.operator, weight, bias, left, right)  # type: ignore[arg-type]
        change = self._change_on(x.device)
        return low_rank_layer(layer, x, self._d(x.device), change)

    def _for_compute(self, x: Tensor) -> tuple[Tensor, torch.dtype]:
        """`x` in the dtype in which the layer computes, and that dtype: beside a quantised weight, its own."""
        weight: Tensor = self.module.weight  # type: ignore[assignment]
        return cast_for_compute(x, x if self.quantised else weight)

    def _change_on(self, device: torch.device) -> Change:
        """The change where the layer computes: an offloaded model's weights come there for the time being."""
        return self.change.map(lambda tensor: tensor.to(device))

    def _d(self, device: torch.device) -> Tensor:
        """`[K]`: how far each singular value is from the frozen one."""
        if self._directions is None or self.change.delta is None:
            return torch.zeros(0, device=device)
        weight: Tensor = self.module.weight  # type: ignore[assignment]
        wide = torch.float64 if weight.dtype == torch.float64 else torch.float32
        return singular_value_change(self._directions.sigma.to(device, wide), self.change.delta.to(device))

    def _sides_in(self, dtype: torch.dtype, device: torch.device) -> tuple[Tensor, Tensor]:
        """`U [rows, K]` and `V [columns, K]` on a device, in `dtype`; K is 0 without directions."""
        key = (dtype, device)
        if key in self._sides:
            return self._sides[key]
        if self._directions is None:
            sides = tuple(
                torch.empty(n, 0, dtype=dtype, device=device) for n in (self.shape[0], math.prod(self.shape[1:]))
            )
        else:
            sides = tuple(side.to(device, dtype) for side in (self._directions.left, self._directions.right))
        if not torch.compiler.is_compiling():
            self._sides[key] = sides  # type: ignore[assignment]
        return sides  # type: ignore[return-value]

    def _changed_once(self, weight: Tensor) -> Tensor:
        """The changed weight, made once for each value of the change: an optimizer's step changes its versions."""
        versions = [tensor._version for tensor in self.change.tensors()]
        if self._made is None or self._made[0] != versions or self._made[1].device != weight.device:
            self._made = None
            with torch.no_grad():
                self._made = versions, changed_weight(weight, self.spectrum, self.change)
        return self._made[1]

    def _through_weight(self, x: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        """For a module that is no plain operator: its own forward with a weight that gradients go through."""
        weight: Tensor = self.module.weight  # type: ignore[assignment]
        changed = changed_weight(weight, self.spectrum, self.change)
        return with_parameters(self.module, {"weight": changed}, x, *args, **kwargs)

    def forget(self) -> None:
        """Drop the weight that was made."""
        self._made = None


def add_word(operator: Operator, y: Tensor, x: Tensor, change: Change, index: Tensor | None = None) -> Tensor:
    """What an embedding returned for ids `x [batch, ...]`, with the special word's vectors added where they stand.

    The head of a language model, which is often tied to the embedding, gains what it makes of these vectors.

    Args:
        index: `[batch]`, the row of `change.word [shifts, n, dim]` that each sample takes.
    """
    if change.word is None:
        return y
    ids = torch.tensor(change.ids, device=x.device)
    word = change.word.to(y.dtype) if index is None else change.word[index].to(y.dtype)
    if isinstance(operator, EmbeddingOperator):
        stands = x.unsqueeze(-1) == ids  # [batch, ..., n]
        return y + stands.to(y.dtype) @ word
    return y.index_add(-1, ids, x.to(y.dtype) @ word.mT)
