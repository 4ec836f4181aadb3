"""A shift of its own for every sample of a batch, against one shift for all of them: FLOPs, seconds and outputs.

Both compute every matrix of the UNet in the same form, in turns: K directions and k outer terms (the
settings `directions` and `outer`), or, where both are 0, all directions by the factored plan. The rows called
`weights` shift the norms too, which have no plan. `difference` is that between the outputs of the batch and those of as
many runs of one sample with its shift; `base_difference` is the same of the frozen base: what batching alone rounds
differently.

With `device=meta` the model has no values, and FLOPs alone are counted: those of a large model too.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from spectra.benchmarks.case import Bench, Case, Column, Goal, Row
from spectra.benchmarks.steps.flops import counter
from spectra.benchmarks.steps.methods import FORM, twin
from spectra.benchmarks.steps.models import Denoiser, denoiser
from spectra.spectrum.placeholders import Spectra

if TYPE_CHECKING:
    from torch import Tensor

    from spectra.layers.change import Change
    from spectra.layers.per_sample import Samples

ITEMS = ("matrices, drawing", "matrices, training", "weights, drawing", "weights, training")
"""What is shifted, and whether a gradient is taken."""

_SIZE = 0.05
"""Deviation of a delta, relative to its singular value (to a norm's weight of 1)."""


class Shifts:
    """Random changes of every weight of a model, `count` of each.

    Args:
        model: whose weights they are for.
        count: of shifts.
        norms: whether 1-D weights are shifted too.
        directions: that each matrix's delta is of; 0 without outer terms stands for all of them.
        outer: terms of each matrix.
    """

    def __init__(
        self, model: Denoiser, spectra: Spectra, count: int, *, norms: bool, seed: int, directions: int, outer: int
    ) -> None:
        import torch

        from spectra.families import targets

        self._model, self._count = model, count
        self._known: dict[str, Any] = {}
        self._changes: dict[str, Change] = {}
        generator = torch.Generator().manual_seed(seed)
        for target in targets({model.component: model.module}):
            path, weight = target.name.partition(".")[2], target.weight
            if weight.ndim == 1 and not norms:
                continue
            if weight.ndim > 1 and directions:
                self._known[target.name] = spectra.leading(path, weight, directions)
            elif weight.ndim > 1 and not outer:
                self._known[target.name] = spectra.of(path, weight)
            self._changes[target.name] = self._random(weight, self._known.get(target.name), outer, generator)

    def _random(self, weight: Tensor, spectrum: Any, outer: int, generator: Any) -> Change:
        """A change of one weight for each shift."""
        import torch

        from spectra.layers.change import Change

        def random(*shape: int) -> Tensor:
            return torch.randn(self._count, *shape, generator=generator).to(weight.device)

        if weight.ndim == 1:
            return Change(delta=_SIZE * random(len(weight)))
        delta = None if spectrum is None else _SIZE * spectrum.sigma.float() * random(len(spectrum.sigma))
        if not outer:
            return Change(delta=delta)
        a = _SIZE * weight.norm() * random(outer, len(weight)) / (outer * len(weight)) ** 0.5
        b = random(outer, weight.shape[1]) / weight.shape[1] ** 0.5
        taps = weight[0, 0].numel()
        return Change(delta, a, b, random(outer, taps) / taps**0.5 if weight.ndim > 2 else None)

    def one(self, *, train: bool) -> tuple[Denoiser, Callable[[int], None]]:
        """A twin of the model with one shift for every sample, the first, and what puts another in its place."""
        import torch

        model, live = self._patched(lambda tensor: tensor[0], train)

        def take(row: int) -> None:
            with torch.no_grad():
                for name, change in live.items():
                    for mine, theirs in zip(change.tensors(), self._changes[name].tensors(), strict=True):
                        mine.copy_(theirs[row])

        return model, take

    def each(self, *, train: bool) -> Denoiser:
        """A twin of the model with a shift for each sample."""
        import torch

        from spectra.layers.per_sample import Samples

        return self._patched(lambda tensor: tensor, train, Samples(torch.arange(self._count)))[0]

    def _patched(
        self, pick: Callable[[Tensor], Tensor], train: bool, samples: Samples | None = None
    ) -> tuple[Denoiser, dict[str, Change]]:
        """A twin that computes with what is picked of each change, and that by name."""
        from spectra.adapters.binding import Binding
        from spectra.families import targets
        from spectra.layers.saved_elsewhere import watch
        from spectra.layers.shifted_layer import ShiftedLayer

        model, live = twin(self._model), {}
        for target in targets({model.component: model.module}):
            if target.name not in self._changes:
                continue
            live[target.name] = self._changes[target.name].map(lambda t: pick(t).clone().requires_grad_(train))
            binding = Binding(target, self._known.get(target.name))
            binding.patch(live[target.name], samples)
            for layer in binding.layers:
                if isinstance(layer, ShiftedLayer):
                    layer.plan = "factored"
        watch([model.module], norms=samples is None)
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

    with counter() as counted, sdpa_kernel(SDPBackend.MATH):
        run(model, train=train)
    return int(counted.get_total_flops())


def _measure(bench: Bench, item: str) -> Row:
    import torch

    count = bench.integer("batch")
    model, _ = denoiser(
        str(bench.settings["model"]),
        resolution=bench.integer("resolution"),
        batch=count,
        device=str(bench.settings["device"]),
        seed=bench.seed,
    )
    what, _, use = item.partition(", ")
    train = use == "training"
    spectra = bench.once("spectra", lambda: Spectra())
    form = {name: bench.integer(name) for name in FORM}
    shifts = Shifts(model, spectra, count, norms=what == "weights", seed=bench.seed, **form)
    (one, take), each = shifts.one(train=train), shifts.each(train=train)
    row: dict[str, Any] = {"run": item, "shifts": count}
    row["flops_ratio"] = round(flops(each, train=train) / flops(one, train=train), 4)
    if bench.settings["device"] == "meta":
        return row
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
    found = {"flops_ratio": max(row["flops_ratio"] for row in rows)}
    timed = [row for row in rows if "ratio" in row]
    if not timed:
        return found
    return found | {
        "time_ratio": max((row["ratio"] for row in timed if row["run"].startswith("matrices")), default=None),
        "time_ratio_with_norms": max((row["ratio"] for row in timed if row["run"].startswith("weights")), default=None),
        "difference": max(row["difference"] for row in timed),
    }


CASE = Case(
    name="samples",
    title="a shift for each sample of a batch, against one for all",
    key="run",
    figure="flops_ratio",
    items=lambda bench: ITEMS,
    measure=_measure,
    summarise=_summarise,
    settings={"model": "embedded", "device": "cpu", "resolution": 0, "batch": 64, **FORM, "repetitions": 5, "seed": 0},
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
        Goal("flops_ratio", "<=", 1.05),
        Goal("time_ratio", "<=", 1.05),
        Goal("time_ratio_with_norms", "<=", 1.05),
        Goal("difference", "<=", 1e-5),
    ),
)
"""A `resolution` of 0 is the model's own."""
