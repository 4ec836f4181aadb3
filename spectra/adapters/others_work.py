"""What other programs have done to a live model that leaves a shift no place: fused a LoRA, offloaded to disk."""

from __future__ import annotations

from collections.abc import Collection, Iterator

from torch import nn

from spectra.errors import MismatchError, WeightError


def every_module(model: nn.Module) -> Iterator[nn.Module]:
    """The model and all modules in it, as `model.modules()` in a fifth of the time; one at several paths several times.

    A hot swap looks through the model three times.
    """
    found = [model]
    while found:
        module = found.pop()
        yield module
        found += [child for child in module._modules.values() if child is not None]


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
        for hook in getattr(vars(module).get("_diffusers_hook"), "hooks", {}).values():
            if getattr(getattr(hook, "group", None), "offload_to_disk_path", None):
                raise WeightError(
                    "weights are offloaded to disk; load the pipeline again, and offload it once shifts are active"
                )
