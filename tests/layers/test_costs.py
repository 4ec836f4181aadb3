"""The cost model against what PyTorch counts and keeps: every plan, every kind of layer, exactly but for the bias."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from spectra.layers import costs
from spectra.layers.materialized_weight import MaterializedWeight
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
        both_sides: whether the layer keeps both sides of its directions.
    """

    def __init__(
        self,
        kind: str,
        plan: costs.Plan | None,
        *,
        learns: bool,
        input_gradient: bool,
        normed: bool,
        both_sides: bool = False,
    ) -> None:
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
        if both_sides:
            self.layer.plan = "two-sided"
            self.layer.forward(self.x)
        self.layer.plan = plan
        self.layer.forward(self.x)  # without a plan it may take the other side
        self.layer.forget()
        self.work = self.layer.work(self.x)

    def beyond(self) -> int:
        """Counted flops of a step, without the frozen layer's."""
        x = self.x.detach().requires_grad_(self.x.requires_grad) if self.x.is_floating_point() else self.x
        return counted(self.layer.forward, self.x) - counted(self.module, x)


def problems(kind: str, plan: costs.Plan | None, **described: bool) -> list[Problem]:
    """With one side and with both, with and without a norm, where there can be one, if the layer has the plan."""
    shape = KINDS[kind][1]
    normed = (False, True) if described["input_gradient"] and shape else (False,)
    if shape is None and described["input_gradient"]:
        return []
    made = [Problem(kind, plan, normed=n, both_sides=b, **described) for n in normed for b in (False, True)]
    return [problem for problem in made if plan in costs.plans(problem.work)]


@pytest.mark.parametrize("learns", [True, False])
@pytest.mark.parametrize("input_gradient", [True, False])
@pytest.mark.parametrize("plan", ["factored", "two-sided", "materialized"])
@pytest.mark.parametrize("kind", KINDS)
def test_costs_are_those_counted(kind: str, plan: costs.Plan, input_gradient: bool, learns: bool) -> None:
    for problem in problems(kind, plan, learns=learns, input_gradient=input_gradient):
        work, module = problem.work, problem.module
        assert work.r == min(len(module.weight), module.weight[0].numel()) and work.learns == learns
        assert work.input_gradient == input_gradient
        beyond = problem.beyond() - costs.cost(plan, work)
        vector = 2 * work.r * work.one_sided  # what becomes of the bias is a product with a single vector
        assert beyond in (0, vector)


@pytest.mark.parametrize("plan", ["factored", "two-sided", "materialized"])
@pytest.mark.parametrize("kind", sorted(KINDS.keys() - {"transposed", "table"}))
def test_what_is_saved_elsewhere_is_what_pytorch_keeps(kind: str, plan: costs.Plan) -> None:
    """Not where PyTorch's own keeps its input, or hands out rows of a table.

    All but vectors of a number for each direction, or vectors of directions that the materialized plan adds.
    """
    for problem in problems(kind, plan, learns=True, input_gradient=KINDS[kind][1] is not None):
        layer, work = problem.layer, problem.work
        own = [problem.module.weight, layer.delta, *([problem.source] if work.input_saved_elsewhere else [])]
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
        for _, made in layer._made.values():
            if isinstance(made, MaterializedWeight):
                note(made.weight)
        assert y.requires_grad  # it holds what was noted
        floats = sum(sizes.values()) - 4 * costs.kept(plan, work)
        vectors = 4 * 8 * (work.r + work.m)
        explicit = 4 * (work.two_sided + work.near_zero) * (work.r + work.m)  # directions with vectors of their own
        assert -vectors <= floats <= vectors + explicit


@pytest.mark.parametrize("kind", KINDS)
def test_the_cheapest_plan_runs(kind: str) -> None:
    """Among those that the layer has, by flops and by the bytes that they keep."""
    for normed in (False, True) if KINDS[kind][1] else (False,):
        problem = Problem(kind, None, learns=True, input_gradient=KINDS[kind][1] is not None, normed=normed)
        chosen, work = problem.layer._plan(problem.x)
        prices = {plan: costs.price(plan, work) for plan in costs.plans(work)}
        assert prices[chosen] == min(prices.values())


LONG = costs.Work(
    basis_at="output", rows=8, bottleneck_rows=8, r=640, m=5760, one_sided=640, two_sided=0, near_zero=0, encode=5760,
    decode=640, learns=True, input_gradient=True, gram=True, input_saved_elsewhere=False, pointwise=False,
    skips_frozen_product=True, balance=costs.balance("cuda"),
)  # fmt: skip
SQUARE = LONG._replace(
    r=1280, m=1280, one_sided=1050, two_sided=230, near_zero=115, encode=1280, decode=1280, pointwise=True
)


def test_every_plan_is_the_cheapest_somewhere() -> None:
    for device in ("cpu", "cuda"):
        works = [LONG._replace(rows=n, bottleneck_rows=n, balance=costs.balance(device)) for n in (8, 10**5)]
        works += [
            SQUARE._replace(rows=n, bottleneck_rows=n, one_sided=0, two_sided=1280, near_zero=0) for n in (64, 512)
        ]
        assert {costs.cheapest(work) for work in works} == {"factored", "two-sided", "materialized"}


def test_memory_is_worth_more_where_flops_are_cheap() -> None:
    """A square layer that sees few rows keeps one side on an accelerator, and both on a CPU."""
    few = SQUARE._replace(rows=128, bottleneck_rows=128)
    assert costs.wants_other_side(few._replace(balance=costs.balance("cpu")))
    assert not costs.wants_other_side(few)
    assert costs.wants_other_side(few._replace(rows=4096, bottleneck_rows=4096))
    # The other side of a longer weight must pay more than its memory.
    long = few._replace(m=4 * 1280, encode=4 * 1280, two_sided=0, one_sided=1280, near_zero=0)
    assert costs.wants_other_side(long._replace(balance=costs.balance("cpu")))
    assert not costs.wants_other_side(long)


def test_rows_make_the_gradient_where_the_weights_would_cost_more() -> None:
    square = SQUARE._replace(one_sided=0, two_sided=1280, near_zero=0, bottleneck_rows=4096)
    assert costs.gradient_by_weight(square)
    assert not costs.gradient_by_weight(square._replace(bottleneck_rows=64))
    assert not costs.gradient_by_weight(square._replace(pointwise=False))
    assert costs.gradient_by_weight(SQUARE._replace(rows=4096, bottleneck_rows=4096, input_saved_elsewhere=True))
