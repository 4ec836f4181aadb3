"""A live model's weight whose values are replaced in place, with the frozen ones kept beside.

The parameter stays the same object in the same memory. Whatever holds on to it goes on working, and sees the values in
force: compiled graphs, offloading, tied modules, `state_dict`. The model may be moved and cast meanwhile.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from functools import lru_cache

import torch
from torch import Tensor, nn

SAMPLED = 64
"""Values of a weight by which a change by another program is seen."""


class LiveWeight:
    """The weight of one module, or of several that share it.

    Attributes:
        frozen: the frozen values while others are in force, else None: then the modules have them.
    """

    def __init__(self, modules: Sequence[nn.Module]) -> None:
        self._modules = tuple(modules)
        self.frozen: nn.Parameter | None = None
        self._written: Tensor | None = None

    @property
    def parameter(self) -> Tensor:
        """What the modules have now: another object than before where a hook has replaced it."""
        weight: Tensor = self._modules[0].weight  # type: ignore[assignment]
        return weight

    def keep(self) -> None:
        """Keep the frozen values beside the parameter, which others are about to be written into."""
        parameter = self.parameter
        if self.frozen is None:
            with torch.inference_mode(parameter.is_inference()):
                self.frozen = nn.Parameter(parameter.detach().clone(), requires_grad=False)

    def write(self, values: Tensor) -> None:
        """Put values in force, in the precision and on the device that the parameter has now.

        Args:
            values: which may lie in the parameter's own memory already, once the frozen ones are kept.
        """
        self.keep()
        parameter = self.parameter
        if values.data_ptr() != parameter.data_ptr():
            _copy(values, parameter)
        self._written = sample(parameter)

    def restore(self) -> None:
        """Put the frozen values back, bit for bit, in the parameter's precision, and forget them."""
        if self.frozen is not None:
            _copy(self.frozen, self.parameter)
        self.frozen = self._written = None

    def follow(self) -> None:
        """Keep the frozen values on the device where the parameter is now."""
        if self.frozen is not None and self.frozen.device != self.parameter.device:
            self.frozen = nn.Parameter(self.frozen.detach().to(self.parameter.device), requires_grad=False)

    @property
    def written_by_others(self) -> bool:
        """Whether what was put in force is no longer there, rounding aside: a LoRA was fused into it, say."""
        if self._written is None:
            return False
        there, expected = sample(self.parameter), self._written
        eps = max(torch.finfo(each.dtype).eps for each in (there, expected))
        if (there.double() - expected.double()).norm() <= eps * expected.double().norm():
            return False
        # The model may have been in half precision in between, as with `pipe.to(dtype)` and then `from_pipe`.
        return not any(torch.equal(there, _through(expected, dtypes).to(there.dtype)) for dtypes in _HALVES)


_HALVES = tuple(dtypes for count in (1, 2) for dtypes in itertools.permutations((torch.float16, torch.bfloat16), count))
"""The ways on which a model may have been rounded."""


def _through(values: Tensor, dtypes: Sequence[torch.dtype]) -> Tensor:
    """The values, rounded to one dtype after the other."""
    for dtype in dtypes:
        values = values.to(dtype)
    return values


def sample(weight: Tensor) -> Tensor:
    """Up to `SAMPLED` of a weight's values, on the CPU, the same places each time, whatever its memory format."""
    places = _places(tuple(weight.shape))
    with torch.no_grad():
        return weight.detach()[tuple(each.to(weight.device) for each in places)].cpu()


@lru_cache(maxsize=1024)
def _places(shape: tuple[int, ...]) -> tuple[Tensor, ...]:
    """Indices of the sampled values, by dimension; spread over all rows and columns."""
    size = int(torch.tensor(shape).prod())
    flat = (torch.arange(min(size, SAMPLED)) * (size / max(min(size, SAMPLED), 1))).long()
    return torch.unravel_index(flat, shape)


def _copy(source: Tensor, target: Tensor) -> None:
    """Write values into a tensor, which may take a gradient, and may have been made in inference mode."""
    with torch.inference_mode(target.is_inference()), torch.no_grad():
        target.copy_(source)
