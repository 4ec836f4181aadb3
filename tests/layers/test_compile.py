"""torch.compile of an attached model: one graph, not made again when a shift, its scale or delta changes."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
import torch
from small_models import build, random_shift
from torch import Tensor, nn

import spectra
from spectra.layers.shifted_layer import ShiftedLayer
from spectra.layers.shifted_vector import ShiftedVector
from spectra.spectrum.decomposition import decompose


@pytest.fixture(autouse=True)
def strict() -> Iterator[None]:
    """A second compilation is an error; graphs of other tests are forgotten."""
    torch._dynamo.reset()
    with torch._dynamo.config.patch(error_on_recompile=True):
        yield
    torch._dynamo.reset()


def compiled(model: Any, backend: str = "eager") -> Any:
    return torch.compile(model, fullgraph=True, backend=backend)


@pytest.mark.parametrize("form", [{}, {"directions": 3, "outer": 1}], ids=["all directions", "low rank"])
@pytest.mark.parametrize("subset", ["unet-ca-kv", pytest.param("unet", marks=pytest.mark.slow)])
def test_training_is_one_graph(subset: str, form: dict[str, Any]) -> None:
    model, _ = build("unet")
    x, text, step = torch.randn(2, 4, 8, 8), torch.randn(2, 5, 12), torch.tensor([3, 500])
    adapter = spectra.attach(model, subset, **form)
    parameters = adapter.train().by_key
    fast = compiled(model)
    optimizer = torch.optim.AdamW(parameters.values(), lr=0.05)
    for _ in range(2):
        gradients = []
        for network in (model, fast):  # the first step is not compiled: it settles which sides are kept
            optimizer.zero_grad()
            y = network(x, step, text).sample
            y.square().mean().backward()
            gradients.append([y.detach(), *(p.grad.clone() for p in parameters.values())])
        for ours, reference in zip(*gradients, strict=True):
            torch.testing.assert_close(ours, reference, rtol=1e-4, atol=1e-5)
        optimizer.step()
    adapter.detach()


def test_serving_is_one_graph() -> None:
    model, _ = build("unet")
    x, text, step = torch.randn(2, 4, 8, 8), torch.randn(2, 5, 12), torch.tensor([3, 500])
    shifts = {name: random_shift(model, "unet", number) for number, name in enumerate(("dog", "style"))}
    fast = compiled(model)
    with torch.no_grad():
        base = fast(x, step, text).sample
        for name, shift in shifts.items():
            spectra.load(model, shift, name)
        for scales in ({"dog": 1.0}, {"dog": 0.5}, {"style": 1.0, "dog": 0.2}, {}):
            spectra.activate(model, scales)
            torch.testing.assert_close(fast(x, step, text).sample, model(x, step, text).sample)
        spectra.unload(model)
        assert torch.equal(fast(x, step, text).sample, base)


@pytest.mark.parametrize("fused", [True, False])
def test_a_hundred_replacements_compile_nothing_again(fused: bool) -> None:
    """In a pipeline whose UNet is wrapped, as `pipe.unet = torch.compile(pipe.unet)` does."""
    model, _ = build("unet")
    adapter, shifts = spectra.attach(model, "unet-ca", directions=3, outer=1), []
    for seed in range(2):
        with torch.no_grad():
            for parameter in adapter.parameters():
                parameter.copy_(0.2 * torch.randn(parameter.shape, generator=torch.Generator().manual_seed(seed)))
        shifts.append(adapter.shift(base="test"))
    adapter.detach()
    x, text, step = torch.randn(2, 4, 8, 8), torch.randn(2, 5, 12), torch.tensor([3, 500])
    if not fused:
        spectra.unfuse(model)
    spectra.load(model, shifts[0], "user")
    pipe = {"unet": compiled(model)}
    with torch.no_grad():
        torch._dynamo.utils.counters.clear()
        drawn = [pipe["unet"](x, step, text).sample]
        counted = dict(torch._dynamo.utils.counters["stats"])
        for number in range(1, 101):
            spectra.load(pipe, shifts[number % 2], "user", hotswap=True)
            if number < 5 or number > 98:
                drawn.append(pipe["unet"](x, step, text).sample)
        assert dict(torch._dynamo.utils.counters["stats"]) == counted and counted["unique_graphs"] == 1
        assert torch.equal(drawn[-1], drawn[0]) and torch.equal(drawn[-2], drawn[1])
        assert not torch.allclose(drawn[0], drawn[1])
        torch.testing.assert_close(drawn[-1], model(x, step, text).sample)


class Layers(nn.Module):
    """A module of each kind, one after the other."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(4, 16, 3, padding=1)
        self.norm = nn.GroupNorm(4, 16)
        self.mix = nn.Conv2d(16, 16, 1)
        self.up = nn.Linear(16, 24)
        self.down = nn.Linear(24, 16)
        self.rms = nn.RMSNorm(16)

    def forward(self, x: Tensor) -> Tensor:
        y = self.mix(self.norm(self.conv(x)))
        out: Tensor = self.rms(self.down(self.up(y.flatten(2).mT)))
        return out


@pytest.mark.parametrize("plan", ["factored", "materialized"])
def test_every_plan_through_the_backward_graph(plan: str) -> None:
    torch.manual_seed(0)
    model = Layers().requires_grad_(False)
    deltas = []
    for module in model.children():
        if module.weight.ndim == 1:
            deltas.append(torch.zeros(16, requires_grad=True))
            module.forward = ShiftedVector(module, deltas[-1]).forward
        else:
            spectrum = decompose(module.weight)
            deltas.append(torch.zeros(spectrum.rank, requires_grad=True))
            layer = ShiftedLayer(module, spectrum, deltas[-1])
            layer.plan = plan
            module.forward = layer.forward
    fast, x = compiled(model, "aot_eager"), torch.randn(3, 4, 6, 6)
    for _ in range(2):
        gradients = []
        for network in (model, fast):
            y = network(x)
            gradients.append([y.detach(), *torch.autograd.grad(y.square().mean(), deltas)])
        for ours, reference in zip(*gradients, strict=True):
            torch.testing.assert_close(ours, reference, rtol=1e-4, atol=1e-5)
        with torch.no_grad():
            for delta in deltas:
                delta += 0.1 * torch.randn(delta.shape)
