"""Many shifts in one batch: each sample comes out as if its shift had been active alone."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from small_models import build, random_shift
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

import spectra
from spectra.errors import MismatchError
from spectra.layers import ShiftedLayer
from spectra.samples import SampledLayer, Samples
from spectra.spectrum import decompose

EACH = [{"dog": 1.0, "style": 0.5}, {"dog": -0.7}]


def shifted(kind: str, targets: str) -> tuple[nn.Module, Any]:
    """A model with two random shifts loaded."""
    model, call = build(kind)
    shifts = {name: random_shift(model, targets, number, 0.3) for number, name in enumerate(("dog", "style"))}
    for name, shift in shifts.items():
        spectra.load(model, shift, name)
    return model, call


@pytest.mark.parametrize("kind", ["unet", "sdxl", "sd3", "clip"])
def test_a_batch_of_shifts_equals_separate_runs(kind: str) -> None:
    model, call = shifted(kind, "text-encoder" if kind == "clip" else "denoiser")
    with torch.no_grad():
        base = call()
        separate = []
        for number, scales in enumerate(EACH):
            spectra.activate(model, scales)
            separate.append(call()[number])
        with spectra.per_sample(model, EACH):
            together = call()
        assert torch.equal(call()[1], separate[1]), "what was active before is active again"
        spectra.activate(model, {})
        with spectra.per_sample(model, [{}, "dog"]):
            half = call()
        assert torch.equal(call(), base)
    torch.testing.assert_close(together, torch.stack(separate), rtol=1e-3, atol=1e-4)
    assert (together - base).abs().max() > 0.05
    assert torch.equal(half[0], base[0]) or torch.allclose(half[0], base[0], atol=1e-6)
    assert not torch.allclose(half[1], base[1], atol=1e-2)
    spectra.unload(model)
    assert torch.equal(call(), base)


CONVS = {
    "linear": (nn.Linear(10, 6), (6, 4, 10)),
    "wide linear": (nn.Linear(6, 10), (6, 6)),
    "conv": (nn.Conv2d(4, 12, 3, padding=1), (6, 4, 5, 5)),
    "tall conv": (nn.Conv2d(4, 60, 3, padding=1), (6, 4, 5, 5)),
    "grouped conv": (nn.Conv2d(4, 8, 3, groups=2), (6, 4, 5, 5)),
    "conv transpose": (nn.ConvTranspose2d(4, 5, 2, stride=2), (6, 4, 3, 3)),
    "tied rank": (nn.Linear(5, 5, bias=False), (6, 5)),
}


@pytest.mark.parametrize("kind", CONVS)
def test_every_kind_of_layer(kind: str) -> None:
    torch.manual_seed(0)
    module, shape = CONVS[kind]
    module.requires_grad_(False)
    if kind == "tied rank":
        module.weight[:, 3:] = module.weight[:, :2]  # rank-deficient: some directions are in the tail
    spectrum = decompose(module.weight)
    deltas = torch.randn(3, spectrum.rank)
    rows = torch.tensor([2, 0, 1, 0, 2, 2])
    x = torch.randn(shape)
    layer = SampledLayer(module, spectrum, deltas, Samples(rows))
    expected = torch.cat([ShiftedLayer(module, spectrum, deltas[r]).forward(x[i : i + 1]) for i, r in enumerate(rows)])
    torch.testing.assert_close(layer.forward(x), expected, rtol=1e-4, atol=1e-5)


def test_guidance_and_several_pictures_per_prompt() -> None:
    samples = Samples(torch.tensor([0, 1]), images=2)
    rows = {batch: samples.match(torch.zeros(batch, 1))[1].tolist() for batch in (1, 2, 4, 8)}
    assert rows == {1: [0, 1], 2: [0, 1], 4: [0, 0, 1, 1], 8: [0, 0, 1, 1, 0, 0, 1, 1]}
    with pytest.raises(MismatchError, match="2 samples of 2 pictures; the model was called with a batch of 6"):
        samples.match(torch.zeros(6, 1))


def test_many_shifts_cost_what_one_costs() -> None:
    """Counted, in the factored plan: 64 shifts in a batch of 64 against one."""
    module = nn.Linear(64, 48).requires_grad_(False)
    spectrum, x = decompose(module.weight), torch.randn(64, 16, 64)
    counted = []
    for count in (1, 64):
        layer = SampledLayer(module, spectrum, torch.randn(count, 48), Samples(torch.arange(64) % count))
        with FlopCounterMode(display=False) as counter:
            layer.forward(x)
        counted.append(counter.get_total_flops())
    assert counted[1] == counted[0]


def test_what_cannot_be_is_refused() -> None:
    model, call = shifted("unet", "unet-ca")
    base = call()
    with pytest.raises(MismatchError, match="'cat' is loaded; loaded: dog, style"), spectra.per_sample(model, ["cat"]):
        pass
    with pytest.raises(MismatchError, match="at least one sample"), spectra.per_sample(model, []):
        pass
    with spectra.per_sample(model, ["dog"] * 3), pytest.raises(MismatchError, match="batch of 2"):
        call()
    assert torch.equal(call(), base)
    t5, _ = shifted("t5", "text-encoder")
    with pytest.raises(MismatchError, match="table of relative positions"), spectra.per_sample(t5, ["dog", "style"]):
        pass
