"""What a norm, an activation or a feed-forward's projection keeps is enough to make their output again, bit for bit."""

from __future__ import annotations

import gc
import weakref
from collections.abc import Callable
from contextlib import ExitStack
from typing import Any

import pytest
import small_models
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint

from spectra.layers.saved_elsewhere import Remake, is_saved_elsewhere, recompute, to_save, watch

FEATURES = 16


def _diffusers(name: str, **config: Any) -> nn.Module:
    from diffusers.models import activations

    module: nn.Module = getattr(activations, name)(FEATURES, 24, **config)
    return module


def _transformers(name: str) -> nn.Module:
    from transformers import activations

    module: nn.Module = getattr(activations, name)()
    return module


class CallsIt(nn.Module):
    """A module that is called within another one, behind a layer."""

    def __init__(self, *inner: nn.Module) -> None:
        super().__init__()
        self.layer, self.inner = nn.Linear(FEATURES, FEATURES), nn.Sequential(*inner)

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.inner(self.layer(x))
        return y


MAKERS: dict[str, Callable[[], nn.Module]] = {
    "layer norm": lambda: nn.LayerNorm(FEATURES),
    "SiLU": nn.SiLU,
    "GELU": nn.GELU,
    "GELU by tanh": lambda: nn.GELU(approximate="tanh"),
    "Mish": nn.Mish,
    "SiLU of a norm": lambda: nn.Sequential(nn.LayerNorm(FEATURES), nn.SiLU()),
    "no dropout": lambda: nn.Sequential(nn.SiLU(), nn.Dropout(0.0).train()),
    "dropout in eval": lambda: nn.Sequential(nn.LayerNorm(FEATURES), nn.Dropout(0.5).eval(), nn.Identity()),
    "GEGLU": lambda: _diffusers("GEGLU"),
    "SwiGLU": lambda: _diffusers("SwiGLU"),
    "projected GELU": lambda: _diffusers("GELU"),
    "projected GELU by tanh": lambda: _diffusers("GELU", approximate="tanh"),
    "approximate GELU": lambda: _diffusers("ApproximateGELU"),
    "projected SiLU": lambda: _diffusers("LinearActivation"),
    **{
        name: lambda name=name: _transformers(name)  # type: ignore[misc]
        for name in ("GELUActivation", "GELUTanh", "NewGELUActivation", "QuickGELUActivation", "SiLUActivation")
    },
}
"""What makes a tensor of what it keeps."""


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("kind", MAKERS)
def test_the_same_bits_of_what_autograd_keeps(kind: str, dtype: torch.dtype) -> None:
    torch.manual_seed(0)
    model = CallsIt(MAKERS[kind]()).to(dtype)
    kept: set[int] = set()

    def note(tensor: Tensor) -> Tensor:
        kept.add(tensor.untyped_storage()._cdata)
        return tensor

    end = watch([model])
    with torch.autograd.graph.saved_tensors_hooks(note, lambda tensor: tensor):
        x = model(torch.randn(3, 5, FEATURES, dtype=dtype, requires_grad=True))
    end()
    assert is_saved_elsewhere(x)
    saved, remake = to_save(x)
    assert saved.untyped_storage()._cdata in kept and remake is not None
    with torch.no_grad():
        assert torch.equal(recompute(remake, saved), x)


def test_an_rms_norm_keeps_its_input_in_full_precision_only() -> None:
    """In half precision PyTorch's keeps a copy of it in float32, unless all of it is one kernel."""
    model = CallsIt(nn.RMSNorm(FEATURES))
    end = watch([model])
    x = model(torch.randn(3, FEATURES))
    saved, remake = to_save(x)
    assert remake is not None and torch.equal(recompute(remake, saved), x)
    assert not is_saved_elsewhere(model.bfloat16()(torch.randn(3, FEATURES, dtype=torch.bfloat16)))
    end()


class OwnForward(nn.SiLU):
    """An activation in name."""

    def forward(self, x: Tensor) -> Tensor:
        return F.relu(x)


NOT_MADE: dict[str, Callable[[], nn.Module]] = {
    "in place": lambda: nn.SiLU(inplace=True),
    "changed in place": lambda: nn.Sequential(nn.GELU(), nn.ReLU(inplace=True)),
    "dropout": lambda: nn.Sequential(nn.SiLU(), nn.Dropout(0.5).train()),
    "a forward of its own": OwnForward,
    "another function": nn.Tanh,
}


@pytest.mark.parametrize("kind", NOT_MADE)
def test_what_is_not_made_again(kind: str) -> None:
    model = CallsIt(NOT_MADE[kind]())
    end = watch([model])
    x = model(torch.randn(3, FEATURES))
    end()
    assert not is_saved_elsewhere(x)
    saved, remake = to_save(x)
    assert saved is x and recompute(remake, saved) is x


def test_not_without_a_gradient_and_not_after_the_end() -> None:
    model = CallsIt(_diffusers("GEGLU"), nn.SiLU())
    end = watch([model])
    with torch.no_grad():
        assert not is_saved_elsewhere(model(torch.randn(3, FEATURES)))
    end()
    assert not is_saved_elsewhere(model(torch.randn(3, FEATURES)))


def test_a_source_that_was_changed_in_place() -> None:
    model = CallsIt(nn.GELU())
    end, sources = watch([model]), []
    model.layer.register_forward_hook(lambda module, args, output: sources.append(output))
    x = model(torch.randn(3, FEATURES))
    end()
    assert is_saved_elsewhere(x) and is_saved_elsewhere(sources[0])
    with torch.no_grad():
        sources[0].add_(1)
    assert not is_saved_elsewhere(x) and not is_saved_elsewhere(sources[0])


def test_under_autocast_and_outside_of_it() -> None:
    """What a norm widened is no source of it; what was made under autocast is made again as under autocast."""
    torch.manual_seed(0)
    norm = nn.LayerNorm(FEATURES)
    norm.forward = lambda x: nn.LayerNorm.forward(norm, x.float()) @ norm.weight.diag()  # type: ignore[method-assign]
    model = CallsIt(norm, nn.SiLU(), _diffusers("GEGLU"))
    end = watch([model])
    with torch.autocast("cpu", torch.bfloat16):
        narrow = model.layer(torch.randn(3, FEATURES))
        made = [norm(narrow), *(inner(narrow) for inner in model.inner[1:])]
        wide = narrow.float()
        assert not is_saved_elsewhere(norm(wide)) and not is_saved_elsewhere(wide)
    end()
    for x in made:
        saved, remake = to_save(x)
        assert is_saved_elsewhere(x) and remake is not None
        assert torch.equal(recompute(remake, saved), x) and x.dtype == torch.bfloat16


class _Outer(torch.autograd.Function):
    """`y + a (b . x)`, whose backward wants `x`."""

    @staticmethod
    def forward(ctx: Any, y: Tensor, x: Tensor, a: Tensor, b: Tensor) -> Tensor:
        saved, ctx.remake = to_save(x)
        ctx.save_for_backward(saved, a, b)
        return y + (x @ b)[..., None] * a

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        (saved, a, b), (grad,) = ctx.saved_tensors, grads
        x, back = recompute(ctx.remake, saved), grad @ a
        a_gradient = (grad * (x @ b)[..., None]).flatten(0, -2).sum(0)
        return grad, back[..., None] * b, a_gradient, (x * back[..., None]).flatten(0, -2).sum(0)


def _with_terms(model: nn.Module, ends: ExitStack) -> list[nn.Parameter]:
    """Give every Linear of the model a trained outer term until `ends`."""
    parameters = []
    for module in [module for module in model.modules() if isinstance(module, nn.Linear)]:
        a, b = (nn.Parameter(torch.randn(n) / 10) for n in module.weight.shape)

        def forward(x: Tensor, module: nn.Linear = module, a: Tensor = a, b: Tensor = b) -> Tensor:
            out: Tensor = _Outer.apply(F.linear(x, module.weight, module.bias), x, a, b)  # type: ignore[no-untyped-call]
            return out

        module.forward = forward  # type: ignore[method-assign]
        ends.callback(lambda module=module: module.__dict__.pop("forward"))
        parameters += [a, b]
    return parameters


@pytest.mark.parametrize("checkpointed", [False, True])
@pytest.mark.parametrize("kind", ["unet", "sdxl_unet", "sd3_transformer", "flux_transformer", "clip_text"])
def test_gradients_of_whole_models_are_the_same_bits(kind: str, checkpointed: bool) -> None:
    torch.manual_seed(0)
    model, call = getattr(small_models, kind)()
    model.requires_grad_(False).train()
    if checkpointed:
        model.gradient_checkpointing_enable() if kind == "clip_text" else model.enable_gradient_checkpointing()
    found = []
    with ExitStack() as ends:
        parameters = _with_terms(model, ends)
        for watched in (False, True):
            end = watch([model]) if watched else lambda: None
            found.append(torch.autograd.grad(call().sin().sum(), parameters, allow_unused=True))
            end()
    assert sum(gradient is not None for gradient in found[0]) > 20
    for wanted, gradient in zip(*found, strict=True):
        assert (wanted is None) == (gradient is None)
        assert wanted is None or torch.equal(wanted, gradient)


@pytest.mark.parametrize("checkpointed", [False, True])
def test_nothing_is_held_past_the_backward_pass_nor_through_a_checkpoint(checkpointed: bool) -> None:
    model = CallsIt(nn.LayerNorm(FEATURES), nn.SiLU(), nn.Linear(FEATURES, FEATURES))
    alive: list[weakref.ref[Any]] = []
    model.layer.register_forward_hook(lambda module, args, output: alive.append(weakref.ref(output.untyped_storage())))
    with ExitStack() as ends:
        parameters = _with_terms(model.inner, ends)
        ends.callback(watch([model]))
        x = torch.randn(3, FEATURES, requires_grad=True)
        y = checkpoint(model, x, use_reentrant=False) if checkpointed else model(x)
        gc.collect()
        held = [ref() is not None for ref in alive]
        assert held == [not checkpointed]
        y.sum().backward()
        gc.collect()
    assert all(parameter.grad is not None for parameter in parameters)
    assert not any(ref() is not None for ref in alive), "the loss is still there, and what made it is not"


def test_remake_is_a_function_of_what_is_saved() -> None:
    """It is called in a pass that may hold other tensors: a checkpoint's, or offloaded and back."""
    model = CallsIt(_diffusers("SwiGLU"))
    end = watch([model])
    x = model(torch.randn(3, FEATURES))
    end()
    remake: Remake | None
    saved, remake = to_save(x)
    other = torch.randn_like(saved)
    hidden, gate = other.chunk(2, -1)
    assert torch.equal(recompute(remake, other), hidden * F.silu(gate))
