"""The cost model against what PyTorch counts and keeps: every plan, every kind of layer, exactly but for the bias."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from spectra.layers import costs
from spectra.layers.materialized_weight import Rebuilt
from spectra.layers.saved_elsewhere import watch
from spectra.layers.shifted_layer import ShiftedLayer
from spectra.spectrum.decomposition import decompose

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


class Problem:
    """A layer that has settled, its input, and the work that it has to do.

    Args:
        normed: whether the input comes from a norm, which keeps it.
    """

    def __init__(self, kind: str, plan: costs.Plan | None, *, learns: bool, input_gradient: bool, normed: bool) -> None:
        torch.manual_seed(0)
        make, shape = KINDS[kind]
        self.module = make().requires_grad_(False)
        self.x = self.source = torch.randint(50, (2, 33))
        if shape is not None:
            self.x = self.source = torch.randn(shape, requires_grad=input_gradient)
        if normed:
            norm = nn.GroupNorm(1, shape[1]) if len(shape) > 3 else nn.LayerNorm(shape[-1])
            end = watch([norm.requires_grad_(False)])
            self.x = norm(self.source)
            end()
        spectrum = decompose(self.module.weight)
        # Not zero, and so small that no direction crosses a threshold.
        delta = (1e-7 * spectrum.sigma).float().requires_grad_(learns)
        self.layer = ShiftedLayer(self.module, spectrum, delta)
        self.layer.plan = plan
        self.layer.forward(self.x)  # a square layer may take the other side
        self.layer.forget()
        self.work = self.layer.work(self.x)

    def beyond(self) -> int:
        """Counted flops of a step, without the frozen layer's."""
        x = self.x.detach().requires_grad_(self.x.requires_grad) if self.x.is_floating_point() else self.x
        return counted(self.layer.forward, self.x) - counted(self.module, x)


def problems(kind: str, plan: costs.Plan | None, **described: bool) -> list[Problem]:
    """With and without a norm, where there can be one, if the layer has the plan."""
    shape = KINDS[kind][1]
    normed = (False, True) if described["input_gradient"] and shape else (False,)
    if shape is None and described["input_gradient"]:
        return []
    made = [Problem(kind, plan, normed=each, **described) for each in normed]
    return [problem for problem in made if plan in costs.plans(problem.work)]


@pytest.mark.parametrize("learns", [True, False])
@pytest.mark.parametrize("input_gradient", [True, False])
@pytest.mark.parametrize("plan", ["factored", "projected", "two-sided", "rebuilt"])
@pytest.mark.parametrize("kind", KINDS)
def test_costs_are_those_counted(kind: str, plan: costs.Plan, input_gradient: bool, learns: bool) -> None:
    for problem in problems(kind, plan, learns=learns, input_gradient=input_gradient):
        work, module = problem.work, problem.module
        assert work.r == min(len(module.weight), module.weight[0].numel()) and work.learns == learns
        assert work.input_gradient == input_gradient
        beyond = problem.beyond() - costs.cost(plan, work)
        vectors = 2 * 2 * work.r * work.head  # what becomes of the bias is a product with a single vector, or two
        assert beyond in (0, vectors // 2, vectors)


@pytest.mark.parametrize("plan", ["factored", "projected", "two-sided", "rebuilt"])
@pytest.mark.parametrize("kind", sorted(KINDS.keys() - {"transposed", "table"}))
def test_what_is_saved_elsewhere_is_what_pytorch_keeps(kind: str, plan: costs.Plan) -> None:
    """Not where PyTorch's own keeps its input, or hands out rows of a table.

    All but vectors of a number for each direction, or vectors of directions that the rebuilt plan adds.
    """
    for problem in problems(kind, plan, learns=True, input_gradient=KINDS[kind][1] is not None):
        layer, work = problem.layer, problem.work
        own = [problem.module.weight, layer.delta, *([problem.source] if work.free else [])]
        known = {t.untyped_storage()._cdata for t in own}
        known |= {t.untyped_storage()._cdata for ts in layer._vectors.converted.values() for t in ts}
        sizes: dict[int, int] = {}

        def note(tensor: torch.Tensor, known: set[int] = known, sizes: dict[int, int] = sizes) -> torch.Tensor:
            storage = tensor.untyped_storage()
            if storage._cdata not in known and tensor.is_floating_point():
                sizes[storage._cdata] = storage.nbytes()
            return tensor

        with torch.autograd.graph.saved_tensors_hooks(note, lambda tensor: tensor):
            y = layer.forward(problem.x)
        for _, made in layer._kept.values():
            if isinstance(made, Rebuilt):
                note(made.weight)
        assert y.requires_grad  # it holds what was noted
        floats = sum(sizes.values()) - work.itemsize * costs.kept(plan, work)
        vectors = 4 * 8 * (work.r + work.m)
        explicit = work.itemsize * (work.tail + work.low) * (work.r + work.m)  # directions with vectors of their own
        assert -vectors <= floats <= vectors + explicit


@pytest.mark.parametrize("kind", KINDS)
def test_the_cheapest_plan_runs(kind: str) -> None:
    """Among those that the layer has, by flops and by the bytes that they keep."""
    prices = {}
    for plan in (None, *costs.ONE_BASIS, *costs.TWO_BASES):
        for problem in problems(kind, plan, learns=True, input_gradient=KINDS[kind][1] is not None):
            prices[plan, problem.work.free, problem.work.both] = costs.price(plan, problem.work)
    for problem in [Problem(kind, None, learns=True, input_gradient=KINDS[kind][1] is not None, normed=False)]:
        work = problem.work
        chosen = problem.layer._plan(problem.x)[0]
        assert prices[chosen, work.free, work.both] == min(
            price for (_, free, both), price in prices.items() if (free, both) == (work.free, work.both)
        )


def test_every_plan_is_the_cheapest_somewhere() -> None:
    long = {"place": "output", "r": 640, "m": 640 * 9, "head": 640, "tail": 0, "low": 0, "encode": 5760, "decode": 640}
    known = {"learns": True, "input_gradient": True, "gram": True, "free": False, "square": False, "literal": False}
    known |= {"both": False, "itemsize": 4}
    for device in ("cpu", "cuda"):
        works = [costs.Work(n=n, middle=n, balance=costs.balance(device), **long, **known) for n in (8, 2600, 10**5)]
        assert {costs.cheapest(work) for work in works} == set(costs.ONE_BASIS)


def test_memory_is_worth_more_where_flops_are_cheap() -> None:
    """A square layer that sees few rows keeps one side on an accelerator, and both on a CPU."""
    work = Problem("square", "factored", learns=True, input_gradient=True, normed=False).work
    few = work._replace(r=1280, m=1280, head=1050, tail=230, low=115, encode=1280, decode=1280, n=128, middle=128)
    assert costs.wants_both_sides(few._replace(balance=costs.balance("cpu")))
    assert not costs.wants_both_sides(few._replace(balance=costs.balance("cuda")))
    many = few._replace(n=4096, middle=4096)
    assert costs.wants_both_sides(many._replace(balance=costs.balance("cuda")))
    # The other side of a longer weight must pay more than its memory.
    long = few._replace(square=False, m=4 * 1280, encode=4 * 1280, tail=0, head=1280, low=0, literal=True)
    assert costs.wants_both_sides(long._replace(balance=costs.balance("cpu")))
    assert not costs.wants_both_sides(long._replace(balance=costs.balance("cuda")))
