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
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from spectra.benchmarks.case import Bench, Case, Column, Goal, Row, Value
from spectra.benchmarks.steps.methods import FORM, METHODS, VARIANTS, Method, prepare
from spectra.benchmarks.steps.models import MODELS, denoiser

if TYPE_CHECKING:
    from torch import Tensor

PARTS = ("weights", "trained", "bases", "materialized", "saved", "gradients", "optimizer")


def count(method: Method) -> dict[str, int]:
    """Bytes of one step, by `PARTS`. Leaves gradients on the method's parameters."""
    import torch

    method.settle()
    parameters = list(method.parameters.values())
    own = {id(parameter) for parameter in parameters}
    module = method.model.module
    frozen = _storages(v for v in [*module.parameters(), *module.buffers()] if id(v) not in own)
    trained = _storages(parameters)
    bases = _storages([*method.constants, *_held(method)])
    known = frozen | trained | bases

    saved: list[Tensor] = []
    with (
        fused_attention(method),
        torch.autograd.graph.saved_tensors_hooks(lambda t: saved.append(t) or t, lambda t: t),  # type: ignore[func-returns-value]
    ):
        loss = method.forward()
    kept = _storages(_held(method))
    at_forward = {key: size for key, size in _storages(saved).items() if key not in known | kept}
    loss.backward()
    # A backward may leave something behind as well; what autograd saved and freed is not held.
    kept = {key: size for key, size in _storages(_held(method)).items() if key not in known}

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
        "gradients": sum(_storages(p.grad for p in parameters if p.grad is not None).values()),
        "optimizer": sum(_storages(state).values()),
    }


def _storages(tensors: Iterable[Tensor]) -> dict[int, int]:
    """Bytes of each storage under the tensors, once."""
    found = (tensor.untyped_storage() for tensor in tensors)
    return {storage._cdata: storage.nbytes() for storage in found}


def _held(method: Method) -> list[Tensor]:
    """Every tensor that spectra's layers hold, delta, the module's own and the cache's files apart."""
    from spectra.layers.singular_vectors import SingularVectors

    found: list[Tensor] = []
    for layer in method.layers():
        for holder in (layer, *(v for v in vars(layer).values() if isinstance(v, SingularVectors))):
            _collect({name: v for name, v in vars(holder).items() if name not in _NOT_OWN}, found)
    return found


_NOT_OWN = ("module", "_module", "delta", "change", "spectrum", "_directions", "_shifted")
"""What a layer holds that is counted elsewhere, or is a file mapped into memory."""


def _collect(value: Any, found: list[Tensor]) -> None:
    import torch

    if isinstance(value, torch.Tensor):
        found.append(value)
    elif isinstance(value, dict):
        for inner in value.values():
            _collect(inner, found)
    elif isinstance(value, (list, tuple)):
        for inner in value:
            _collect(inner, found)
    elif hasattr(value, "__dataclass_fields__"):
        _collect(vars(value), found)


@contextlib.contextmanager
def fused_attention(method: Method) -> Iterator[None]:
    """On the meta device PyTorch would write attention out, with its probabilities: no real device does."""
    from unittest import mock

    import torch

    def fused(
        query: Tensor,
        key: Tensor,
        value: Tensor,
        attn_mask: Tensor | None = None,
        dropout_p: float = 0.0,
        is_causal: bool = False,
        scale: float | None = None,
        **kwargs: Any,
    ) -> Tensor:
        attend = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu
        out: Tensor = attend(query, key, value, dropout_p, is_causal, attn_mask=attn_mask, scale=scale)[0]
        return out

    if not next(iter(method.model.inputs.values())).is_meta:
        yield
        return
    with mock.patch("torch.nn.functional.scaled_dot_product_attention", fused):
        yield


def _measure(bench: Bench, item: str) -> Row:
    import torch

    model, _ = denoiser(
        str(bench.settings["model"]),
        resolution=bench.integer("resolution"),
        batch=bench.integer("batch"),
        dtype=getattr(torch, str(bench.settings["dtype"])),
    )
    weights = sum(_storages([*model.module.parameters(), *model.module.buffers()]).values())
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
