"""What the layers around one of ours keep for their own backward, so that ours need not keep it a second time.

A norm keeps its input, and can be called again. A layer after a norm that wants its own input in the backward pass
holds the norm's instead, and lets the norm make its own again: the same bits, for a pass over one activation. Fused
attention keeps its output.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from contextlib import ExitStack
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

NORMS = (nn.LayerNorm, nn.GroupNorm, nn.RMSNorm)

_NORM, _SAVED = "_spectra_norm", "_spectra_saved"
"""Attributes of the tensors that a watched norm returned and took; they end with the tensors."""


class ProducingNorm(NamedTuple):
    """The norm that made a tensor, of which input, and the versions of both tensors at that time."""

    norm: nn.Module
    input: Tensor
    input_version: int
    output_version: int


def watch(models: Iterable[nn.Module]) -> Callable[[], None]:
    """Let every norm of the models mark what it takes and returns, until the function that is returned is called."""
    hooks = ExitStack()
    for norm in (module for model in models for module in model.modules() if isinstance(module, NORMS)):
        hooks.callback(norm.register_forward_hook(_mark).remove)
    return hooks.close


def _mark(norm: nn.Module, args: tuple[Any, ...], output: Tensor) -> None:
    # Under autocast a norm widens its input: called again in the backward pass, outside of it, it would not.
    if torch.compiler.is_compiling() or not output.requires_grad or args[0].dtype != output.dtype:
        return
    x: Tensor = args[0]
    setattr(x, _SAVED, x._version)
    # Detached, it shares its version.
    setattr(output, _NORM, ProducingNorm(norm, x.detach(), x._version, output._version))


def is_saved_elsewhere(x: Tensor) -> bool:
    """Whether saving `x` takes no memory: a norm took it, or made it of what it took, or it is attention's output."""
    if torch.compiler.is_compiling():
        return False
    return producing_norm(x) is not None or getattr(x, _SAVED, None) == x._version or _from_attention(x)


def _from_attention(x: Tensor) -> bool:
    """Whether `x` is a view of what fused attention returned."""
    whole = x._base
    return whole is not None and whole.grad_fn is not None and whole.grad_fn.name().startswith("ScaledDotProduct")


def producing_norm(x: Tensor) -> ProducingNorm | None:
    """The norm that made `x`; None if none did, or if `x` or the norm's input was changed in place since."""
    made: ProducingNorm | None = None if torch.compiler.is_compiling() else getattr(x, _NORM, None)
    if made is None or (made.output_version, made.input_version) != (x._version, made.input._version):
        return None
    return made


def to_save(x: Tensor) -> tuple[Tensor, ProducingNorm | None]:
    """What a layer saves for `x`, and the norm that makes `x` of it again, if one did; see `recompute`."""
    made = producing_norm(x)
    return (x if made is None else made.input), made


def recompute(made: ProducingNorm | None, saved: Tensor) -> Tensor:
    """What the norm makes of its `saved` input, or without a norm what was saved itself."""
    return saved if made is None else made.norm.forward(saved)
