"""What the layers around one of ours keep for their own backward, so that ours need not keep it a second time.

A norm keeps its input, and can be called again. A layer after a norm that wants its own input in the backward pass
holds the norm's instead, and lets the norm make its own again: the same bits, for a pass over one activation. Fused
attention keeps its output.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor, nn

NORMS = (nn.LayerNorm, nn.GroupNorm, nn.RMSNorm)

_ORIGIN, _KEPT = "_spectra_origin", "_spectra_kept"
"""Attributes of the tensors that a watched norm returned and took; they end with the tensors."""


def watch(models: Iterable[nn.Module]) -> Callable[[], None]:
    """Let every norm of the models note what it takes and returns, until the result is called."""
    norms = [module for model in models for module in model.modules() if isinstance(module, NORMS)]
    handles = [norm.register_forward_hook(_note) for norm in norms]

    def end() -> None:
        for handle in handles:
            handle.remove()

    return end


def _note(norm: nn.Module, args: tuple[Any, ...], output: Tensor) -> None:
    # Under autocast a norm widens its input: called again in the backward pass, outside of it, it would not.
    if torch.compiler.is_compiling() or not output.requires_grad or args[0].dtype != output.dtype:
        return
    setattr(args[0], _KEPT, True)
    setattr(output, _ORIGIN, (norm, args[0].detach()))


def is_kept(x: Tensor) -> bool:
    """Whether holding `x` takes no memory: a norm took it, or made it of what it took, or it is attention's output."""
    return hasattr(x, _KEPT) or hasattr(x, _ORIGIN) or _from_attention(x)


def _from_attention(x: Tensor) -> bool:
    """Whether `x` is a view of what fused attention returned."""
    if torch.compiler.is_compiling():
        return False
    whole = x._base
    return whole is not None and whole.grad_fn is not None and whole.grad_fn.name().startswith("ScaledDotProduct")


def origin(x: Tensor) -> tuple[nn.Module | None, Tensor | None]:
    """The norm that made `x`, and what it made it of, if a norm did."""
    made: tuple[nn.Module | None, Tensor | None] = getattr(x, _ORIGIN, (None, None))
    return made


def remake(norm: nn.Module | None, held: Tensor) -> Tensor:
    """What is wanted of `held`: itself, or what the norm makes of it."""
    return held if norm is None else norm.forward(held)
