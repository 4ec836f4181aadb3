"""One live module with a 1-D weight, a norm's scale, and its shift."""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn

from spectra.layers.functional_call import with_parameters
from spectra.spectrum.shifted_weight import shifted_vector


class ShiftedVector:
    """A module with the weight `w + delta`.

    Args:
        delta: float32, as long as the weight.
    """

    def __init__(self, module: nn.Module, delta: Tensor) -> None:
        self.module = module
        self.delta = delta

    def forward(self, x: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        """What the module returns with the weight `w + delta`."""
        return self.shifted(x, self.delta, *args, **kwargs)

    def shifted(self, x: Tensor, delta: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        """What the module returns with the weight `w + delta`, `delta [r]`."""
        weight: Tensor = self.module.weight  # type: ignore[assignment]
        if isinstance(self.module, nn.GroupNorm) and not x.requires_grad:
            # On a CPU the backward pass of PyTorch 2.13 ends the process by a segmentation fault where a channels-last
            # input needs no gradient and the scale does: in the first norm behind layers that are not trained.
            x = x.contiguous()
        return with_parameters(self.module, {"weight": shifted_vector(weight, delta)}, x, *args, **kwargs)
