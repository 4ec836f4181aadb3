"""Training without the frozen weights: the paper's formula, and the base bit for bit afterwards."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from layer_kinds import KINDS, loss, paper
from layer_kinds import build as layer_of
from small_models import build
from torch import Tensor, nn

import spectra
from spectra.benchmarks.steps import memory
from spectra.benchmarks.steps.methods import prepare
from spectra.benchmarks.steps.models import denoiser
from spectra.errors import OutputError
from spectra.layers.frozen_operators import operator_of
from spectra.layers.shifted_layer import ShiftedLayer
from spectra.spectrum.decomposition import decompose


@pytest.mark.parametrize("kind", [kind for kind in KINDS if operator_of(KINDS[kind][0]()) is not None])
def test_agrees_with_the_paper_in_float64(kind: str) -> None:
    module, x = layer_of(kind)
    spectrum = decompose(module.weight)
    start = (torch.randn(spectrum.rank, dtype=torch.float64) * 0.3 * spectrum.sigma).float()
    start[0] = -2 * float(spectrum.sigma[0])  # clipped
    layer = ShiftedLayer(module, spectrum, start.clone().requires_grad_(), without_weight=True)
    inputs = x.clone().requires_grad_() if x.is_floating_point() else x
    y = layer.forward(inputs)
    loss(y).backward()
    reference = start.double().requires_grad_()
    exact_inputs = x.double().requires_grad_() if x.is_floating_point() else x
    exact = paper(module, reference, exact_inputs)
    loss(exact).backward()
    torch.testing.assert_close(y.double(), exact, rtol=2e-5, atol=2e-5 * float(exact.detach().abs().max()))
    torch.testing.assert_close(
        layer.delta.grad.double(), reference.grad, rtol=1e-4, atol=1e-5 * float(reference.grad.abs().max())
    )
    assert layer.delta.grad[0] == 0
    if x.is_floating_point():
        torch.testing.assert_close(
            inputs.grad.double(), exact_inputs.grad, rtol=1e-4, atol=2e-5 * float(exact_inputs.grad.abs().max())
        )


def values(model: nn.Module) -> dict[str, Tensor]:
    return {name: value.clone() for name, value in model.state_dict().items()}


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("kind", ["unet", "clip"])
def test_the_base_comes_back_bit_for_bit(kind: str, dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch) -> None:
    model, call = build(kind)
    if kind == "unet":
        model.to(memory_format=torch.channels_last)
    targets = "text-encoder" if kind == "clip" else "denoiser"
    if dtype == torch.float32:
        with torch.no_grad():
            base = call()
    else:
        model.to(dtype)
    before, parameters = values(model), list(model.parameters())
    strides = [parameter.stride() for parameter in parameters]
    adapter = spectra.attach(model, targets, low_memory=True)
    dropped = [p for p in parameters if p.untyped_storage().nbytes() <= p.itemsize and p.numel() > 1]
    assert len(dropped) > 0.4 * len([p for p in parameters if p.ndim > 1])
    if dtype == torch.float32:
        deltas = adapter.train().by_key
        torch.testing.assert_close(call(), base, rtol=1e-3, atol=1e-4)
        call().square().sum().backward()
        assert all(torch.isfinite(delta.grad).all() for delta in deltas.values() if delta.grad is not None)
        with torch.no_grad():
            for delta in deltas.values():
                delta += 0.1
            assert (call() - base).abs().max() > 0.01
            with adapter.disabled():
                torch.testing.assert_close(call(), base, rtol=1e-3, atol=1e-4)
    adapter.detach()
    after = values(model)
    assert all(torch.equal(*(v[name].flatten().view(torch.uint8) for v in (after, before))) for name in before)
    assert list(model.parameters()) == parameters and [p.stride() for p in parameters] == strides


def test_gradients_are_those_of_the_other_plans() -> None:
    found = []
    for low_memory in (False, True):
        torch.manual_seed(0)
        model, call = build("unet")
        adapter = spectra.attach(model, "unet", low_memory=low_memory)
        deltas = adapter.train().by_key
        with torch.no_grad():
            for delta in deltas.values():
                delta += 0.01 * torch.randn(delta.shape, generator=torch.Generator().manual_seed(len(delta)))
        call().square().mean().backward()
        found.append(torch.cat([delta.grad for delta in deltas.values()]))
        adapter.detach()
    assert (found[0] - found[1]).norm() < 1e-4 * found[0].norm()


def test_no_room_for_the_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model, _ = build("unet")
    before = values(model)
    cache = spectra.spectrum.cache.spectrum_cache.default_cache()
    (tmp_path / "file").touch()
    monkeypatch.setattr("spectra.layers.weight_offload.default_root", lambda: tmp_path / "file")
    with pytest.raises(OutputError, match="cannot set weights aside"):
        spectra.attach(model, "unet-ca", low_memory=True, cache=cache)
    assert all(torch.equal(value, before[name]) for name, value in values(model).items())
    spectra.attach(model, "unet-ca", cache=cache).detach()


def test_it_takes_less_memory() -> None:
    """Counted: what W gives up is V's, and the basis beside it is there in either case."""
    model, _ = denoiser("embedded", batch=2)
    counted = {name: memory.count(prepare(name, model)) for name in ("svdiff", "low-memory")}
    totals = {name: sum(parts.values()) for name, parts in counted.items()}
    assert counted["low-memory"]["weights"] < 0.1 * counted["svdiff"]["weights"]
    assert totals["low-memory"] < totals["svdiff"]
