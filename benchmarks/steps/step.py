"""Wall clock of one training step of each method, interleaved in one run: forward, backward and AdamW's step.

Weights are random (the embedded base has its own), and their spectra are decomposed first. AdamW is PyTorch's fused
one for every method, with a learning rate of 0: it does all its work and the methods go on sharing the base's weights.
Before anything is timed, spectra's gradient is held against the paper's formula's.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from spectra.benchmarks.case import Bench, Case, Column, Goal, Row, Value
from spectra.benchmarks.steps.methods import METHODS, VARIANTS, Method, Spectra, prepare
from spectra.benchmarks.steps.models import denoiser
from spectra.errors import InputError

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
    """`||g - p|| / ||p||` of one step, with spectra's gradient `g` and the paper's formula's `p`."""
    paper, ours = gradient(methods["paper"]), gradient(methods["spectra"])
    return float(f"{float((ours - paper).norm() / paper.norm()):.3g}")


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
    methods = {name: prepare(name, model, spectra) for name in chosen(bench)}
    if bench.settings.get("tune") and "spectra" in methods:
        tune(methods["spectra"])
    return methods


def tune(method: Method) -> None:
    """Lets spectra measure its plans; what it finds is not remembered."""
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


def _measured(bench: Bench) -> dict[str, dict[str, Any]]:
    """A row of each method."""
    methods = prepared(bench)
    trained = {name: sum(p.numel() for p in method.parameters.values()) for name, method in methods.items()}
    rows: dict[str, dict[str, Any]] = {name: {"method": name, "trained": trained[name]} for name in methods}
    if {"paper", "spectra"} <= methods.keys():
        rows["spectra"]["gradient_error"] = gradient_error(methods)
    times = bench.time({name: stepper(method) for name, method in methods.items()})
    for name, row in rows.items():
        row["step_s"] = times[name].row()
        row["ratio"] = round(times[name].median / times["frozen"].median, 4) if "frozen" in times else None
    return rows


def _measure(bench: Bench, item: str) -> Row:
    row: Row = bench.once("measured", lambda: _measured(bench))[item]
    return row


def _summarise(bench: Bench, rows: Sequence[Row]) -> Row:
    seconds = {row["method"]: row["step_s"]["median"] for row in rows}
    summary = {
        f"{slow}_over_{fast}": round(seconds[slow] / seconds[fast], 4)
        for slow, fast in (("spectra", "lora"), ("low-memory", "lora"), ("paper", "spectra"), ("full", "spectra"))
        if {slow, fast} <= seconds.keys()
    }
    errors = [row["gradient_error"] for row in rows if "gradient_error" in row]
    return {**summary, "gradient_error": errors[0]} if errors else summary


_UNDER: Mapping[str, Sequence[Value]] = {
    "model": ["sd15"],
    "resolution": [256],
    "batch": [2],
    "device": ["cpu"],
    "dtype": ["float32"],
}

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
        "tune": False,
        "repetitions": 5,
        "seed": 0,
    },
    columns=(
        Column("method"),
        Column("trained", "trained floats", ",.0f"),
        Column("step_s", "step, s", ".3f"),
        Column("ratio", form=".3f"),
    ),
    goals=(
        Goal("spectra_over_lora", "<=", 1.05, _UNDER),
        Goal("paper_over_spectra", ">=", 4.5, _UNDER),
        # Of the paper's own, in float32: a speed counts only where the result is right.
        Goal("gradient_error", "<=", 1e-3, {"dtype": ["float32"]}),
    ),
    needs=("peft",),
)
"""A `resolution` of 0 is the model's own; with `tune`, spectra chooses its plans by measuring (`spectra.tune`)."""
