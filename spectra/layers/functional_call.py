"""A live module called with other parameters than its own, and the dtype in which it computes."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn


def with_parameters(
    module: nn.Module, parameters: Mapping[str, Tensor | nn.Module | None], *args: Any, **kwargs: Any
) -> Tensor:
    """The module's own forward with some parameters, or inner modules, replaced; the module itself stays untouched."""
    out: Tensor = type(module).forward(_View(module, parameters) if parameters else module, *args, **kwargs)
    return out


class _View:
    """A module seen with other parameters: what a forward takes for `self`. torch.compile follows it."""

    def __init__(self, module: nn.Module, parameters: Mapping[str, Tensor | nn.Module | None]) -> None:
        self._module = module
        self._replaced = parameters

    def __getattr__(self, name: str) -> Any:
        return self._replaced[name] if name in self._replaced else getattr(self._module, name)


def cast_for_compute(x: Tensor, weight: Tensor) -> tuple[Tensor, torch.dtype]:
    """`x` in the dtype in which the layer computes, and that dtype; a gather of rows stays in the table's."""
    dtype = weight.dtype
    if x.is_floating_point() and not weight.is_meta and torch.is_autocast_enabled(weight.device.type):
        dtype = torch.get_autocast_dtype(weight.device.type)
        x = x.to(dtype)
    return x, dtype
