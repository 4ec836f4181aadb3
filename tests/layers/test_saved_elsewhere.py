"""What the layers around keep is not kept twice, and comes back bit for bit."""

from __future__ import annotations

import math
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint

import spectra
from spectra.layers.costs import Plan
from spectra.layers.saved_elsewhere import is_saved_elsewhere
from spectra.layers.shifted_layer import ShiftedLayer

FEATURES = 32

NORMED: dict[str, tuple[Callable[[], nn.Module], tuple[int, ...]]] = {
    "square": (lambda: nn.Sequential(nn.LayerNorm(FEATURES), nn.Linear(FEATURES, FEATURES)), (40, FEATURES)),
    "wide": (lambda: nn.Sequential(nn.LayerNorm(FEATURES), nn.Linear(FEATURES, 20)), (40, FEATURES)),
    "tall": (lambda: nn.Sequential(nn.LayerNorm(FEATURES), nn.Linear(FEATURES, 64)), (40, FEATURES)),
    "conv": (lambda: nn.Sequential(nn.GroupNorm(4, FEATURES), nn.Conv2d(FEATURES, FEATURES, 1)), (2, FEATURES, 6, 6)),
}

KEPT: list[tuple[str, Plan]] = [
    ("square", "materialized"),
    ("wide", "materialized"),
    ("tall", "materialized"),
    ("conv", "materialized"),
]
"""Layers behind a norm with the plans that want their input in the backward pass."""


def settle(layer: ShiftedLayer, plan: Plan | None, run: Callable[[], Tensor]) -> None:
    """Let the layer take a plan; a square one keeps both sides first."""
    if layer.spectrum.shape[0] == math.prod(layer.spectrum.shape[1:]):
        layer.plan = "two-sided"
        run()
    layer.plan = plan
    run()


def gradients(kind: str, plan: Plan, run: Callable[..., Tensor], *, watched: bool) -> tuple[list[Tensor], int]:
    """Of the delta, the norm's delta and the input; and the bytes of activations kept besides the input."""
    torch.manual_seed(0)
    make, shape = NORMED[kind]
    model = make()
    x = torch.randn(shape, requires_grad=True)
    adapter = spectra.attach({"unet": model}, "unet.*")
    if not watched:
        adapter._watches.close()
    deltas = adapter.train().by_key
    with torch.no_grad():
        for delta in deltas.values():
            delta += 0.01 * torch.randn(delta.shape)
    (layer,) = adapter.layers()
    settle(layer, plan, lambda: model(x))
    known = {x.untyped_storage()._cdata}
    sizes: dict[int, int] = {}

    def note(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if storage._cdata not in known and tensor.shape[:1] == shape[:1] and tensor.numel() >= x.numel() // 2:
            sizes[storage._cdata] = storage.nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(note, lambda tensor: tensor):
        y = run(model, x)
    found = list(torch.autograd.grad(y.sin().sum(), [*deltas.values(), x]))
    sizes.pop(y.untyped_storage()._cdata, None)
    adapter.detach()
    return found, sum(sizes.values())


@pytest.mark.parametrize(("kind", "plan"), KEPT)
def test_a_norm_makes_the_input_again(kind: str, plan: Plan) -> None:
    plain, more = gradients(kind, plan, lambda model, x: model(x), watched=False)
    ours, fewer = gradients(kind, plan, lambda model, x: model(x), watched=True)
    assert fewer == 0 and (more > 0 or (kind, plan) == ("wide", "materialized"))  # which keeps its output otherwise
    again, _ = gradients(kind, plan, lambda model, x: checkpoint(model, x, use_reentrant=False), watched=True)
    for mine, theirs, checkpointed in zip(ours, plain, again, strict=True):
        torch.testing.assert_close(mine, theirs, rtol=1e-4, atol=1e-5 * float(theirs.abs().max()))
        assert torch.equal(mine, checkpointed)


def learned(model: nn.Module, x: Tensor, plan: Plan | None, *, watched: bool) -> Tensor:
    """The gradient of the delta of the model's one layer with a matrix."""
    adapter = spectra.attach({"unet": model}, "unet.*")
    adapter.train()
    if not watched:
        adapter._watches.close()
    (layer,) = adapter.layers()
    settle(layer, plan, lambda: model(x))
    (gradient,) = torch.autograd.grad(model(x).sin().sum(), layer.delta)
    adapter.detach()
    return gradient


@pytest.mark.parametrize(("kind", "plan"), [*KEPT, *[(kind, None) for kind in NORMED]])
def test_a_tensor_that_was_changed_in_place_is_not_what_the_norm_made(kind: str, plan: Plan | None) -> None:
    torch.manual_seed(0)
    make, shape = NORMED[kind]
    norm, layer = make()
    x = torch.randn(shape, requires_grad=True)
    wanted = learned(nn.Sequential(norm, nn.ReLU(), layer), x, plan, watched=False)
    found = learned(nn.Sequential(norm, nn.ReLU(inplace=True), layer), x, plan, watched=True)
    torch.testing.assert_close(found, wanted, rtol=1e-4, atol=1e-5 * float(wanted.abs().max()))


@pytest.mark.parametrize("kind", NORMED)
@pytest.mark.parametrize("inplace", [False, True])
def test_in_low_memory_too(kind: str, inplace: bool) -> None:
    torch.manual_seed(0)
    make, shape = NORMED[kind]
    norm, layer = make()
    x, found = torch.randn(shape, requires_grad=True), []
    for watched in (False, True):
        model = nn.Sequential(norm, nn.ReLU(inplace), layer) if inplace else nn.Sequential(norm, layer)
        adapter = spectra.attach({"unet": model}, "unet.*", low_memory=True)
        adapter.train()
        if not watched:
            adapter._watches.close()
        (shifted,) = adapter.layers()
        found.append(torch.autograd.grad(model(x).sin().sum(), shifted.delta)[0])
        adapter.detach()
    torch.testing.assert_close(*found, rtol=1e-4, atol=1e-5 * float(found[0].abs().max()))


class ChangesItsInput(nn.Module):
    """A norm and a layer; the norm's input is changed in place before the layer, or after it."""

    def __init__(self, *, early: bool) -> None:
        super().__init__()
        self.norm, self.layer, self.early = nn.LayerNorm(FEATURES), nn.Linear(FEATURES, FEATURES), early

    def forward(self, x: Tensor) -> Tensor:
        x = x * 1
        y = self.norm(x)
        if self.early:
            x += 1
        z: Tensor = self.layer(y)
        if not self.early:
            x += 1
        return z


def test_the_norms_input_may_change_before_the_layer_and_not_after() -> None:
    plan: Plan = "materialized"
    torch.manual_seed(0)
    x, model = torch.randn(40, FEATURES, requires_grad=True), ChangesItsInput(early=True)
    wanted = learned(model, x, plan, watched=False)
    torch.testing.assert_close(learned(model, x, plan, watched=True), wanted, rtol=1e-4, atol=1e-5)
    model.early = False
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        learned(model, x, plan, watched=True)


def test_a_norm_that_is_called_twice_makes_each_input_again() -> None:
    torch.manual_seed(0)

    class Twice(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.norm, self.layer = nn.LayerNorm(FEATURES), nn.Linear(FEATURES, FEATURES)

        def forward(self, x: Tensor) -> Tensor:
            first, second = self.norm(x), self.norm(x * 2 + 1)
            y: Tensor = self.layer(first) + self.layer(second).cos()
            return y

    model, x = Twice(), torch.randn(40, FEATURES, requires_grad=True)
    found = [learned(model, x, "materialized", watched=watched) for watched in (False, True)]
    torch.testing.assert_close(*found, rtol=1e-4, atol=1e-5)


def test_who_is_known_to_keep() -> None:
    model = nn.Sequential(nn.LayerNorm(8), nn.Linear(8, 8))
    x = torch.randn(4, 8, requires_grad=True)
    adapter = spectra.attach({"unet": model}, "unet.1")
    inner = x * 2
    y = model[0](inner)
    assert (
        is_saved_elsewhere(y)
        and is_saved_elsewhere(inner)
        and not is_saved_elsewhere(y * 1)
        and not is_saved_elsewhere(model(x))
    )
    with torch.no_grad():
        assert not is_saved_elsewhere(model[0](x)), "without a gradient nothing is kept"
    adapter.detach()
    assert not is_saved_elsewhere(model[0](inner * 1))


def test_attention_keeps_its_output() -> None:
    heads = torch.randn(2, 6, 4, 8, requires_grad=True).transpose(1, 2)
    out = F.scaled_dot_product_attention(heads, heads, heads)
    assert is_saved_elsewhere(out.transpose(1, 2).reshape(2, 6, 32))
    assert not is_saved_elsewhere(out.reshape(2, 6, 32)), "a copy, in another order"
    plain = heads.softmax(-1).transpose(1, 2).reshape(2, 6, 32)
    assert not is_saved_elsewhere(plain)


def test_both_sides_are_the_whole_product_once_delta_moves() -> None:
    torch.manual_seed(0)
    module = nn.Linear(16, 16).requires_grad_(False)
    spectrum = spectra.decompose(module.weight)
    x = torch.randn(5, 16, requires_grad=True)
    layer = ShiftedLayer(module, spectrum, torch.zeros(16, requires_grad=True))
    layer.plan = "two-sided"
    assert torch.equal(layer.forward(x), module(x))
    assert not layer.work(x).skips_frozen_product
    with torch.no_grad():
        layer.delta += 1e-6
    assert layer.work(x).skips_frozen_product
    torch.testing.assert_close(layer.forward(x), module(x), rtol=1e-5, atol=1e-5)
    half = nn.Linear(16, 16).requires_grad_(False).bfloat16()
    assert ShiftedLayer(half, spectra.decompose(half.weight), layer.delta).work(x.bfloat16()).skips_frozen_product
