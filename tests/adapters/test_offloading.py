"""accelerate's and diffusers' offloading, turned on after a shift is active or while one trains: the same numbers.

The devices are both the CPU here: hooks are put in, and parameters are replaced and wrapped, as on a GPU.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import quantised_models
import torch
from accelerate import cpu_offload, cpu_offload_with_hook
from diffusers.hooks import apply_group_offloading
from torch import Tensor, nn

import spectra
from spectra.errors import RoundedCopyWarning

CPU = torch.device("cpu")

OFFLOADING: dict[str, Callable[[nn.Module], Any]] = {
    "model": partial(cpu_offload_with_hook, execution_device=CPU),  # enable_model_cpu_offload
    "sequential": partial(cpu_offload, execution_device=CPU),  # enable_sequential_cpu_offload
    "leaves": partial(
        apply_group_offloading, onload_device=CPU, offload_device=CPU, offload_type="leaf_level"
    ),
    "blocks": partial(
        apply_group_offloading, onload_device=CPU, offload_device=CPU, offload_type="block_level",
        num_blocks_per_group=1,
    ),
}  # fmt: skip

CASES = [
    (kind, way)
    for kind in ("plain", "nf4", "int8", "gguf")
    for way in OFFLOADING
    # accelerate itself cannot take these apart: with or without a shift.
    if way != "sequential" or kind in ("plain", "int8")
]


@pytest.fixture(autouse=True)
def _quantised_spectra() -> Any:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RoundedCopyWarning)
        yield


def model(kind: str, folder: Path) -> nn.Module:
    plain = quantised_models.build()
    return plain if kind == "plain" else quantised_models.quantise(plain, kind, folder)


def output(model: Any) -> Tensor:
    with torch.no_grad():
        found: Tensor = model(**quantised_models.inputs()).sample
    return found


@pytest.mark.parametrize(("kind", "way"), CASES)
def test_offloading_after_a_shift_is_active(kind: str, way: str, tmp_path: Path) -> None:
    base = model(kind, tmp_path)
    adapter = spectra.attach(base, "transformer.*attn*", directions=2, outer=1)
    with torch.no_grad():
        for parameter in adapter.by_key.values():
            parameter.fill_(0.05)
    shift = adapter.shift(base="test")
    adapter.detach()
    before = output(base)
    spectra.load(base, shift, name="it")
    spectra.activate(base, "it")
    active = output(base)
    assert not torch.equal(active, before)
    OFFLOADING[way](base)
    assert torch.equal(output(base), active)
    if way != "sequential":  # there the weights themselves are gone between the calls
        spectra.activate(base, {"it": 0.5})
        assert not torch.equal(output(base), active)
        spectra.unload(base)
        assert torch.equal(output(base), before)


@pytest.mark.parametrize(("kind", "way"), CASES)
def test_training_with_offloading(kind: str, way: str, tmp_path: Path) -> None:
    losses = []
    for number in range(2):
        folder = tmp_path / str(number)
        folder.mkdir()
        base = model(kind, folder)
        adapter = spectra.attach(base, "transformer.*attn*", directions=2, outer=1)
        if number:
            OFFLOADING[way](base)
        parameters = adapter.train().by_key
        optimizer = torch.optim.SGD(parameters.values(), lr=1e-1)
        for _ in range(3):
            loss = base(**quantised_models.inputs()).sample.square().mean()
            loss.backward()
            optimizer.step()
            optimizer.zero_grad()
            losses.append(float(loss.detach()))
    assert losses[:3] == losses[3:]
    assert losses[0] > losses[2]
