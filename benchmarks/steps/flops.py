"""FLOPs of one training step of each method, as a multiple of the frozen base's forward and backward.

Counted by `torch.utils.flop_counter` on the meta device: matrix products, convolutions and attention, a multiplication
and an addition each. Attention is fused, and counted as its plain products: two forth and four back. Passes over
vectors, the optimizer's step, and what a model's first step makes once and for all are not counted. A step is one
forward and one backward, so what a method makes once per optimizer step counts in full. Spectra's plans, and with them
its count, are those of the setting `device`: "cuda", a data-centre GPU, or "cpu", where memory is worth less.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from spectra.benchmarks.case import Bench, Case, Column, Goal, Row, Value
from spectra.benchmarks.steps.memory import attention_as_on_a_device
from spectra.benchmarks.steps.methods import FORM, METHODS, VARIANTS, Method, prepare
from spectra.benchmarks.steps.models import MODELS, denoiser

if TYPE_CHECKING:
    from torch.utils.flop_counter import FlopCounterMode

_ALL = {("sd15", 512, 1): 1.30, ("sd15", 512, 2): 1.25, ("sd15", 512, 8): 1.20, ("sd15", 256, 2): 1.40}
"""Model, resolution and batch to what svdiff's ratio is asked to be at most."""

_FEW = {
    ("sd15", 512, 1): 1.05,
    ("sd15", 512, 2): 1.05,
    ("sd15", 512, 8): 1.05,
    ("sdxl", 1024, 1): 1.04,
    ("sd3", 1024, 1): 1.02,
    ("flux", 1024, 1): 1.02,
}
"""The same for a shift of 32 directions and one term."""


def count(method: Method) -> tuple[int, int]:
    """FLOPs of the forward and of the backward of one step."""
    method.settle()
    with attention_as_on_a_device(method):
        with counter() as forward:
            loss = method.forward()
        with counter() as backward:
            loss.backward()
    return forward.get_total_flops(), backward.get_total_flops()


def counter() -> FlopCounterMode:
    """PyTorch's counter of flops, which by itself passes over products in place and a CPU's fused attention."""
    import torch
    from torch.utils.flop_counter import FlopCounterMode

    aten = torch.ops.aten
    others = {
        aten.addmm_: _product,
        aten.baddbmm_: _product,
        aten._scaled_dot_product_flash_attention_for_cpu: _attention,
        aten._scaled_dot_product_flash_attention_for_cpu_backward: _attention_backward,
    }
    return FlopCounterMode(display=False, custom_mapping=others)


def _product(added: Sequence[int], left: Sequence[int], right: Sequence[int], *_: object, **__: object) -> int:
    """`left [..., a, b]` times `right [..., b, c]`."""
    return 2 * math.prod(left) * right[-1]


def _attention(query: Sequence[int], key: Sequence[int], value: Sequence[int], *_: object, **__: object) -> int:
    """Two products, of shapes `[batch, heads, tokens, channels]`."""
    batch, heads, tokens, channels = query
    return 2 * batch * heads * tokens * key[2] * (channels + value[3])


def _attention_backward(grad: object, *shapes: Any, **__: object) -> int:
    """Four products; that fused attention makes its scores once more is no work of the formula's."""
    return 2 * _attention(*shapes[:3])


def _count(bench: Bench, name: str) -> Row:
    import torch

    model, shape = denoiser(
        str(bench.settings["model"]),
        resolution=bench.integer("resolution"),
        batch=bench.integer("batch"),
        dtype=getattr(torch, str(bench.settings["dtype"])),
    )
    form = bench.integer("directions"), bench.integer("outer")
    method = prepare(name, model, None, str(bench.settings["device"]), *form)
    forward, backward = count(method)
    return {
        "method": name,
        "device": bench.settings["device"],
        "resolution": shape.resolution,
        "weights": len(method.parameters),
        "trained": sum(parameter.numel() for parameter in method.parameters.values()),
        "forward": forward,
        "backward": backward,
        "tflop": round((forward + backward) / 1e12, 6),
    }


def _measure(bench: Bench, item: str) -> Row:
    frozen = bench.once("frozen", lambda: _count(bench, "frozen"))
    row = frozen if item == "frozen" else _count(bench, item)
    ratio = (row["forward"] + row["backward"]) / (frozen["forward"] + frozen["backward"])
    return {**row, "ratio": round(ratio, 4)}


def _summarise(bench: Bench, rows: Sequence[Row]) -> Row:
    ratios = {row["method"]: row["ratio"] for row in rows if row["method"] != "frozen"}
    if {"shift", "lora-16"} <= ratios.keys():
        ratios["shift_over_lora-16"] = round(ratios["shift"] / ratios["lora-16"], 4)
    return ratios


def _goal(step: tuple[str, int, int], asked: float, figure: str = "svdiff", **form: int) -> Goal:
    model, resolution, batch = step
    sizes = [resolution, 0] if resolution == MODELS[model][0] else [resolution]
    size: dict[str, Sequence[Value]] = {"model": [model], "resolution": sizes, "batch": [batch], "device": ["cuda"]}
    return Goal(figure, "<=", asked, {**size, **{name: [value] for name, value in form.items()}})


CASE = Case(
    name="flops",
    title="FLOPs of a training step, as a multiple of the frozen base's",
    key="method",
    figure="ratio",
    items=lambda bench: [*METHODS, *VARIANTS],
    measure=_measure,
    summarise=_summarise,
    settings={"model": "sd15", "resolution": 0, "batch": 2, "dtype": "float32", "device": "cuda", **FORM},
    columns=(
        Column("method"),
        Column("device"),
        Column("weights", "tensors"),
        Column("trained", "trained floats", ",.0f"),
        Column("tflop", "TFLOP", ".3f"),
        Column("ratio", form=".3f"),
    ),
    goals=(
        *(_goal(step, asked) for step, asked in _ALL.items()),
        *(_goal(step, asked, "shift", directions=32, outer=1) for step, asked in _FEW.items()),
        *(_goal(step, 1, "shift_over_lora-16", directions=16, outer=1) for step in _FEW),
    ),
    needs=("peft",),
)
"""A `resolution` of 0 is the model's own."""
