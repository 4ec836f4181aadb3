"""For the day a GPU is there: one command that checks every kernel on it and then times kernels and whole steps.

    check ...    a kernel on odd shapes against float64: its error, as a multiple of plain PyTorch's in the same type
    kernel ...   the same on a layer's shapes, then forward and backward timed in turns: ours, PyTorch's products
                 (cuBLAS), the same compiled, and for scale what a LoRA of rank 4 adds to the layer
    step ...     a whole training step of every method, PEFT's LoRA among them, as `spectra bench step` runs it, eager
                 or compiled

A kernel whose error is more than twice plain PyTorch's is not timed: its row fails. `--set device=cpu --set tiny=true`
runs all of it small on a CPU, where PyTorch takes the place of Triton.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from spectra.benchmarks.case import Bench, Case, Column, Goal, Row
from spectra.benchmarks.kernels.jobs import JOBS, Made, error_ratio, lora, results
from spectra.benchmarks.kernels.uses import MIDDLING, NARROW, WIDE, Problem
from spectra.benchmarks.steps import step
from spectra.benchmarks.steps.methods import FORM, Method
from spectra.errors import InputError

if TYPE_CHECKING:
    from torch import Tensor

ALLOWED = 2.0
"""Times plain PyTorch's error that a kernel may make."""

SHAPES = {"narrow": NARROW, "middling": MIDDLING, "wide": WIDE}

ODD = {"one row": Problem(1, 65, 33, 70), "odd": Problem(77, 321, 317, 333), "long": Problem(4099, 40, 24, 360)}

TINY = {"tiny": Problem(24, 16, 12, 40)}

_DTYPES = {"bf16": "bfloat16", "fp16": "float16", "fp32": "float32"}

_CALLS = 20
"""Calls of a kernel in one timing on a GPU, where a launch is short beside the clock."""


def _shapes(bench: Bench) -> tuple[dict[str, Problem], dict[str, Problem]]:
    return (TINY, TINY) if bench.settings["tiny"] else (ODD, SHAPES)


def _items(bench: Bench) -> list[str]:
    import torch

    device = str(bench.settings["device"])
    if device == "cuda" and not torch.cuda.is_available():
        raise InputError("no GPU here: PyTorch finds no CUDA or ROCm device; --set device=cpu --set tiny=true tries it")
    checks, shapes = _shapes(bench)
    compiled = [f"step {name}, compiled" for name in _models(bench)] if bench.settings["compiler"] else []
    return [
        *(f"check {job}, {shape}, {dtype}" for job in JOBS for shape in checks for dtype in _DTYPES),
        *(f"kernel {job}, {shape}, {dtype}" for job in JOBS for shape in shapes for dtype in ("bf16", "fp32")),
        *(f"step {name}, eager" for name in _models(bench)),
        *compiled,
    ]


def _models(bench: Bench) -> list[str]:
    return [name for name in str(bench.settings["models"]).split(",") if name]


def _measure(bench: Bench, item: str) -> Row:
    kind, _, rest = item.partition(" ")
    if kind == "step":
        name, _, how = rest.partition(", ")
        return {"item": item, **_step(bench, name, how == "compiled")}
    job_name, shape, dtype = rest.split(", ")
    problem = _shapes(bench)[kind == "kernel"][shape]
    return {"item": item, **_kernel(bench, job_name, problem, dtype, timed=kind == "kernel")}


def _kernel(bench: Bench, name: str, problem: Problem, dtype: str, *, timed: bool) -> Row:
    import torch

    from spectra import kernels

    made = Made(str(bench.settings["device"]), getattr(torch, _DTYPES[dtype]), bench.seed)
    job = JOBS[name](problem, made)
    floating = [x for x in job.inputs if x.dtype == getattr(torch, _DTYPES[dtype])]
    row: dict[str, Any] = {
        "backend": "triton" if kernels.uses_triton(floating[0]) else "torch",
        "error_ratio": error_ratio(job, bench.seed),
    }
    if row["error_ratio"] > ALLOWED:
        raise ValueError(f"its error is {row['error_ratio']} times plain PyTorch's; {ALLOWED} is allowed")
    if timed:
        variants = {"ours": job.ours, "plain": job.plain}
        if bench.settings["compiler"]:
            variants["compiled"] = torch.compile(job.plain, backend=str(bench.settings["compiler"]), dynamic=False)
        calls = {key: _repeated(function, job.inputs) for key, function in variants.items()}
        times = bench.time({**calls, "lora": _repeated(*lora(problem, made))}, warm_up=3)
        count = _calls(made.device)
        row |= {f"{key}_us": round(1e6 * spread.median / count, 3) for key, spread in times.items()}
        row["plain_over_ours"] = round(times["plain"].median / times["ours"].median, 3)
    return row


def _calls(device: str) -> int:
    return _CALLS if device == "cuda" else 1


def _repeated(function: Callable[..., Tensor], inputs: Sequence[Tensor]) -> Callable[[], None]:
    def run() -> None:
        for _ in range(_calls(inputs[0].device.type)):
            results(function, inputs)

    return run


def _step(bench: Bench, name: str, compiled: bool) -> Row:
    """Milliseconds of a step of each method, what each took of the device's memory, and our gradients' error."""
    import torch

    methods = "frozen,lora-4,svdiff,shift" if compiled else "frozen,lora-4,full,paper,svdiff,shift"
    settings = {**bench.settings, "model": name, "methods": methods, "resolution": 0}
    made = step.prepared(Bench(settings, bench.progress))
    row: dict[str, Any] = {"backend": "triton" if settings["device"] == "cuda" else "torch"}
    if not compiled:
        row["gradient_error"] = max(step.gradient_error(made), step.shift_error(made["shift"]))
    else:
        made = {key: _compiled(method, str(settings["compiler"])) for key, method in made.items()}
    steps = {key: step.stepper(method) for key, method in made.items()}
    row["peak_mb"] = {key: _peak(run) for key, run in steps.items()} if settings["device"] == "cuda" else None
    times = bench.time(steps)
    row |= {f"{key}_us": round(1e6 * spread.median, 1) for key, spread in times.items()}
    row["shift_over_lora"] = round(times["shift"].median / times["lora-4"].median, 4)
    row["ours_us"], row["lora_us"] = row["shift_us"], row["lora-4_us"]
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
    return row


def _compiled(method: Method, compiler: str) -> Method:
    import torch

    module: Any = torch.compile(method.model.module, backend=compiler, dynamic=False)
    return replace(method, model=replace(method.model, module=module))


def _peak(run: Callable[[], None]) -> float:
    """MB that one step allocates at most, beyond what was there."""
    import torch

    run()  # the optimizer's state and the tuner's choices are there from now on
    before = torch.cuda.memory_allocated()
    torch.cuda.reset_peak_memory_stats()
    run()
    return round((torch.cuda.max_memory_allocated() - before) / 1e6, 1)


def _summarise(bench: Bench, rows: Sequence[Row]) -> Row:
    checked = [row["error_ratio"] for row in rows if "error_ratio" in row]
    steps = {row["item"]: row["shift_over_lora"] for row in rows if "shift_over_lora" in row}
    kernels = [row["plain_over_ours"] for row in rows if "plain_over_ours" in row]
    summary: dict[str, Any] = {f"shift_over_lora, {item}": ratio for item, ratio in steps.items()}
    if checked:
        summary["error_ratio"] = max(checked)
    if kernels:
        summary["kernels_faster_than_plain"] = f"{sum(ratio > 1 for ratio in kernels)} of {len(kernels)}"
    return summary


CASE = Case(
    name="gpu",
    title="on a GPU: kernels checked, then timed; whole training steps",
    key="item",
    items=_items,
    measure=_measure,
    summarise=_summarise,
    settings={
        "device": "cuda",
        "models": "sd15,sdxl",
        "batch": 2,
        "dtype": "bfloat16",
        "compiler": "inductor",
        **FORM,
        "tiny": False,
        "repetitions": 10,
        "seed": 0,
    },
    columns=(
        Column("item"),
        Column("error_ratio", "error", ".2f"),
        Column("ours_us", "ours, us", ",.1f"),
        Column("plain_us", "plain", ",.1f"),
        Column("compiled_us", "compiled", ",.1f"),
        Column("lora_us", "LoRA", ",.1f"),
    ),
    goals=(Goal("error_ratio", "<=", ALLOWED),),
    needs=("peft",),
)
"""`compiler` is torch.compile's backend, empty for none; each of `models` is measured at its own size."""
