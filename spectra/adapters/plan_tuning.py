"""Plans chosen by measuring: for a device on which flops do not tell.

    adapter = spectra.attach(pipe, "unet")
    adapter.train()
    spectra.tune(adapter, lambda: loss().backward())   # one step, as the training will do it

Every kind of work that the step meets (`costs.Work`) is measured once with each plan that its layer has, on random
numbers, and what was fastest is remembered for the device and PyTorch's version. Work that was never measured keeps
to the cost model.
"""

from __future__ import annotations

import json
import platform
import statistics
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, get_args

import torch
from torch import Tensor

from spectra.io.atomic_writes import atomic_write
from spectra.io.foreign_values import read_json
from spectra.layers import costs
from spectra.layers.shifted_layer import ShiftedLayer
from spectra.spectrum.cache.environment import default_root

if TYPE_CHECKING:
    from spectra.adapters.training_adapter import Adapter

Timer = Callable[[Callable[[], object]], float]

FILE = "plans.json"
REPETITIONS = 5


def tune(
    adapter: Adapter, step: Callable[[], object], *, file: Path | None = None, timer: Timer | None = None
) -> dict[str, costs.Plan]:
    """Measure the plans of the work that `step` meets, and let the adapter's layers take the fastest.

    Args:
        adapter: in training mode.
        step: a forward and backward of the model, with the batch and resolution to train at. Called once; the
            gradients that it leaves in the deltas are taken away again.
        file: where plans are remembered; by default `plans.json` in the spectrum cache's folder.
        timer: seconds that a call takes; by default the median of a few calls, after one that is not counted.

    Returns:
        The plans now in force, by kind of work.

    Raises:
        OutputError: the file cannot be written.
    """
    path = file or default_root() / FILE
    met = _meet(adapter, step)
    if not met:
        return {}
    device = _device_name(next(iter(adapter.deltas.values())).device)
    remembered = _read(path)
    known: dict[str, costs.Plan] = dict(remembered.get(device, {}))
    missing = {key: each for key, each in met.items() if key not in known}
    if missing:
        known |= {key: _fastest(*each, timer or _median) for key, each in missing.items()}
        with atomic_write(path, force=True) as temporary:
            temporary.write_text(json.dumps({**remembered, device: known}, indent=1, sort_keys=True))
    plans = {key: known[key] for key in met}
    for layer in adapter.layers():
        layer.tuned = plans
    return plans


def _meet(adapter: Adapter, step: Callable[[], object]) -> dict[str, tuple[ShiftedLayer, Tensor, costs.Work]]:
    """One example of each kind of work in a step: a layer, and an input of that shape and dtype without values."""
    met: dict[str, tuple[ShiftedLayer, Tensor, costs.Work]] = {}

    def note(layer: ShiftedLayer, x: Tensor, work: costs.Work) -> None:
        met.setdefault(work.key(), (layer, torch.empty_like(x, device="meta"), work))

    layers, deltas = adapter.layers(), adapter.deltas.values()
    gradients = [delta.grad for delta in deltas]
    for layer in layers:
        layer.observer = note
    try:
        for delta in deltas:
            delta.grad = None
        step()
    finally:
        for layer in layers:
            layer.observer = None
        for delta, gradient in zip(deltas, gradients, strict=True):
            delta.grad = gradient
    return met


def _fastest(layer: ShiftedLayer, like: Tensor, work: costs.Work, timer: Timer) -> costs.Plan:
    """The plan that takes least, what is made once for each value of delta included."""
    x = torch.zeros_like(like, device=layer.delta.device)
    if x.is_floating_point():
        x = x.normal_().requires_grad_(work.input_gradient)
    learning = [tensor for tensor in (layer.delta, x) if tensor.requires_grad]

    def run() -> None:
        layer.forget()
        y = layer.forward(x)
        if learning:
            torch.autograd.grad(y.sum(), learning)

    seconds: dict[costs.Plan, float] = {}
    chosen = layer.plan
    try:
        for plan in costs.plans(work):
            layer.plan = plan
            seconds[plan] = timer(run)
    finally:
        layer.plan = chosen
        layer.forget()
    return min(seconds, key=lambda plan: seconds[plan])


def _median(run: Callable[[], object]) -> float:
    times = []
    for _ in range(1 + REPETITIONS):
        began = time.perf_counter()
        run()
        if torch.accelerator.is_available():
            torch.accelerator.synchronize()
        times.append(time.perf_counter() - began)
    return statistics.median(times[1:])


def _device_name(device: torch.device) -> str:
    """What the plans are remembered for: device, threads and PyTorch's version."""
    if device.type == "cuda":
        name = torch.cuda.get_device_name(device)
    else:
        name = f"{device.type} {platform.processor() or platform.machine()} {torch.get_num_threads()} threads"
    return f"{name}, torch {torch.__version__}"


def _read(path: Path) -> Mapping[str, Any]:
    """The plans remembered for each device; none where the file is missing or damaged: it is made again."""
    try:
        found = read_json(path)
    except (OSError, ValueError):
        return {}
    known = get_args(costs.Plan)
    return {
        device: {key: plan for key, plan in plans.items() if plan in known}
        for device, plans in (found.items() if isinstance(found, dict) else ())
        if isinstance(plans, dict)
    }
