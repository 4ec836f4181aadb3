"""The singular vectors of one live weight: on its device, in each dtype that its layer computes in, made once."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from spectra import kernels
from spectra.spectrum.shifted_weight import with_full_tail
from spectra.spectrum.spectrum import Spectrum


class SingularVectors:
    """What a layer keeps of its weight's spectrum.

    Args:
        module: its `weight` is what the spectrum is of.
        spectrum: on the CPU; not needed any more once vectors are made of it.
        both_sides: keep both sides of every direction from the beginning.
        without_weight: once there are vectors in one dtype, make those in others of them, not of the weight.

    Attributes:
        sigma: `[r]` on the weight's device, float32 or wider.
        both_sides: whether both sides of every direction are kept.
        converted: stored and other side, by dtype and device.
        generation: another number after each change of device or kind: what was made of them before is stale.
    """

    def __init__(
        self, module: nn.Module, spectrum: Spectrum, *, both_sides: bool, without_weight: bool = False
    ) -> None:
        self.spectrum, self.both_sides, self.generation = spectrum, both_sides, 0
        self._module, self._without_weight = module, without_weight
        weight: Tensor = module.weight  # type: ignore[assignment]
        self.sigma = spectrum.sigma.to(weight.device, torch.promote_types(weight.dtype, torch.float32))
        self.converted: dict[tuple[torch.dtype, torch.device], tuple[Tensor, Tensor]] = {}
        self._offsets: dict[tuple[torch.dtype, torch.device], Tensor] = {}

    @property
    def one_sided(self) -> int:
        """How many directions the basis serves alone."""
        return 0 if self.both_sides else self.spectrum.one_sided

    def follow(self) -> bool:
        """Go where the weight went. Returns whether it went anywhere."""
        weight: Tensor = self._module.weight  # type: ignore[assignment]
        if self.sigma.device == weight.device:
            return False
        self.sigma = self.sigma.to(weight.device)
        self._forget()
        return True

    def keep_other_side(self) -> None:
        """Keep both sides of every direction from now on."""
        self.both_sides = True
        self._forget()

    def _forget(self) -> None:
        self._offsets = {}
        self.generation += 1
        if not self._without_weight:
            self.converted = {}

    def of(self, dtype: torch.dtype) -> tuple[Tensor, Tensor, Tensor]:
        """The basis `[r, h]` of one-sided directions, `U [rows, k]` and `V [columns, k]` of the others, in `dtype`."""
        (stored_side, other_side), one_sided = self._known(dtype), self.one_sided
        basis, stored_side = stored_side[:, :one_sided], stored_side[:, one_sided:]
        return basis, *((stored_side, other_side) if self.spectrum.side == "left" else (other_side, stored_side))

    def offset(self, bias: Tensor | None, dtype: torch.dtype) -> Tensor | None:
        """`bias Q [h]`, for an activation that holds the bias."""
        if bias is None:
            return None
        key = (dtype, bias.device)
        if key in self._offsets:
            return self._offsets[key]
        offset = bias.detach().to(dtype) @ self.of(dtype)[0]
        if not torch.compiler.is_compiling():
            self._offsets[key] = offset
        return offset

    def _known(self, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
        """The stored side `[r, r]`, and the other side of the tail `[m, k]`, or of all directions `[m, r]`."""
        key = (dtype, self.sigma.device)
        if key in self.converted:
            return self.converted[key]
        device, spectrum = self.sigma.device, self.spectrum
        if self._without_weight and self.converted:
            sides = next(iter(self.converted.values()))
        else:
            if self.both_sides:
                spectrum = with_full_tail(spectrum.to(device), self._module.weight)  # type: ignore[arg-type]
            sides = spectrum.basis, spectrum.tail.T
        stored_side, other_side = (side.to(device, dtype) for side in sides)
        if kernels.uses_triton(stored_side):
            # By columns: any number of one-sided directions then has columns that are loaded 16 bytes at a time.
            stored_side = stored_side.T.contiguous().T
        if not torch.compiler.is_compiling():  # a graph that fills this would be compiled again when it is full
            self.converted[key] = stored_side, other_side
        return stored_side, other_side
