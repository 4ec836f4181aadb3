"""Bytes of one training step of each method, by what they hold; counted on the meta device.

    weights    of the model, as far as the method keeps them (the paper's formula drops those that it makes anew)
    trained    parameters that the method adds
    bases      frozen tensors that it adds: spectra's bases, sigmas and tails, a shift's K columns of U and V; the
               paper's U, sigma and V
    materialized  shifted weights, and whatever else its layers keep from one step to the next
    saved      storages that autograd keeps from forward to backward, each once, and none of the above
    gradients  of everything trained
    optimizer  AdamW's state

`beyond` is their sum less the frozen model's weights. Attention is PyTorch's fused one, as it runs on any device. What
lives only for the time of one operation is not counted, nor are the spectrum cache's files, of which the bases are made
in the base's precision, on its device. Spectra's plans are those of the setting `device`: "cuda", a data-centre GPU, or
"cpu". `share_of_lora` compares `beyond` with LoRA of rank 4; both hold the base's own activations, the `frozen` row's
`saved`.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING

from spectra.benchmarks.case import Bench, Case, Column, Goal, Row, Value
from spectra.benchmarks.steps.methods import FORM, METHODS, VARIANTS, Method, prepare
from spectra.benchmarks.steps.models import MODELS, denoiser

if TYPE_CHECKING:
    from torch import Tensor

PARTS = ("weights", "trained", "bases", "materialized", "saved", "gradients", "optimizer")


def count(method: Method) -> dict[str, int]:
    """Bytes of one step, by `PARTS`. Leaves gradients on the method's parameters."""
    import torch

    from spectra.planning.held_tensors import held_tensors
    from spectra.planning.saved_tensors import storages

    method.settle()
    parameters = list(method.parameters.values())
    own = {id(parameter) for parameter in parameters}
    module = method.model.module
    frozen = storages(v for v in [*module.parameters(), *module.buffers()] if id(v) not in own)
    trained = storages(parameters)
    bases = storages([*method.constants, *held_tensors(method.layers())])
    known = frozen | trained | bases

    saved: list[Tensor] = []
    with (
        attention_as_on_a_device(method),
        torch.autograd.graph.saved_tensors_hooks(lambda t: saved.append(t) or t, lambda t: t),  # type: ignore[func-returns-value]
    ):
        loss = method.forward()
    kept = storages(held_tensors(method.layers()))
    at_forward = {key: size for key, size in storages(saved).items() if key not in known | kept}
    loss.backward()
    # A backward may leave something behind as well; what autograd saved and freed is not held.
    kept = {key: size for key, size in storages(held_tensors(method.layers())).items() if key not in known}

    if parameters:
        optimizer = torch.optim.AdamW(parameters, lr=0.0)
        optimizer.step()
        state = [v for entry in optimizer.state.values() for v in entry.values() if isinstance(v, torch.Tensor)]
    else:
        state = []
    full = own >= {id(parameter) for parameter in module.parameters()}
    return {
        "weights": sum(frozen.values()) + (sum(trained.values()) if full else 0),
        "trained": 0 if full else sum(trained.values()),
        "bases": sum(bases.values()),
        "materialized": sum(kept.values()),
        "saved": sum(at_forward.values()),
        "gradients": sum(storages(p.grad for p in parameters if p.grad is not None).values()),
        "optimizer": sum(storages(state).values()),
    }


@contextlib.contextmanager
def attention_as_on_a_device(method: Method) -> Iterator[None]:
    """Fused attention, which the meta device has not by itself."""
    from spectra.planning.fused_attention import fused_attention

    with fused_attention() if next(iter(method.model.inputs.values())).is_meta else contextlib.nullcontext():
        yield


def _measure(bench: Bench, item: str) -> Row:
    import torch

    from spectra.planning.saved_tensors import storages

    model, _ = denoiser(
        str(bench.settings["model"]),
        resolution=bench.integer("resolution"),
        batch=bench.integer("batch"),
        dtype=getattr(torch, str(bench.settings["dtype"])),
    )
    weights = sum(storages([*model.module.parameters(), *model.module.buffers()]).values())
    form = bench.integer("directions"), bench.integer("outer")
    parts = count(prepare(item, model, None, str(bench.settings["device"]), *form))
    return {"method": item, "device": bench.settings["device"], **parts, "beyond": sum(parts.values()) - weights}


def _summarise(bench: Bench, rows: Sequence[Row]) -> Row:
    beyond = {row["method"]: row["beyond"] for row in rows}
    return {
        f"{name}{ours}": round(beyond[method] / beyond[rival], 4)
        for name, method in (("", "shift"), ("svdiff_", "svdiff"))
        for ours, rival in (("share_of_lora", "lora-4"), ("share_of_full", "full"))
        if {method, rival} <= beyond.keys()
    }


def _megabytes(part: str) -> Column:
    return Column(part, form=",.0f", unit=1e6)


_UNDER: Mapping[str, Sequence[Value]] = {
    "model": ["sd15"],
    "resolution": [0, MODELS["sd15"][0]],
    "batch": [2],
    "device": ["cuda"],
}

CASE = Case(
    name="memory",
    title="bytes of a training step, by what they hold (MB)",
    key="method",
    figure="beyond",
    items=lambda bench: [*METHODS, *VARIANTS],
    measure=_measure,
    summarise=_summarise,
    settings={"model": "sd15", "resolution": 0, "batch": 2, "dtype": "float32", "device": "cuda", **FORM},
    columns=(Column("method"), Column("device"), *(_megabytes(part) for part in (*PARTS, "beyond"))),
    goals=(
        Goal("share_of_lora", "<=", 0.8, {**_UNDER, **{name: [value] for name, value in FORM.items()}}),
        Goal("svdiff_share_of_lora", "<=", 1.2, _UNDER),
        Goal("svdiff_share_of_full", "<", 0.5, _UNDER),
    ),
    needs=("peft",),
)
"""A `resolution` of 0 is the model's own."""
