"""Many shifts in one batch: each sample comes out as if its shift had been active alone."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from small_models import build, random_shift
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

import spectra
from spectra.errors import MismatchError
from spectra.layers.functional_call import with_parameters
from spectra.layers.per_sample import SampledLayer, SampledVector, Samples
from spectra.layers.shifted_layer import ShiftedLayer
from spectra.layers.shifted_vector import ShiftedVector
from spectra.spectrum.decomposition import decompose
from spectra.spectrum.shifted_weight import with_full_tail

EACH = [{"dog": 1.0, "style": 0.5}, {"dog": -0.7}]


def shifted(kind: str, targets: str) -> tuple[nn.Module, Any]:
    """A model with two random shifts loaded."""
    model, call = build(kind)
    shifts = {name: random_shift(model, targets, number, 0.3) for number, name in enumerate(("dog", "style"))}
    for name, shift in shifts.items():
        spectra.load(model, shift, name, activate=False)
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
    with pytest.raises(MismatchError, match="once for all samples"), spectra.per_sample(t5, ["dog", "style"]):
        pass


RUNS = torch.arange(3).repeat_interleave(2)
"""Two samples of each of three shifts, as in a training of three concepts."""


def paper(module: nn.Module, spectrum: Any, deltas: Tensor, x: Tensor, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    """Output and delta's gradient by the paper's formula, each run with `U diag(ReLU(sigma + delta)) V^T`."""
    full = with_full_tail(spectrum, module.weight)
    stored_side, other_side = full.basis.to(dtype), full.tail.T.to(dtype)
    left, right = (stored_side, other_side) if full.side == "left" else (other_side, stored_side)
    deltas = deltas.detach().to(dtype).requires_grad_()
    outputs = []
    for delta, run in zip(deltas.unbind(), x.to(dtype).chunk(3), strict=True):
        weight = (left * torch.relu(full.sigma.to(dtype) + delta)) @ right.T
        bias = None if module.bias is None else module.bias.to(dtype)
        own = {"weight": weight.reshape(module.weight.shape), "bias": bias}
        outputs.append(with_parameters(module, own, run))
    y = torch.cat(outputs)
    y.square().sum().backward()
    assert deltas.grad is not None
    return y, deltas.grad


@pytest.mark.parametrize("plan", ["together", "factored", "two-sided", "materialized"])
@pytest.mark.parametrize("kind", [kind for kind in CONVS if kind != "grouped conv"])
def test_every_plan_of_a_training(kind: str, plan: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Output and gradient err at most twice as much as the paper's formula does in the same precision."""
    torch.manual_seed(1)
    module, shape = CONVS[kind]
    module.requires_grad_(False)
    spectrum = decompose(module.weight)
    deltas, x = (0.3 * torch.randn(3, spectrum.rank)).requires_grad_(), torch.randn(shape)
    layer = SampledLayer(module, spectrum, deltas, Samples(RUNS))
    monkeypatch.setattr(layer, "_materializes_runs", lambda _: plan != "together")
    layer.plan = None if plan == "together" else plan  # type: ignore[assignment]
    y = layer.forward(x)
    y.square().sum().backward()
    assert deltas.grad is not None
    exact = paper(module, spectrum, deltas, x, torch.float64)
    plain = paper(module, spectrum, deltas, x, torch.float32)
    for mine, theirs, truth in zip((y, deltas.grad), plain, exact, strict=True):
        allowed = 2 * (theirs - truth).norm() + 1e-6 * truth.norm()
        assert (mine - truth).norm() <= allowed


def test_long_runs_have_a_weight_each() -> None:
    """Counted: eight runs cost what each would cost alone, which is less than the batch would together."""
    module = nn.Conv2d(16, 8, 3, padding=1).requires_grad_(False)
    spectrum, deltas, x = decompose(module.weight), torch.zeros(2, 8, requires_grad=True), torch.randn(2, 16, 32, 32)
    x.requires_grad_()

    def counted(layer: ShiftedLayer, part: Tensor) -> int:
        layer.forward(part).sum().backward()  # makes what is made once
        with FlopCounterMode(display=False) as counter:
            layer.forward(part).sum().backward()
        return int(counter.get_total_flops())

    sampled = SampledLayer(module, spectrum, deltas, Samples(torch.arange(2)))
    assert sampled._materializes_runs(x)
    alone = counted(ShiftedLayer(module, spectrum, torch.zeros(8, requires_grad=True)), x[:1])
    assert counted(sampled, x) == 2 * alone
    sampled._samples.take(torch.tensor([1, 0]))
    assert not sampled._materializes_runs(x)
    assert counted(sampled, x) > 2 * alone


def test_runs_are_told_from_other_batches() -> None:
    samples = Samples(RUNS)
    assert samples.runs(6, 3)
    assert not samples.runs(12, 3), "guidance asks twice"
    assert not samples.runs(6, 2)
    samples.take(torch.tensor([0, 1, 2, 0, 1, 2]))
    assert not samples.runs(6, 3)
    assert samples.match(torch.zeros(6, 1))[1].tolist() == [0, 1, 2, 0, 1, 2]


def test_norms_of_a_training() -> None:
    torch.manual_seed(0)
    for module, shape in ((nn.GroupNorm(2, 6), (6, 6, 3, 3)), (nn.LayerNorm(6), (6, 4, 6))):
        module.requires_grad_(False)
        deltas, x = torch.randn(3, 6, requires_grad=True), torch.randn(shape)
        trained = SampledVector(module, deltas, Samples(RUNS)).forward(x)
        served = SampledVector(module, deltas.detach(), Samples(RUNS)).forward(x)
        torch.testing.assert_close(trained, served)
        separate = [ShiftedVector(module, deltas[row]).forward(x[n : n + 1]) for n, row in enumerate(RUNS)]
        torch.testing.assert_close(torch.autograd.grad(trained.square().sum(), deltas)[0],
                                   torch.autograd.grad(torch.cat(separate).square().sum(), deltas)[0])  # fmt: skip
