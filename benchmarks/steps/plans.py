"""What each plan, and each way to delta's gradient, adds: a training step with everything, and without one thing.

Counted by the cost model (`spectra.layers.costs`), which a test holds against what PyTorch counts, over the layers of a
model without values. `flops` is a multiple of the frozen step's; `numbers` is what spectra keeps besides the base:
bases, other sides, activations and materialized weights. The two differences are in percent, of the step's flops and of
all numbers, and tell what is lost without the item; the next best is taken in its place.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING

from spectra.benchmarks.case import Bench, Case, Column, Row
from spectra.benchmarks.steps import flops
from spectra.benchmarks.steps.memory import attention_as_on_a_device
from spectra.benchmarks.steps.methods import prepare
from spectra.benchmarks.steps.models import denoiser

if TYPE_CHECKING:
    from spectra.layers.costs import Work

WITHOUT: Mapping[str, Callable[[Work], Work]] = {
    "nothing left out": lambda work: work,
    "factored": lambda work: work,
    "two-sided": lambda work: work,
    "materialized": lambda work: work,
    "other side": lambda work: work,
    "Gram matrix": lambda work: work._replace(gram=False),
    "gradient by the weight's": lambda work: work._replace(pointwise=False),
    "skipping the frozen product": lambda work: work._replace(skips_frozen_product=False),
    "what is saved elsewhere": lambda work: work._replace(input_saved_elsewhere=False),
}
"""What is left out, and how a layer's work is then."""


def counted(work: Work, without: str) -> tuple[int, int]:
    """Flops of one layer beyond the frozen one, and numbers that it keeps beyond its basis."""
    from spectra.layers import costs

    def best(each: Work) -> tuple[int, int, int]:
        plans = [plan for plan in costs.plans(each) if plan != without]
        priced = [(costs.price(plan, each), costs.cost(plan, each), costs.kept(plan, each)) for plan in plans]
        return min(priced)

    changed = WITHOUT[without](work)
    price, cost, kept = best(changed)
    if changed.one_sided and changed.learns and changed.encode and without != "other side":
        other, both_cost, both_kept = best(costs.with_other_side(changed))
        if other + costs.other_side_price(work) < price:
            return both_cost, both_kept + work.m * work.one_sided
    return cost, kept


def _works(bench: Bench) -> tuple[int, list[Work]]:
    """Flops of the frozen step, and the work of each layer with one side kept."""
    model, _ = denoiser(
        str(bench.settings["model"]), resolution=bench.integer("resolution"), batch=bench.integer("batch")
    )
    frozen = sum(flops.count(prepare("frozen", model)))
    method = prepare("svdiff", model, device=str(bench.settings["device"]))
    works: list[Work] = []
    for layer in method.adapter.layers() if method.adapter else ():
        layer.plan = "factored"  # keeps no other side
        layer.observer = lambda _layer, _x, work: works.append(work)
    with attention_as_on_a_device(method):
        method.forward()
    return frozen, works


def _measure(bench: Bench, item: str) -> Row:
    frozen, works = bench.once("works", lambda: _works(bench))

    def total(without: str) -> tuple[int, int]:
        found = [counted(work, without) for work in works]
        numbers = sum(kept for _, kept in found) + sum(work.r**2 for work in works)
        return sum(cost for cost, _ in found), numbers

    (cost, numbers), (all_cost, all_numbers) = total(item), total("nothing left out")
    return {
        "without": item,
        "flops": round(1 + cost / frozen, 4),
        "numbers": numbers,
        "flops_lost": round(100 * (cost - all_cost) / (frozen + all_cost), 2),
        "numbers_lost": round(100 * (numbers - all_numbers) / all_numbers, 2),
    }


def _summarise(bench: Bench, rows: Sequence[Row]) -> Row:
    return {row["without"]: [row["flops_lost"], row["numbers_lost"]] for row in rows}


CASE = Case(
    name="plans",
    title="a training step without one of spectra's plans",
    key="without",
    figure="flops",
    items=lambda bench: list(WITHOUT),
    measure=_measure,
    summarise=_summarise,
    settings={"model": "sd15", "resolution": 0, "batch": 2, "device": "cuda"},
    columns=(
        Column("without"),
        Column("flops", form=".3f"),
        Column("numbers", "numbers, M", ",.0f", 1e6),
        Column("flops_lost", "flops, %", "+.1f"),
        Column("numbers_lost", "numbers, %", "+.1f"),
    ),
)
"""A `resolution` of 0 is the model's own."""
