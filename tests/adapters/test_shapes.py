"""A model on the meta device: what its training would cost, counted without values."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from small_models import MODELS, build
from torch import nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

import spectra
from spectra.adapters.binding import Binding
from spectra.adapters.training_adapter import Adapter
from spectra.layers import costs
from spectra.spectrum.placeholders import placeholder

TARGETS = {"clip": "text-encoder", "t5": "text-encoder"}


def attach_shapes(model: nn.Module, targets: str, tail: float) -> Adapter:
    """An adapter of a model without values, with spectra that have none either."""

    def bind(chosen: Any, directions: Any) -> dict[str, Binding]:
        return {t.name: Binding(t, placeholder(t.weight, tail) if t.weight.ndim > 1 else None) for t in chosen}

    return Adapter(model, targets, bind)


def counted(adapter: Any, call: Any) -> int:
    """Of a step with a delta, after one that settles which sides are kept."""
    deltas = adapter.train().by_key
    with torch.no_grad():
        for delta in deltas.values():
            delta += 1e-7
    call()
    for layer in adapter.layers():
        layer.forget()
    with FlopCounterMode(display=False) as counter, sdpa_kernel(SDPBackend.MATH):
        call().sum().backward()
    return counter.get_total_flops()


@pytest.mark.parametrize("kind", ["unet", "sd3", "flux", "clip"])
def test_counts_are_those_of_real_weights(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Orthogonal weights have no small singular values: what is assumed of a meta tensor's holds for them."""
    monkeypatch.setattr(costs, "balance", lambda device: 10)  # a meta tensor stands for an accelerator's
    model, call = build(kind)
    for module in model.modules():
        weight = getattr(module, "weight", None)
        if weight is not None and weight.ndim > 1 and weight.shape.numel() > 0:
            nn.init.orthogonal_(weight)
    adapter = spectra.attach(model, TARGETS.get(kind, "denoiser"))
    real = counted(adapter, call)
    adapter.detach()

    with torch.device("meta"):
        empty, blank = MODELS[kind]()
        adapter = attach_shapes(empty.eval(), TARGETS.get(kind, "denoiser"), tail=0)
        assert counted(adapter, blank) == real > 0
        assert all(delta.grad.is_meta for delta in adapter.deltas.values() if delta.grad is not None)
        adapter.detach()
        wide = attach_shapes(empty, TARGETS.get(kind, "denoiser"), tail=0.25)
        assert counted(wide, blank) != real  # not always more: both sides then pay where they did not
