"""Plans by measurement, with a timer that is told what to say."""

from __future__ import annotations

import json
from pathlib import Path
from typing import get_args

import pytest
import torch
from torch import nn

import spectra
from spectra.errors import OutputError
from spectra.layers import costs


def model() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(12, 12), nn.Linear(12, 30), nn.Linear(30, 12), nn.Linear(12, 12))


class Clock:
    """The first plan of a layer takes longest; counts its calls."""

    def __init__(self) -> None:
        self.calls = 0

    def __call__(self, run) -> float:
        run()
        self.calls += 1
        return -self.calls


def attached(net: nn.Module):
    adapter = spectra.attach({"unet": net}, "unet.*")
    adapter.train()
    x = torch.randn(7, 12)
    return adapter, lambda: net(x).square().sum().backward()


def test_what_was_fastest_is_taken_and_remembered(tmp_path: Path) -> None:
    net, clock, file = model(), Clock(), tmp_path / "cache" / "plans.json"
    adapter, step = attached(net)
    step()
    before = {name: delta.grad.clone() for name, delta in adapter.deltas.items()}
    tuned = spectra.tune(adapter, step, file=file, timer=clock)
    # The first square layer's input takes no gradient: four kinds of work, of two plans each.
    assert len(tuned) == 4 and clock.calls == 8 and set(tuned.values()) == {"materialized"}
    assert all(torch.equal(delta.grad, before[name]) for name, delta in adapter.deltas.items())
    for layer in adapter.layers():
        layer.forget()
    for delta in adapter.deltas.values():
        delta.grad = None
    step()
    assert all("materialized" in layer._made for layer in adapter.layers())
    for name, delta in adapter.deltas.items():
        torch.testing.assert_close(delta.grad, before[name], rtol=1e-4, atol=1e-5)
    adapter.detach()

    again, step = attached(net)
    assert spectra.tune(again, step, file=file, timer=clock) == tuned and clock.calls == 8
    again.detach()


def test_a_damaged_file_is_made_again(tmp_path: Path) -> None:
    file = tmp_path / "plans.json"
    adapter, step = attached(model())
    for text in ("{", "[1]", '{"cpu": 3}'):
        file.write_text(text)
        tuned = spectra.tune(adapter, step, file=file, timer=Clock())
        (plans,) = json.loads(file.read_text()).values()
        assert plans == tuned
    device = next(iter(json.loads(file.read_text())))
    damaged = {device: dict.fromkeys(tuned, "guessed"), "another": {"1 2": "materialized", "3 4": []}}
    file.write_text(json.dumps(damaged))
    spectra.tune(adapter, step, file=file, timer=Clock())
    assert json.loads(file.read_text()) == {device: tuned, "another": {"1 2": "materialized"}}
    with pytest.raises(OutputError):
        spectra.tune(adapter, step, file=tmp_path, timer=Clock())
    adapter.detach()


def test_other_work_keeps_to_the_cost_model(tmp_path: Path) -> None:
    net = model()
    adapter, step = attached(net)
    spectra.tune(adapter, step, file=tmp_path / "plans.json", timer=Clock())
    for layer in adapter.layers():
        x = torch.randn(5, layer.module.in_features)
        work = layer.work(x)
        assert layer._plan(x)[0] == costs.cheapest(work)
    adapter.detach()


def test_the_real_timer(tmp_path: Path) -> None:
    adapter, step = attached(model())
    tuned = spectra.tune(adapter, step, file=tmp_path / "plans.json")
    assert set(tuned.values()) <= set(get_args(costs.Plan))
    adapter.detach()
