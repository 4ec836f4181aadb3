"""What other programs have done to a live model that leaves a shift no place: fused a LoRA, offloaded to disk."""

from __future__ import annotations

from collections.abc import Collection

from torch import nn

from spectra.errors import MismatchError, WeightError


def every_module(model: nn.Module) -> list[nn.Module]:
    """The model and all modules in it, as `model.modules()` in a tenth of the time; one at several paths several times.

    A hot swap looks through the model three times.
    """
    found = [model]
    for module in found:  # which grows meanwhile
        if module._modules:
            found += [child for child in module._modules.values() if child is not None]
    return found


def check_no_fused_lora(model: nn.Module, touched: Collection[nn.Module]) -> None:
    """Raise a MismatchError if a LoRA is fused into the weight of a module that a shift changes.

    Args:
        touched: modules that hold the weights.
    """
    for module in every_module(model) if touched else ():
        base = module._modules.get("base_layer")
        if base is not None and base in touched and getattr(module, "merged_adapters", None):
            raise MismatchError(
                f"LoRA {module.merged_adapters[0]!r} is fused into this model; call pipe.unfuse_lora() "  # type: ignore[index]
                "before a shift is loaded, changed or unloaded, and fuse it again afterwards"
            )


def check_not_on_disk(model: nn.Module) -> None:
    """Raise a WeightError if group offloading keeps weights on disk: what is written into them in memory is lost."""
    for module in every_module(model):
        offloading = module.__dict__.get("_diffusers_hook")
        for hook in () if offloading is None else offloading.hooks.values():
            if getattr(getattr(hook, "group", None), "offload_to_disk_path", None):
                raise WeightError(
                    "weights are offloaded to disk; load the pipeline again, and offload it once shifts are active"
                )
