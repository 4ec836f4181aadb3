"""Attaching: the model is the base at delta = 0 and afterwards, whatever the family, and learns in between."""

from __future__ import annotations

import pytest
import torch
from accelerate import Accelerator
from small_models import MODELS, build
from torch import nn

import spectra
from spectra.errors import MismatchError, TargetError, WeightError
from spectra.families import targets
from spectra.layers.shifted_layer import ShiftedLayer

# SD3's last block drops the text's stream, and with it what its queries would have been.
WITHOUT_EFFECT = {"sd3": [f"transformer.transformer_blocks.1.attn.{name}" for name in ("add_q_proj", "norm_added_q")]}
EVERYTHING = {"clip": "text-encoder", "t5": "text-encoder"}


def subset(kind: str) -> str:
    return EVERYTHING.get(kind, "denoiser")


def state(model: nn.Module) -> dict[str, torch.Tensor]:
    return {name: value.clone() for name, value in model.state_dict().items()}


@pytest.mark.parametrize("kind", MODELS)
def test_zero_delta_and_detach_are_the_base_bit_for_bit(kind: str) -> None:
    model, call = build(kind)
    with torch.no_grad():
        base, weights, objects = call(), state(model), dict(model.named_parameters())
        adapter = spectra.attach(model, subset(kind))
        adapter.train()
        assert torch.equal(call(), base)
        adapter.eval()
        assert torch.equal(call(), base)
        for delta in adapter.deltas.values():
            delta += 0.1
        assert not torch.allclose(call(), base)
        with adapter.disabled():
            assert torch.equal(call(), base)
        assert not torch.allclose(call(), base)
        adapter.detach()
        assert torch.equal(call(), base)
    assert all(torch.equal(value, weights[name]) for name, value in model.state_dict().items())
    assert all(parameter is objects[name] for name, parameter in model.named_parameters())
    assert all(parameter.requires_grad for parameter in model.parameters())
    assert not any("forward" in module.__dict__ for module in model.modules())


@pytest.mark.parametrize("kind", MODELS)
def test_every_delta_learns(kind: str) -> None:
    model, call = build(kind)
    torch.manual_seed(3)
    adapter = spectra.attach(model, subset(kind))
    parameters = adapter.train().by_key
    optimizer = torch.optim.SGD(parameters.values(), lr=1e-3)
    losses = []
    goal = torch.randn_like(call())
    for _ in range(3):
        loss = (call() - goal).square().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[2] < losses[0]
    still = [name for name, delta in adapter.deltas.items() if delta.grad is None or not bool(delta.grad.any())]
    assert still == WITHOUT_EFFECT.get(kind, [])
    assert all(parameter.grad is None for parameter in model.parameters())


def test_training_and_serving_give_the_same_pictures() -> None:
    """What was trained through the plans is what the file gives when its weights are merged."""
    model, call = build("unet")
    adapter = spectra.attach(model, "unet")
    parameters = adapter.train().by_key
    torch.manual_seed(5)
    with torch.no_grad():
        for delta in parameters.values():
            delta.normal_(std=0.2)
        routed = call()
        for layer in (layer for binding in adapter._bindings.values() for layer in binding.layers):
            if isinstance(layer, ShiftedLayer):
                layer.plan = "factored"
        factored = call()
        adapter.eval()
        rebuilt = call()
        shift = adapter.shift(base="test")
        adapter.detach()
        base = call()
        spectra.load(model, shift, "s")
        spectra.activate(model, {"s": 1.0})
        served = call()
        spectra.unload(model)
        assert torch.equal(call(), base)
    for other in (factored, rebuilt, served):
        torch.testing.assert_close(other, routed, rtol=1e-4, atol=1e-4)
    assert not torch.allclose(served, base, atol=1e-2)


@pytest.mark.parametrize("fused", [False, True])
def test_a_step_of_any_optimizer_reaches_rebuilt_weights(fused: bool) -> None:
    """A fused one leaves the version of what it changes as it was."""
    model = nn.Linear(6, 4)
    adapter = spectra.attach({"unet": model}, "*")
    deltas = list(adapter.train().by_key.values())
    for layer in adapter.layers():
        layer.plan = "materialized"
    optimizer, x = torch.optim.AdamW(deltas, lr=0.1, fused=fused), torch.ones(3, 6)
    before = model(x)
    before.sum().backward()
    optimizer.step()
    after = model(x)
    assert not torch.allclose(before, after)
    adapter.set({name: torch.zeros_like(delta) for name, delta in adapter.deltas.items()})
    assert torch.equal(model(x), before)
    adapter.detach()


def test_detaching_and_forgetting_stop_listening_to_optimizers() -> None:
    from torch.optim import optimizer

    heard = len(optimizer._global_optimizer_post_hooks)
    adapter = spectra.attach({"unet": nn.Linear(6, 4)}, "*")
    assert len(optimizer._global_optimizer_post_hooks) == heard + 1
    adapter.detach()
    assert len(optimizer._global_optimizer_post_hooks) == heard


def test_a_shift_can_be_set_again() -> None:
    model, call = build("unet")
    adapter = spectra.attach(model, "unet-ca")
    with torch.no_grad():
        for delta in adapter.deltas.values():
            delta.normal_()
        moved = call()
    shift = adapter.shift(base="test", settings={"steps": 3}, seed=7)
    assert shift.metadata.subset == "unet-ca" and shift.metadata.seed == 7
    adapter.detach()
    again = spectra.attach(model, "unet-ca")
    again.set(shift)
    again.set({name: torch.from_numpy(delta.copy()) for name, delta in shift.items()})
    with torch.no_grad():
        assert torch.equal(call(), moved)
    with pytest.raises(MismatchError, match="not in both"):
        again.set({"unet.other": torch.zeros(3)})
    short = {name: delta[:-1] for name, delta in shift.items()}
    with pytest.raises(MismatchError, match="floats"):
        again.set(short)
    again.detach()


def test_gradient_checkpointing_gives_the_same_gradients() -> None:
    gradients = []
    for checkpointed in (False, True):
        model, call = build("unet")
        model.train()
        if checkpointed:
            model.enable_gradient_checkpointing()
        adapter = spectra.attach(model, "unet")
        parameters = adapter.train().by_key
        call().square().mean().backward()
        gradients.append([delta.grad for delta in parameters.values()])
        adapter.detach()
    for plain, again in zip(*gradients, strict=True):
        torch.testing.assert_close(again, plain, rtol=1e-5, atol=1e-8)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_bases_train_float32_shifts(dtype: torch.dtype) -> None:
    model, _ = build("unet", dtype)
    x, text = torch.randn(2, 4, 8, 8, dtype=dtype), torch.randn(2, 5, 12, dtype=dtype)

    def call() -> torch.Tensor:
        return model(x, torch.tensor([3, 500]), text).sample

    with torch.no_grad():
        base = call()
    adapter = spectra.attach(model, "unet")
    parameters = adapter.train().by_key
    assert torch.equal(call(), base)
    call().float().square().mean().backward()
    assert all(delta.dtype == torch.float32 and bool(torch.isfinite(delta.grad).all()) for delta in parameters.values())
    adapter.detach()
    assert torch.equal(call(), base)


def test_one_use_at_a_time() -> None:
    model, _ = build("unet")
    adapter = spectra.attach(model, "unet-ca")
    with pytest.raises(MismatchError, match="training; call adapter.detach"):
        spectra.attach(model, "unet-ca")
    shift = adapter.shift(base="test")
    with pytest.raises(MismatchError, match="training"):
        spectra.load(model, shift, "s")
    adapter.detach()
    spectra.load(model, shift, "s")
    with pytest.raises(MismatchError, match="serving; call spectra.unload"):
        spectra.attach(model, "unet-ca")
    spectra.unload(model)
    spectra.attach(model, "unet-ca").detach()


def test_detaching_again_does_not_end_the_use_of_another() -> None:
    model, _ = build("unet")
    first = spectra.attach(model, "unet-ca")
    first.detach()
    second = spectra.attach(model, "unet-ca")
    first.detach()
    with pytest.raises(MismatchError, match="training; call adapter.detach"):
        spectra.attach(model, "unet-ca")
    second.detach()


def test_no_room_for_deltas_leaves_the_model_free(monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object, **__: object) -> torch.Tensor:
        raise torch.OutOfMemoryError("no room")

    model, _ = build("unet")
    with monkeypatch.context() as within:
        within.setattr(torch, "zeros", full)
        with pytest.raises(torch.OutOfMemoryError):
            spectra.attach(model, "unet-1d")
    assert all(parameter.requires_grad for parameter in model.parameters())
    spectra.attach(model, "unet-1d").detach()


def test_tied_weights_are_one_target() -> None:
    model, _ = build("t5")
    tables = [target for target in targets(model, "text-encoder") if target.weight is model.shared.weight]
    assert len(tables) == 1


@pytest.mark.parametrize(
    ("pattern", "message"),
    [
        ("unet-cb", "did you mean 'unet-ca'"),
        ("unet.nowhere*", "holds no weight"),
        ("text-encoder", "which has unet"),
        ("", "unknown target"),
    ],
)
def test_unknown_targets(pattern: str, message: str) -> None:
    model, _ = build("unet")
    with pytest.raises(TargetError, match=message):
        spectra.attach(model, pattern)
    spectra.attach(model, "unet-1d").detach()  # nothing was left claimed


def test_broken_weights_are_refused_and_nothing_is_left() -> None:
    model, _ = build("unet")
    with torch.no_grad():
        kept = model.conv_in.weight.clone()
        model.conv_in.weight[0, 0, 0, 0] = float("nan")
        with pytest.raises(WeightError, match="conv_in.*not finite"):
            spectra.attach(model, "unet")
        model.conv_in.weight.copy_(kept)
    spectra.attach(model, "unet").detach()
    model.to("meta")
    with pytest.raises(WeightError, match="meta device"):
        spectra.attach(model, "unet")


def test_a_shift_knows_its_rounded_bases_in_low_memory_too() -> None:
    model, _ = build("unet")
    found = []
    for low_memory in (False, True):
        adapter = spectra.attach(model, "unet-ca", low_memory=low_memory)
        found.append(adapter.shift(base="test").metadata)
        adapter.detach()
    assert found[0].fingerprints == found[1].fingerprints and found[0].rounded == found[1].rounded


def test_a_loop_as_those_of_diffusers_trains_it() -> None:
    """The adapter is a module: its parameters, in accelerate's hands, are the deltas under a shift file's names."""
    model, call = build("unet")
    frozen = {name: value.clone() for name, value in model.state_dict().items()}
    model.requires_grad_(False)
    adapter = spectra.attach(model, "unet-ca", directions=4, outer=1)
    assert dict(adapter.named_parameters()).keys() == adapter.by_key.keys() == adapter.state_dict().keys()
    optimizer = torch.optim.AdamW(filter(lambda p: p.requires_grad, adapter.parameters()), lr=1e-2)
    accelerator = Accelerator(cpu=True)
    trained, optimizer = accelerator.prepare(adapter, optimizer)
    adapter.train()
    losses = []
    for _ in range(3):
        with accelerator.accumulate(trained):
            loss = call().square().mean()
            accelerator.backward(loss)
            accelerator.clip_grad_norm_(trained.parameters(), 1.0)
            optimizer.step()
            optimizer.zero_grad()
        losses.append(float(loss.detach()))
    assert losses[2] < losses[0]
    state = {key: value.clone() for key, value in adapter.state_dict().items()}
    shift = adapter.shift(base="test")
    assert torch.equal(torch.tensor(shift[next(iter(shift))][:4]), state[f"{next(iter(shift))}.delta"])
    adapter.detach()
    assert all(torch.equal(value, frozen[name]) for name, value in model.state_dict().items())
    again = spectra.attach(model, "unet-ca", directions=4, outer=1)
    again.load_state_dict(state)
    assert again.shift(base="test") == shift
    x, text = torch.randn(2, 4, 8, 8), torch.randn(2, 5, 12)
    assert torch.equal(again(x, torch.tensor([3, 500]), text).sample, model(x, torch.tensor([3, 500]), text).sample)
    again.detach()
