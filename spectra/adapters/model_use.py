"""Models that are in use: two adapters must not change the same one."""

from __future__ import annotations

from collections.abc import Mapping
from weakref import WeakKeyDictionary

from torch import nn

from spectra.errors import MismatchError

_ATTACHED: WeakKeyDictionary[nn.Module, str] = WeakKeyDictionary()
"""Models whose forwards or weights are ours at the moment, and what for."""


def claim(models: Mapping[str, nn.Module], use: str) -> None:
    """Note that `models` are about to be changed for `use`; raise a MismatchError if another use has not ended."""
    for name, model in models.items():
        if model in _ATTACHED:
            end = "adapter.detach()" if _ATTACHED[model] == "training" else "spectra.unload(pipe)"
            raise MismatchError(f"{name} is already in use for {_ATTACHED[model]}; call {end} first")
    _ATTACHED.update((model, use) for model in models.values())


def release(models: Mapping[str, nn.Module]) -> None:
    """Note the end of the use that `claim` noted."""
    for model in models.values():
        _ATTACHED.pop(model, None)
