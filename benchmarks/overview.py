"""What bare `spectra bench` measures: one training step of each method on the embedded base's UNet, and its file.

    trained  floats that are trained: svdiff's and the paper's are the same
    file     bytes of the safetensors file that is stored, in float32; shift's and svdiff's with their metadata
    memory   bytes beyond the frozen weights: `spectra bench memory` has the parts
    FLOPs    of forward and backward, as a multiple of the frozen base's, attention included
    step     seconds of forward, backward and AdamW's step, all methods interleaved; `ratio` to the frozen base's

LoRA is PEFT's, of rank 4 and 16, on the same matrices. The frozen base is what every method pays for and trains
nothing. A model this small is no measure of a large one: `--set model=sd15` of `spectra bench flops`, `memory` and
`step` is.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from spectra.benchmarks.case import Bench, Case, Column, Goal, Row
from spectra.benchmarks.files import storage
from spectra.benchmarks.steps import flops, memory, step
from spectra.benchmarks.steps.methods import FORM, METHODS, Method


def file_bytes(name: str, method: Method, seed: int) -> int:
    """Bytes of the file that a training by this method leaves behind."""
    from safetensors.torch import save

    from spectra.shift.shift import SpectralShift

    if name == "shift" and method.adapter is not None:
        made = method.adapter.shift()
        described = replace(storage.sd15_metadata(list(made), "unet"), ndims=made.metadata.ndims)
        return storage.file_bytes(SpectralShift(dict(made), described, outer=made.outer))
    if name == "svdiff":
        lengths = {key.removesuffix(".delta"): len(delta) for key, delta in method.parameters.items()}
        return storage.written(lengths, "unet", "float32", seed)
    return len(save({key: parameter.detach().contiguous() for key, parameter in method.parameters.items()}))


def _measured(bench: Bench) -> dict[str, dict[str, Any]]:
    """A row of each method; counted first, timed last."""
    methods = step.prepared(bench)
    weights = sum(p.nbytes for p in methods["frozen"].model.module.parameters())
    rows: dict[str, dict[str, Any]] = {}
    for name, method in methods.items():
        parts = memory.count(method)
        method.forget()
        rows[name] = {
            "method": name,
            "trained": sum(parameter.numel() for parameter in method.parameters.values()),
            "file": file_bytes(name, method, bench.seed) if method.parameters else None,
            "memory": sum(parts.values()) - weights,
            "memory_parts": parts,
            "flops": sum(flops.count(method)),
        }
        method.forget()
    rows["svdiff"]["gradient_error"] = step.gradient_error(methods)
    rows["shift"]["gradient_error"] = step.shift_error(methods["shift"])
    times = bench.time({name: step.stepper(method) for name, method in methods.items()})
    for name, row in rows.items():
        row["step_s"] = times[name].row()
        row["flops_ratio"] = round(row["flops"] / rows["frozen"]["flops"], 4)
        row["step_ratio"] = round(times[name].median / times["frozen"].median, 4)
    return rows


def _measure(bench: Bench, item: str) -> Row:
    row: Row = bench.once("measured", lambda: _measured(bench))[item]
    return row


def _summarise(bench: Bench, rows: Sequence[Row]) -> Row:
    found = {row["method"]: row for row in rows}
    if not {"shift", "svdiff", "lora-4"} <= found.keys():
        return {}
    ours, lora = found["shift"], found["lora-4"]
    return {
        "file_over_lora": round(ours["file"] / lora["file"], 4),
        "memory_over_lora": round(ours["memory"] / lora["memory"], 4),
        "step_over_lora": round(ours["step_s"]["median"] / lora["step_s"]["median"], 4),
        "gradient_error": max(ours["gradient_error"], found["svdiff"]["gradient_error"]),
    }


CASE = Case(
    name="overview",
    title="a training step and its file, on the embedded base",
    key="method",
    items=lambda bench: list(METHODS),
    measure=_measure,
    summarise=_summarise,
    settings={
        "model": "embedded",
        "resolution": 0,
        "batch": 4,
        "device": "cpu",
        "dtype": "float32",
        "methods": ",".join(METHODS),
        **FORM,
        "repetitions": 15,
        "seed": 0,
    },
    columns=(
        Column("method"),
        Column("trained", form=",.0f"),
        Column("file", "file, kB", ",.0f", 1e3),
        Column("memory", "memory, MB", ",.1f", 1e6),
        Column("flops_ratio", "FLOPs", ".2f"),
        Column("step_s", "step, s", ".3f"),
        Column("step_ratio", "ratio", ".2f"),
    ),
    goals=(Goal("gradient_error", "<=", 1e-3),),
    plots=("file", "memory", "step_s"),
    needs=("peft",),
)
