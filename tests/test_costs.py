"""The cost model against what PyTorch counts: every plan, every kind of layer, exactly but for the bias."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from spectra import costs
from spectra.layers import ShiftedLayer
from spectra.spectrum import decompose

KINDS = {
    "square": (lambda: nn.Linear(48, 48), (5, 30, 48)),
    "wide": (lambda: nn.Linear(60, 40), (150, 60)),
    "nearly square": (lambda: nn.Linear(50, 49), (150, 50)),
    "tall": (lambda: nn.Linear(40, 60), (150, 40)),
    "conv": (lambda: nn.Conv2d(3, 24, 3, stride=2, padding=1), (2, 3, 21, 16)),
    "1x1 tall": (lambda: nn.Conv2d(20, 24, 1, stride=2), (2, 20, 9, 9)),
    "1x1 square": (lambda: nn.Conv1d(24, 24, 1), (2, 24, 70)),
    "transposed": (lambda: nn.ConvTranspose2d(16, 9, 3, stride=2, output_padding=1), (2, 16, 7, 8)),
    "table": (lambda: nn.Embedding(50, 16), None),
}


def counted(forward, x: torch.Tensor) -> int:
    with FlopCounterMode(display=False) as counter:
        y = forward(x)
        if y.requires_grad:
            y.sum().backward()
    return counter.get_total_flops()


@pytest.mark.parametrize("learns", [True, False])
@pytest.mark.parametrize("input_gradient", [True, False])
@pytest.mark.parametrize("plan", ["factored", "projected", "two-sided", "rebuilt"])
@pytest.mark.parametrize("kind", KINDS)
def test_costs_are_those_counted(kind: str, plan: costs.Plan, input_gradient: bool, learns: bool) -> None:
    torch.manual_seed(0)
    make, shape = KINDS[kind]
    module = make().requires_grad_(False)
    if shape is None:
        if input_gradient:
            return
        x = torch.randint(50, (2, 33))
    else:
        x = torch.randn(shape, requires_grad=input_gradient)
    spectrum = decompose(module.weight)
    layer = ShiftedLayer(module, spectrum, torch.zeros(spectrum.rank, requires_grad=learns))
    layer.plan = plan
    work = layer.work(x)
    if plan not in costs.plans(work):
        return
    assert work.r == spectrum.rank and work.learns == learns and work.input_gradient == input_gradient
    beyond = counted(layer.forward, x) - counted(module, x) - costs.cost(plan, work)
    vectors = 2 * 2 * work.r * work.head  # what becomes of the bias is a product with a single vector, or two
    assert beyond in (0, vectors // 2, vectors)


@pytest.mark.parametrize("kind", KINDS)
def test_the_cheapest_plan_runs(kind: str) -> None:
    """Over small and large inputs each plan is the cheapest somewhere, and the layer takes it."""
    make, shape = KINDS[kind]
    if shape is None:
        return
    module = make().requires_grad_(False)
    spectrum = decompose(module.weight)
    for batch in (1, 3, 40):
        x = torch.randn(batch, *shape[1:], requires_grad=True)
        flops = {}
        for plan in (None, *costs.plans(ShiftedLayer(module, spectrum, torch.zeros(spectrum.rank)).work(x))):
            layer = ShiftedLayer(module, spectrum, torch.zeros(spectrum.rank, requires_grad=True))
            layer.plan = plan
            flops[plan] = counted(layer.forward, x)
        assert flops.pop(None) == min(flops.values())


def test_every_plan_is_the_cheapest_somewhere() -> None:
    long = {"place": "output", "r": 64, "m": 64 * 9, "head": 64, "tail": 0, "low": 0, "encode": 576, "decode": 64}
    chosen = {
        costs.cheapest(costs.Work(n=n, middle=n, learns=True, input_gradient=True, gram=True, **long))
        for n in (8, 200, 10**4)
    }
    assert chosen == set(costs.ONE_BASIS)
