"""Changes of delta through `.data`, which leave its version as it is, reach the model's next forward."""

from __future__ import annotations

import pytest
import torch
from diffusers.training_utils import EMAModel
from torch import Tensor, nn

import spectra
from spectra.adapters.training_adapter import Adapter


def attached() -> tuple[nn.Module, Adapter, Tensor]:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(12, 12), nn.LayerNorm(12), nn.Linear(12, 40), nn.Linear(40, 12))
    return model, spectra.attach({"unet": model}, "unet.*"), torch.randn(300, 12)


@pytest.mark.parametrize("training", [False, True])
def test_what_data_changes_is_seen(training: bool) -> None:
    model, adapter, x = attached()
    base = None
    with adapter.disabled():
        base = model(x).detach()
    (adapter.train if training else adapter.eval)()
    for _ in range(2):
        for delta in adapter.deltas.values():
            delta.data.add_(0.3)
        moved = model(x)
        assert not torch.allclose(moved, base)
        for delta in adapter.deltas.values():
            delta.data.mul_(0)
        assert torch.equal(model(x), base)
    adapter.detach()


def test_switching_modes_after_a_change_through_data() -> None:
    model, adapter, x = attached()
    adapter.train()
    with torch.no_grad():
        for delta in adapter.deltas.values():
            delta += 0.3
    model(x)
    adapter.eval()
    for delta in adapter.deltas.values():
        delta.data.mul_(0)
    found = model[0](x)  # no forward of the whole model between
    with adapter.disabled():
        assert torch.equal(found, model[0](x))
    adapter.detach()


def test_a_moving_average_is_put_in_and_taken_out() -> None:
    model, adapter, x = attached()
    parameters = list(adapter.train().by_key.values())
    average = EMAModel(parameters, decay=0.5)
    optimizer = torch.optim.SGD(parameters, lr=0.1)
    for _ in range(3):
        model(x).square().mean().backward()
        optimizer.step()
        optimizer.zero_grad()
        average.step(parameters)
    adapter.eval()
    trained = model(x)
    average.store(parameters)
    average.copy_to(parameters)
    averaged = model(x)
    adapter.train()
    torch.testing.assert_close(model(x), averaged, rtol=1e-4, atol=1e-5)
    adapter.eval()
    average.restore(parameters)
    assert torch.equal(model(x), trained)
    assert not torch.allclose(trained, averaged)
    adapter.detach()


def test_one_forward_per_step_compares_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    model, adapter, x = attached()
    optimizer = torch.optim.AdamW(adapter.train().by_key.values(), fused=True)
    compared = []
    equal = torch.equal
    monkeypatch.setattr("spectra.layers.value_watch.torch.equal", lambda a, b: compared.append(1) or equal(a, b))
    for _ in range(3):
        model(x).square().mean().backward()
        optimizer.step()
    assert not compared
    model(x)
    model(x)
    assert len(compared) == 1
    adapter.detach()
    model(x)
    assert len(compared) == 1
