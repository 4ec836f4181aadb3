"""Loaded shifts under the names that diffusers has for LoRAs, for code that was written for these.

load_lora_weights(..., adapter_name=)   spectra.load(pipe, ..., adapter_name=)
set_adapters                            spectra.set_adapters, or spectra.activate
get_active_adapters, get_list_adapters  as here, or spectra.loaded
delete_adapters, unload_lora_weights    spectra.delete_adapters, spectra.unload
disable_lora, enable_lora               spectra.disable, spectra.enable
fuse_lora, unfuse_lora                  spectra.fuse, spectra.unfuse
save_lora_weights                       spectra.save
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from spectra.adapters.adapter_weights import AdapterWeights
from spectra.adapters.loaded_shifts import activate, unload
from spectra.adapters.served_pipeline import Served
from spectra.errors import MismatchError


def set_adapters(
    pipe: Any,
    adapter_names: str | Sequence[str],
    adapter_weights: AdapterWeights | Sequence[AdapterWeights | None] | None = None,
) -> None:
    """Put exactly these shifts in force, as `activate` does.

    Args:
        pipe: as given to `load`.
        adapter_names: one or several.
        adapter_weights: one for all, or a list with one for each: a number, or a mapping of components and blocks (see
            `adapter_weights`); 1 by default.

    Raises:
        As `activate`, and MismatchError for another number of weights than of names.
    """
    names = [adapter_names] if isinstance(adapter_names, str) else list(adapter_names)
    several = isinstance(adapter_weights, Sequence)
    given = list(adapter_weights) if isinstance(adapter_weights, Sequence) else [adapter_weights] * len(names)
    if several and len(given) != len(names):
        raise MismatchError(f"expected a weight for each of {len(names)} shifts, got {len(given)}")
    activate(pipe, {name: 1.0 if each is None else each for name, each in zip(names, given, strict=True)})


def get_active_adapters(pipe: Any) -> list[str]:
    """The names of the shifts that are active, also while they are disabled."""
    return list(dict.fromkeys(name for _, state in Served(pipe) for name in state.active))


def get_list_adapters(pipe: Any) -> dict[str, list[str]]:
    """The names of the loaded shifts, by the component that they change."""
    return {state.component: list(state.shifts) for _, state in Served(pipe) if state.shifts}


def delete_adapters(pipe: Any, adapter_names: str | Sequence[str]) -> None:
    """Forget shifts, as `unload` does with one.

    Raises:
        As `unload`.
    """
    names = [adapter_names] if isinstance(adapter_names, str) else list(adapter_names)
    served = Served(pipe)
    for name in names:
        served.check_loaded(name)
    for name in names:
        unload(pipe, name)
