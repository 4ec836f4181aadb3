"""A shift of its own for every sample of a batch, against one shift for all of them: FLOPs, seconds and outputs.

Both run the factored plan in every matrix of the embedded base's UNet, in turns. The rows called `weights` shift the
norms too, which have no plan. `difference` is that between the outputs of the batch and those of as many runs of one
sample with its shift; `base_difference` is the same of the frozen base: what batching alone rounds differently.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from spectra.benchmarks.case import Bench, Case, Column, Goal, Row
from spectra.benchmarks.steps.methods import Spectra, twin
from spectra.benchmarks.steps.models import Denoiser, denoiser

if TYPE_CHECKING:
    from torch import Tensor

ITEMS = ("matrices, drawing", "matrices, training", "weights, drawing", "weights, training")
"""What is shifted, and whether a gradient is taken."""

_SIZE = 0.05
"""Deviation of a delta, relative to its singular value (to a norm's weight of 1)."""


class Shifts:
    """Random deltas for every weight of a model: `[count, r]` each.

    Args:
        model: whose weights they are for.
        count: of shifts.
        norms: whether 1-D weights are shifted too.
    """

    def __init__(self, model: Denoiser, spectra: Spectra, count: int, *, norms: bool, seed: int) -> None:
        import torch

        from spectra.families import targets

        self._model, self._spectra = model, spectra
        generator = torch.Generator().manual_seed(seed)
        self._deltas: dict[str, Tensor] = {}
        for target in targets({model.component: model.module}):
            if target.weight.ndim > 1 or norms:
                scale = self._spectrum(target.name, target.weight).sigma.float() if target.weight.ndim > 1 else 1.0
                random = torch.randn(count, target.delta_length, generator=generator)
                self._deltas[target.name] = _SIZE * scale * random

    def _spectrum(self, name: str, weight: Tensor) -> Any:
        return self._spectra.of(name.partition(".")[2], weight)

    def one(self, *, train: bool) -> tuple[Denoiser, Callable[[int], None]]:
        """A twin of the model with one shift for every sample, the first, and what puts another in its place."""
        import torch

        from spectra.layers.shifted_layer import ShiftedLayer
        from spectra.layers.shifted_vector import ShiftedVector

        def layer(module: Any, spectrum: Any, delta: Tensor) -> Any:
            if spectrum is None:
                return ShiftedVector(module, delta)
            made = ShiftedLayer(module, spectrum, delta)
            made.plan = "factored"
            return made

        model, live = self._routed(layer, lambda deltas: deltas[0], train)

        def take(row: int) -> None:
            with torch.no_grad():
                for name, delta in live.items():
                    delta.copy_(self._deltas[name][row])

        return model, take

    def each(self, *, train: bool) -> Denoiser:
        """A twin of the model with a shift for each sample."""
        import torch

        from spectra.layers.per_sample import SampledLayer, SampledVector, Samples

        samples = Samples(torch.arange(len(next(iter(self._deltas.values())))))

        def layer(module: Any, spectrum: Any, deltas: Tensor) -> Any:
            if spectrum is None:
                return SampledVector(module, deltas, samples)
            made = SampledLayer(module, spectrum, deltas, samples)
            made.plan = "factored"
            return made

        return self._routed(layer, lambda deltas: deltas, train)[0]

    def _routed(
        self, layer: Callable[..., Any], pick: Callable[[Tensor], Tensor], train: bool
    ) -> tuple[Denoiser, dict[str, Tensor]]:
        """A twin that computes with the picked deltas, and those by name."""
        from spectra.families import targets

        model, live = twin(self._model), {}
        for target in targets({model.component: model.module}):
            if target.name in self._deltas:
                spectrum = self._spectrum(target.name, target.weight) if target.weight.ndim > 1 else None
                delta = live[target.name] = pick(self._deltas[target.name]).clone().requires_grad_(train)
                for module in target.modules:
                    module.forward = layer(module, spectrum, delta).forward
        return model, live


def run(model: Denoiser, *, train: bool) -> Tensor:
    """The model's output for its inputs; with `train`, after a backward from its mean square."""
    import torch

    with torch.set_grad_enabled(train):
        output: Tensor = model.module(**model.inputs, return_dict=False)[0]
        if train:
            output.square().mean().backward()
    return output.detach()


def sample(model: Denoiser, index: int) -> Denoiser:
    """The model with the inputs of one sample of its batch."""
    inputs = {name: value[index : index + 1] for name, value in model.inputs.items()}
    return Denoiser(model.module, model.component, model.latents, inputs)


def difference(found: Tensor, wanted: Tensor) -> float:
    """`||found - wanted|| / ||wanted||` of the worst sample."""
    distance = (found - wanted).flatten(1).norm(dim=1) / wanted.flatten(1).norm(dim=1)
    return float(f"{float(distance.max()):.3g}")


def flops(model: Denoiser, *, train: bool) -> int:
    """FLOPs of one run, with attention written out so that it is counted."""
    from torch.nn.attention import SDPBackend, sdpa_kernel
    from torch.utils.flop_counter import FlopCounterMode

    with FlopCounterMode(display=False) as counter, sdpa_kernel(SDPBackend.MATH):
        run(model, train=train)
    return int(counter.get_total_flops())


def _measure(bench: Bench, item: str) -> Row:
    import torch

    count = bench.integer("batch")
    model, _ = denoiser(
        str(bench.settings["model"]),
        resolution=bench.integer("resolution"),
        batch=count,
        device="cpu",
        seed=bench.seed,
    )
    what, _, use = item.partition(", ")
    train = use == "training"
    spectra = bench.once("spectra", lambda: Spectra())
    shifts = Shifts(model, spectra, count, norms=what == "weights", seed=bench.seed)
    (one, take), each = shifts.one(train=train), shifts.each(train=train)
    row: dict[str, Any] = {"run": item, "shifts": count}
    row["flops_ratio"] = round(flops(each, train=train) / flops(one, train=train), 4)
    apart = []
    for index in range(count):
        take(index)
        apart.append(run(sample(one, index), train=False))
    row["difference"] = difference(run(each, train=False), torch.cat(apart))
    base = [run(sample(model, i), train=False) for i in range(count)]
    row["base_difference"] = difference(run(model, train=False), torch.cat(base))
    times = bench.time({"one": lambda: run(one, train=train), "each": lambda: run(each, train=train)})
    row |= {"one_s": times["one"].row(), "each_s": times["each"].row()}
    row["ratio"] = round(times["each"].median / times["one"].median, 4)
    return row


def _summarise(bench: Bench, rows: Sequence[Row]) -> Row:
    return {
        "flops_ratio": max(row["flops_ratio"] for row in rows),
        "time_ratio": max((row["ratio"] for row in rows if row["run"].startswith("matrices")), default=None),
        "time_ratio_with_norms": max((row["ratio"] for row in rows if row["run"].startswith("weights")), default=None),
        "difference": max(row["difference"] for row in rows),
    }


CASE = Case(
    name="samples",
    title="a shift for each sample of a batch, against one for all",
    key="run",
    figure="ratio",
    items=lambda bench: ITEMS,
    measure=_measure,
    summarise=_summarise,
    settings={"model": "embedded", "resolution": 0, "batch": 64, "repetitions": 5, "seed": 0},
    columns=(
        Column("run"),
        Column("shifts"),
        Column("flops_ratio", "FLOPs", ".3f"),
        Column("one_s", "one, s", ".3f"),
        Column("each_s", "each, s", ".3f"),
        Column("ratio", form=".3f"),
        Column("difference", form=".0e"),
        Column("base_difference", "base's", ".0e"),
    ),
    goals=(
        Goal("flops_ratio", "<=", 1.10),
        Goal("time_ratio", "<=", 1.10),
        Goal("difference", "<=", 1e-5),
    ),
)
"""A `resolution` of 0 is the model's own."""
