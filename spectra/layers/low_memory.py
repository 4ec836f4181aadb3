"""Training without the frozen weights in memory: each stands in a file until the end.

    adapter = spectra.attach(pipe, "unet", low_memory=True)

A layer keeps `U` and `V` of its weight instead of the weight itself, and computes the paper's formula on the fly,
`((x V) * ReLU(sigma + delta)) U^T`. No other plan is left: all of them start from the weight. The output is that of the
base up to rounding, at delta = 0 too; `detach` reads the weights back, bit for bit.
"""

from __future__ import annotations

import math
import tempfile
import weakref
from typing import Any

import torch
from torch import Tensor, nn

from spectra.errors import OutputError
from spectra.layers import plans
from spectra.layers.functional_call import computed
from spectra.layers.operators import operator_of
from spectra.layers.saved_elsewhere import is_saved_elsewhere
from spectra.spectrum.cache.settings import default_root
from spectra.spectrum.shifted_weight import singular_value_change, with_full_tail
from spectra.spectrum.spectrum import Spectrum, has_no_values


class Spool:
    """Parameters whose values are in a temporary file, in the folder of the spectrum cache; it ends with the process.

    Raises:
        OutputError: the file cannot be written.
    """

    def __init__(self) -> None:
        folder = default_root()
        try:
            folder.mkdir(parents=True, exist_ok=True)
            self._file = tempfile.TemporaryFile(dir=folder)  # noqa: SIM115
        except OSError as error:
            raise OutputError(f"cannot set weights aside in {folder}: {error.strerror or error}") from error
        weakref.finalize(self, self._file.close)
        self._places: dict[nn.Parameter, tuple[int, int, tuple[int, ...], torch.dtype]] = {}

    def take(self, parameter: nn.Parameter) -> None:
        """Write the values to the file. What stays is one NaN, in their place: using it is seen."""
        held = parameter.detach()
        if not has_no_values(held):
            values = held.cpu().contiguous().flatten().view(torch.uint8).numpy()
            start = self._file.seek(0, 2)
            try:
                self._file.write(values.tobytes())
                self._file.flush()
            except OSError as error:
                raise OutputError(f"cannot set a weight aside: {error.strerror or error}") from error
            self._places[parameter] = (start, len(values), held.stride(), held.dtype)
        parameter.data = held.new_full((1,), math.nan).expand(held.shape)

    def give_back(self, parameter: nn.Parameter) -> None:
        """Put the values back, on the device and in the precision that the parameter has now."""
        if parameter not in self._places:
            return
        start, size, strides, dtype = self._places.pop(parameter)
        self._file.seek(start)
        values = torch.frombuffer(bytearray(self._file.read(size)), dtype=dtype).reshape(parameter.shape)
        whole = torch.empty_strided(parameter.shape, strides, dtype=parameter.dtype, device=parameter.device)
        parameter.data = whole.copy_(values)


class TwoSidedLayer:
    """A module that computes `((x V) * ReLU(sigma + delta)) U^T`, and does not ask for its weight's values any more.

    Args:
        module: its weight still has values; its operator is known (`operators.operator_of`).
        spectrum: of that weight.
        delta: float32 `[r]`.

    Attributes:
        paused: compute with delta = 0 for a while.
        sides: `U [rows, r]` and `V [columns, r]`, in the weight's dtype.
    """

    def __init__(self, module: nn.Module, spectrum: Spectrum, delta: Tensor) -> None:
        weight: Tensor = module.weight  # type: ignore[assignment]
        self.module, self.delta, self.paused = module, delta, False
        operator = operator_of(module)
        if operator is None:
            raise TypeError(f"{type(module).__name__} is no plain operator")
        self._operator = operator
        full = with_full_tail(spectrum.to(weight.device), weight)
        near, far = full.basis.to(weight.dtype), full.tail.T.to(weight.dtype)
        self.sides = (near, far) if full.side == "left" else (far, near)
        self._sigma = full.sigma.to(torch.promote_types(weight.dtype, torch.float32))

    def forward(self, x: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        """What the module returns for `x`, up to rounding."""
        if args or kwargs:
            raise TypeError(f"{type(self.module).__name__} takes its input alone in low memory")
        weight: Tensor = self.module.weight  # type: ignore[assignment]
        self._follow(weight)
        free = is_saved_elsewhere(x)
        x, dtype = computed(x, weight)
        bias: Tensor | None = getattr(self.module, "bias", None)
        operator, (left, right) = self._operator, (side.to(dtype) for side in self.sides)
        delta = torch.zeros_like(self.delta) if self.paused else self.delta
        d = singular_value_change(self._sigma, delta)
        s = torch.relu(self._sigma + delta).detach()
        keep_input = operator.pointwise and free and x.dtype == weight.dtype
        return plans.two_sided(x, d, s, None, bias, left, right, operator, keep_input)

    def _follow(self, weight: Tensor) -> None:
        """Both sides go where the weight went."""
        if self._sigma.device != weight.device:
            self.sides = (self.sides[0].to(weight.device), self.sides[1].to(weight.device))
            self._sigma = self._sigma.to(weight.device)
