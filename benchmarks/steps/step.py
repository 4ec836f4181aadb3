"""Wall clock of one training step of each method, interleaved in one run: forward, backward and AdamW's step.

Weights are random (the embedded base has its own), and their spectra are decomposed first. AdamW is PyTorch's fused
one for every method, with a learning rate of 0: it does all its work and the methods go on sharing the base's weights.
`cpu_s` is the process's CPU time, of all threads. Before anything is timed, svdiff's gradient is held against the
paper's formula's, and a shift's against that of its own formula: each weight made with its change, and autograd through
it.
"""

from __future__ import annotations

import contextlib
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from spectra.benchmarks.case import Bench, Case, Column, Goal, Row, Value
from spectra.benchmarks.steps.methods import FORM, METHODS, VARIANTS, Method, prepare
from spectra.benchmarks.steps.models import denoiser
from spectra.errors import InputError
from spectra.spectrum.placeholders import Spectra

if TYPE_CHECKING:
    from torch import Tensor


def stepper(method: Method) -> Callable[[], None]:
    """One training step, to be called again and again."""
    import torch

    parameters = list(method.parameters.values())
    optimizer = torch.optim.AdamW(parameters, lr=0.0, fused=True) if parameters else None

    def step() -> None:
        method.step()
        if optimizer is not None:
            optimizer.step()
        method.forget()

    return step


def gradient(method: Method) -> Tensor:
    """The gradients of one step, one after the other: float32 on the CPU."""
    import torch

    method.step()
    grads = [p.grad for p in method.parameters.values() if p.grad is not None]
    flat = torch.cat([grad.flatten().float().cpu() for grad in grads])
    method.forget()
    return flat


def gradient_error(methods: Mapping[str, Method]) -> float:
    """`||g - p|| / ||p||` of one step, with svdiff's gradient `g` and the paper's formula's `p`."""
    return _error(gradient(methods["svdiff"]), gradient(methods["paper"]))


def shift_error(method: Method) -> float:
    """The same of a shift, with `p` by the plain formula."""
    ours = gradient(method)
    with plain_formula(method):
        return _error(ours, gradient(method))


def _error(found: Tensor, wanted: Tensor) -> float:
    return float(f"{float((found - wanted).norm() / wanted.norm()):.3g}")


@contextlib.contextmanager
def plain_formula(method: Method) -> Iterator[None]:
    """Within the block a shift's layers make their weight with its change in each forward, for autograd."""
    from unittest import mock

    from spectra.layers.changed_weight import changed_weight
    from spectra.layers.functional_call import with_parameters

    def forward(layer: Any, x: Tensor) -> Tensor:
        weight = changed_weight(layer.module.weight, layer.spectrum, layer.change)
        return with_parameters(layer.module, {"weight": weight}, x)

    with contextlib.ExitStack() as patches:
        for layer in method.layers():
            patches.enter_context(mock.patch.object(layer.module, "forward", partial(forward, layer)))
        yield


def prepared(bench: Bench) -> dict[str, Method]:
    """The methods of the setting `methods`, on twins of one model with values."""
    import torch

    model, _ = denoiser(
        str(bench.settings["model"]),
        resolution=bench.integer("resolution"),
        batch=bench.integer("batch"),
        device=str(bench.settings["device"]),
        dtype=getattr(torch, str(bench.settings["dtype"])),
        seed=bench.seed,
    )
    spectra = Spectra()
    form = bench.integer("directions"), bench.integer("outer")
    methods = {name: prepare(name, model, spectra, "", *form) for name in chosen(bench)}
    if bench.settings.get("tune") and "svdiff" in methods:
        tune(methods["svdiff"])
    return methods


def tune(method: Method) -> None:
    """Lets svdiff measure its plans; what it finds is not remembered."""
    import spectra

    if method.adapter is not None:
        with tempfile.TemporaryDirectory() as folder:
            spectra.tune(method.adapter, method.step, file=Path(folder) / "plans.json")


def chosen(bench: Bench) -> list[str]:
    """The setting `methods`, as a list.

    Raises:
        InputError: a name that is in neither `METHODS` nor `VARIANTS`.
    """
    names, known = str(bench.settings["methods"]).split(","), [*METHODS, *VARIANTS]
    unknown = [name for name in names if name not in known]
    if unknown:
        raise InputError(f"no method is called {unknown[0]!r}; there are: {', '.join(known)}")
    return names


def _clocked(run: Callable[[], None], seconds: list[float]) -> Callable[[], None]:
    """`run`, which notes its seconds of CPU time: what other work on the machine changes less than the clock's."""

    def clocked() -> None:
        before = time.process_time()
        run()
        seconds.append(time.process_time() - before)

    return clocked


def _measured(bench: Bench) -> dict[str, dict[str, Any]]:
    """A row of each method."""
    methods = prepared(bench)
    trained = {name: sum(p.numel() for p in method.parameters.values()) for name, method in methods.items()}
    rows: dict[str, dict[str, Any]] = {name: {"method": name, "trained": trained[name]} for name in methods}
    if {"paper", "svdiff"} <= methods.keys():
        rows["svdiff"]["gradient_error"] = gradient_error(methods)
    if "shift" in methods:
        rows["shift"]["gradient_error"] = shift_error(methods["shift"])
    seconds: dict[str, list[float]] = {name: [] for name in methods}
    times = bench.time({name: _clocked(stepper(method), seconds[name]) for name, method in methods.items()})
    for name, row in rows.items():
        row["step_s"] = times[name].row()
        row["cpu_s"] = round(statistics.median(seconds[name][-bench.integer("repetitions") :]), 4)
        row["ratio"] = round(times[name].median / times["frozen"].median, 4) if "frozen" in times else None
    return rows


def _measure(bench: Bench, item: str) -> Row:
    row: Row = bench.once("measured", lambda: _measured(bench))[item]
    return row


def _summarise(bench: Bench, rows: Sequence[Row]) -> Row:
    clocks = {
        "": {row["method"]: row["step_s"]["median"] for row in rows},
        "_cpu": {row["method"]: row["cpu_s"] for row in rows},
    }
    summary = {
        f"{slow}_over_{fast}{clock}": round(seconds[slow] / seconds[fast], 4)
        for clock, seconds in clocks.items()
        for slow, fast in RATIOS
        if {slow, fast} <= seconds.keys()
    }
    errors = [row["gradient_error"] for row in rows if "gradient_error" in row]
    return {**summary, "gradient_error": max(errors)} if errors else summary


RATIOS = (
    ("shift", "lora-4"),
    ("shift", "lora-16"),
    ("svdiff", "lora-4"),
    ("low-memory", "lora-4"),
    ("paper", "svdiff"),
    ("full", "shift"),
)
"""Methods whose times are compared."""


_UNDER: Mapping[str, Sequence[Value]] = {
    "model": ["sd15"],
    "resolution": [256],
    "batch": [2],
    "device": ["cpu"],
    "dtype": ["float32"],
}

_FORM: Mapping[str, Sequence[Value]] = {name: [value] for name, value in FORM.items()}

CASE = Case(
    name="step",
    title="seconds of a training step, all methods interleaved",
    key="method",
    figure="ratio",
    items=chosen,
    measure=_measure,
    summarise=_summarise,
    settings={
        "model": "sd15",
        "resolution": 256,
        "batch": 2,
        "device": "cpu",
        "dtype": "float32",
        "methods": ",".join(METHODS),
        **FORM,
        "tune": False,
        "repetitions": 5,
        "seed": 0,
    },
    columns=(
        Column("method"),
        Column("trained", "trained floats", ",.0f"),
        Column("step_s", "step, s", ".3f"),
        Column("cpu_s", "of CPU, s", ".3f"),
        Column("ratio", form=".3f"),
    ),
    goals=(
        Goal("shift_over_lora-16", "<=", 1.0, {**_UNDER, **_FORM}),
        Goal("shift_over_lora-4", "<=", 1.03, {**_UNDER, **_FORM}),
        Goal("svdiff_over_lora-4", "<=", 1.05, _UNDER),
        Goal("paper_over_svdiff", ">=", 4.5, _UNDER),
        # Of the plain formula's, in float32: a speed counts only where the result is right.
        Goal("gradient_error", "<=", 1e-3, {"dtype": ["float32"]}),
    ),
    needs=("peft",),
)
"""A `resolution` of 0 is the model's own; with `tune`, svdiff chooses its plans by measuring (`spectra.tune`)."""
