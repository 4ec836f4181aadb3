"""A base that doesn't fit one device: each process keeps a part of the denoiser's weights, and all of them lend each
other a block's while it computes (FSDP2). The shift's parameters are whole in each, and the two thin sides of spectra.

accelerate's launcher asks for it (`--use_fsdp --fsdp_version 2`), but its `prepare` takes every parameter of the
optimizer for one of the model's, and refuses those of a shift, which lie beside it. So the model's blocks are given to
PyTorch's `fully_shard`, as accelerate does.
"""

from __future__ import annotations

import os

import torch
from torch import nn

from spectra.adapters.training_adapter import Adapter
from spectra.errors import InputError
from spectra.training.config import TrainConfig
from spectra.training.form import check_directions, check_outer


def is_asked_for() -> bool:
    """Whether the launcher asks for it.

    Raises:
        InputError: for another way of taking a model apart, which is none for shifts.
    """
    for name in ("DEEPSPEED", "MEGATRON_LM"):
        if _is_on(f"ACCELERATE_USE_{name}"):
            raise InputError(f"{name.lower()} is not for shifts: expected plain processes, or --use_fsdp")
    if _is_on("ACCELERATE_USE_FSDP") and os.environ.get("FSDP_VERSION", "2") != "2":
        raise InputError(f"FSDP of version {os.environ['FSDP_VERSION']}: expected --fsdp_version 2")
    return _is_on("ACCELERATE_USE_FSDP")


def check_sharded(config: TrainConfig, concepts: int) -> None:
    """Refuse what needs a whole weight, or all of them before they are taken apart.

    Raises:
        InputError: it is asked for.
    """
    if config.directions == "all":
        raise InputError(
            "FSDP keeps a part of each weight in each process, and all its directions need the whole: move a few "
            "(--directions 32), or train outer terms alone (--directions 0 --outer 2)"
        )
    if check_directions(config.directions).by_gradient or check_outer(config.outer).budget:
        raise InputError(
            "FSDP: directions and outer terms cannot be chosen by gradient, which needs the base before it is taken "
            "apart; give numbers (--directions 32 --outer 2)"
        )
    if config.quantize:
        raise InputError(f"--quantize {config.quantize} and FSDP exclude each other; leave one of them out")
    if concepts > 1:
        raise InputError(f"FSDP trains one concept at a time, got {concepts}; train them one after the other")


def shard(model: nn.Module, adapter: Adapter, device: torch.device) -> None:
    """Take a model apart, in place: block by block, by the classes that it names itself, and then what is left.

    Args:
        adapter: of it, with its spectra; its parameters come to the device, whole.
        device: where this process keeps its part.
    """
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.fsdp import fully_shard

    adapter.shift()  # which takes the fingerprints that a shift file has, while there are whole weights
    adapter.apart = True
    for parameter in adapter.parameters():
        parameter.data = parameter.data.to(device)
    mesh = init_device_mesh(device.type, (torch.distributed.get_world_size(),))
    blocks = set(getattr(model, "_no_split_modules", None) or ())
    inner_first = reversed([module for module in model.modules() if type(module).__name__ in blocks])
    for module in [*inner_first, model]:
        fully_shard(module, mesh=mesh)


def _is_on(name: str) -> bool:
    return os.environ.get(name, "false").lower() in ("true", "1")
