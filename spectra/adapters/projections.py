"""Attention whose projections diffusers fuses (`fuse_qkv_projections`): copies of weights that a shift may change.

Beside `to_q`, `to_k` and `to_v` an attention then has `to_qkv`, whose weight is a copy of theirs, and computes with it
alone. Where a shift is in the weights, the copy is made again after each change. Where it is beside them, as in
training, the copy would compute without it, so fusing is refused.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

import torch
from torch import nn

from spectra.adapters.others_work import every_module
from spectra.errors import MismatchError

_FUSED = {
    "to_qkv": ("to_q", "to_k", "to_v"),
    "to_kv": ("to_k", "to_v"),
    "to_added_qkv": ("add_q_proj", "add_k_proj", "add_v_proj"),
}


def refresh_fused(model: nn.Module) -> None:
    """Let fused projections be those of the weights that are in force."""
    for attention in _attentions(model):
        for fused, parts in _FUSED.items():
            if fused in attention._modules:
                rows = [attention.get_submodule(part).weight.detach() for part in parts]  # type: ignore[operator]
                with torch.no_grad():
                    attention.get_submodule(fused).weight.copy_(torch.cat(rows))  # type: ignore[operator]


def check_unfused(models: Iterable[nn.Module]) -> None:
    """Raise a MismatchError if projections are fused, before changes are put beside weights."""
    if any(_computes_fused(attention) for model in models for attention in _attentions(model)):
        raise MismatchError(
            "projections of attention are fused, which leaves no place for a change beside a weight; call "
            "pipe.unfuse_qkv_projections() first"
        )


def refuse_fusing(models: Iterable[nn.Module], refuse: bool) -> None:
    """Let models refuse to fuse projections, while changes are beside their weights, or no longer."""
    for attention in (each for model in models for each in _attentions(model)):
        if refuse:
            attention.__dict__["fuse_projections"] = _refuse
        else:
            attention.__dict__.pop("fuse_projections", None)


def _refuse(*_: Any, **__: Any) -> None:
    raise MismatchError(
        "projections cannot be fused while a shift computes beside their weights; call spectra.unload(pipe) or "
        "adapter.detach() first, or spectra.fuse(pipe), which puts the shift into the weights"
    )


def _attentions(model: nn.Module) -> Iterator[nn.Module]:
    return (module for module in every_module(model) if hasattr(type(module), "fuse_projections"))


def _computes_fused(attention: nn.Module) -> bool:
    """Whether it computes with fused projections now; those of a UNet stay beside when its processors do not."""
    if not vars(attention).get("fused_projections", False):
        return False
    processor = type(getattr(attention, "processor", None)).__name__
    return type(attention).__name__ != "Attention" or "Fused" in processor
