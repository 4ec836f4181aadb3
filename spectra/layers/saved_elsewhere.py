"""What the modules around a layer keep for their own backward, so that the layer need not keep it a second time.

A norm, an activation, a feed-forward's projection keep what they took, and make their output of it in one pass. A layer
behind one of them that wants its own input in the backward pass saves what is kept there already, and lets the module
make the input again: the same bits. Fused attention keeps its output.

    norm            keeps its input                  group, layer and RMS norms
    activation      keeps its input                  SiLU, GELU, Mish; CLIP's quick GELU and its kin
    gated           keeps its projection's output    GEGLU, SwiGLU and the other activations of diffusers' feed-forward

What such a module keeps itself may have been made by another: an activation keeps a norm's output, a gated one its
gate's, a modulated norm its norm's. Each of these lets go of it, too, and makes it again on the way back.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from contextlib import ExitStack
from functools import partial
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils import checkpoint

from spectra.layers.functional_call import with_parameters

NORMS = (nn.LayerNorm, nn.GroupNorm, nn.RMSNorm)

ACTIVATIONS = (nn.SiLU, nn.GELU, nn.Mish)

OTHER_ACTIVATIONS = frozenset(
    f"transformers.activations.{name}"
    for name in ("GELUActivation", "GELUTanh", "NewGELUActivation", "QuickGELUActivation", "SiLUActivation")
)
"""Classes that need not be there; all keep their input."""

PROJECTING = "diffusers.models.activations"
"""Where the activations are whose first step is their own layer `proj`, of which they keep what it returns."""

_MADE, _KEPT = "_spectra_made", "_spectra_kept"
"""Attributes of the tensors that a watched module returned and took; they end with the tensors."""

_COMPUTED_AGAIN = "_spectra_computed_again"
"""Attribute of our own hooks: whether checkpointing, beneath them, keeps nothing of what they save."""

Remake = Callable[[Tensor], Tensor]


class Made(NamedTuple):
    """How a tensor was made, of what, and the versions of both tensors at that time."""

    remake: Remake
    source: Tensor
    source_version: int
    version: int


def watch(models: Iterable[nn.Module], *, norms: bool = True) -> Callable[[], None]:
    """Let the modules of the models mark what they take and return, until the function that is returned is called.

    Args:
        norms: whether norms do, too: not where one asks whose sample it has, and cannot be called again later.
    """
    hooks = ExitStack()
    for module in [module for model in models for module in model.modules()]:
        if (norms and _is_one_of(module, NORMS)) or _keeps_input(module):
            hooks.callback(module.register_forward_hook(_mark_called).remove)
        elif type(module).__module__ == PROJECTING and isinstance(getattr(module, "proj", None), nn.Module):
            _watch_projection(module, module.proj, hooks)  # type: ignore[arg-type]
        if _keeps_input(module) or type(module).__module__ == PROJECTING or _modulates(module):
            _let_go(module, hooks)
    return hooks.close


def _is_one_of(module: nn.Module, classes: tuple[type[nn.Module], ...]) -> bool:
    """Whether the module's forward is that of one of the classes, in which a subclass may do what it likes."""
    return any(type(module).forward is its.forward for its in classes)


def _keeps_input(module: nn.Module) -> bool:
    kind = type(module)
    return _is_one_of(module, ACTIVATIONS) or f"{kind.__module__}.{kind.__qualname__}" in OTHER_ACTIVATIONS


def _modulates(module: nn.Module) -> bool:
    """Whether it has a norm without a scale, which it scales itself by what it knows of time and prompt."""
    return any(isinstance(child, nn.LayerNorm) and not child.elementwise_affine for child in module.children())


def _watch_projection(module: nn.Module, projection: nn.Module, hooks: ExitStack) -> None:
    """Mark what a module returns as made of what its `projection` returned."""
    projected: list[Tensor] = []
    after_projection = partial(with_parameters, module, {"proj": nn.Identity()})

    def note(_: nn.Module, args: tuple[Any, ...], output: Tensor) -> None:
        if not torch.compiler.is_compiling():
            projected[:] = [output]

    def mark(_: nn.Module, args: tuple[Any, ...], output: Tensor) -> None:
        if not torch.compiler.is_compiling() and projected:
            _mark(output, projected.pop(), after_projection)

    hooks.callback(projection.register_forward_hook(note).remove)
    hooks.callback(module.register_forward_hook(mark).remove)


def _let_go(module: nn.Module, hooks: ExitStack) -> None:
    """Let autograd keep, of what the module's forward saves, that of which a watched module made it."""
    if not hasattr(torch._C._autograd, "_top_saved_tensors_default_hooks"):
        return  # before torch 2.7 nothing tells whose hooks are in force, and a checkpoint's must be
    within: list[torch.autograd.graph.saved_tensors_hooks] = []

    def enter(_: nn.Module, args: tuple[Any, ...]) -> None:
        if not torch.compiler.is_compiling() and torch.is_grad_enabled():
            within.append(_SavedSources())
            within[-1].__enter__()

    def leave(_: nn.Module, args: tuple[Any, ...], output: Any) -> None:
        if not torch.compiler.is_compiling() and within:
            within.pop().__exit__()

    hooks.callback(module.register_forward_pre_hook(enter).remove)
    hooks.callback(module.register_forward_hook(leave, always_call=True).remove)


class _SavedSources(torch.autograd.graph.saved_tensors_hooks):
    """Saves what `to_save` tells in place of a tensor, by the hooks that were in force already, if there were any."""

    def __init__(self) -> None:
        outer = torch._C._autograd._top_saved_tensors_default_hooks(True)  # checkpoints, or offloading to the CPU
        pack, unpack = outer or (Tensor.detach, None)

        def save(x: Tensor) -> Saved:
            source, remake = to_save(x)
            return Saved(pack(source), source._version, remake)

        def restore(saved: Saved) -> Tensor:
            source = saved.held if unpack is None else unpack(saved.held)
            if unpack is None and source._version != saved.version:
                raise RuntimeError(
                    "a tensor that the gradient needs has been modified by an inplace operation: it is at version "
                    f"{source._version}, expected version {saved.version}"
                )
            return recompute(saved.remake, source)

        save.__dict__[_COMPUTED_AGAIN] = outer is not None and _is_checkpointing(outer[0])
        super().__init__(save, restore)


def _is_checkpointing(pack: Any) -> bool:
    """Whether a hook is that of PyTorch's checkpointing, or ours over it."""
    return getattr(pack, _COMPUTED_AGAIN, getattr(pack, "__module__", "") == checkpoint.__name__)


class Saved(NamedTuple):
    """What is held for a saved tensor: its source, as an outer hook packed it, and how it is made of that."""

    held: Any
    version: int
    remake: Remake | None


def _mark_called(module: nn.Module, args: tuple[Any, ...], output: Tensor) -> None:
    # In half precision an RMS norm that is no single kernel keeps a copy of its input in float32.
    keeps_a_copy = isinstance(module, nn.RMSNorm) and output.element_size() < 4 and "Fused" not in str(output.grad_fn)
    if len(args) == 1 and not keeps_a_copy:
        _mark(output, args[0], module.forward)


def _mark(output: Tensor, source: Tensor, remake: Remake) -> None:
    """Note that autograd keeps `source`, of which `output` can be made again."""
    changed_in_place = output is source
    keeps_a_copy = source.dtype != output.dtype  # as a norm under autocast, which widens its input
    if torch.compiler.is_compiling() or not output.requires_grad or changed_in_place or keeps_a_copy:
        return
    setattr(source, _KEPT, source._version)
    kept = source.detach()  # which shares its version
    earlier = how_made(source)
    if earlier is not None:
        setattr(kept, _MADE, earlier)
    setattr(output, _MADE, Made(_under_the_same_autocast(remake, source), kept, source._version, output._version))


def _under_the_same_autocast(remake: Remake, source: Tensor) -> Remake:
    """`remake` as it computes now, in the backward pass too, which is mostly outside of autocast."""
    device = source.device.type
    if source.is_meta or not torch.is_autocast_enabled(device):
        return remake
    dtype = torch.get_autocast_dtype(device)

    def again(saved: Tensor) -> Tensor:
        with torch.autocast(device, dtype):
            return remake(saved)

    return again


def is_saved_elsewhere(x: Tensor) -> bool:
    """Whether saving `x`, as `to_save` tells, takes no memory."""
    if torch.compiler.is_compiling():
        return False
    return how_made(x) is not None or getattr(x, _KEPT, None) == x._version or _from_attention(x)


def _from_attention(x: Tensor) -> bool:
    """Whether `x` is a view of what fused attention returned."""
    whole = x._base
    return whole is not None and whole.grad_fn is not None and whole.grad_fn.name().startswith("ScaledDotProduct")


def how_made(x: Tensor) -> Made | None:
    """How a watched module made `x`; None if none did, or if `x` or its source was changed in place since."""
    if torch.compiler.is_compiling():
        return None
    made: Made | None = getattr(x, _MADE, None) or _made_by_gelu(x)
    if made is None or (made.version, made.source_version) != (x._version, made.source._version):
        return None
    return made


def _made_by_gelu(x: Tensor) -> Made | None:
    """How `x` was made, if that was by the function that a feed-forward's gate goes through, which keeps its input."""
    node = x.grad_fn
    if node is None or node.name() != "GeluBackward0":
        return None
    in_force = torch._C._autograd._top_saved_tensors_default_hooks(True)
    if in_force is not None and _is_checkpointing(in_force[0]):
        return None  # to ask what the node has saved would compute the whole block once more, and keep it
    try:
        source: Tensor = node._saved_self  # type: ignore[attr-defined]
    except RuntimeError:  # changed in place since
        return None
    remake = partial(F.gelu, approximate=node._saved_approximate)  # type: ignore[attr-defined]
    return Made(remake, source.detach(), source._version, x._version)


def to_save(x: Tensor) -> tuple[Tensor, Remake | None]:
    """What a layer saves for `x`, and how `x` is made of it again, if not as it is; see `recompute`."""
    made = how_made(x)
    if made is None:
        return x, None
    source, remake = to_save(made.source)
    return source, made.remake if remake is None else _one_after_the_other(remake, made.remake)


def _one_after_the_other(first: Remake, second: Remake) -> Remake:
    return lambda saved: second(first(saved))


def recompute(remake: Remake | None, saved: Tensor) -> Tensor:
    """`x` again, of what `to_save` gave."""
    return saved if remake is None else remake(saved)
