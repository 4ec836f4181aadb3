"""A shift beside what others put in a module's forward: both run, once each, and each goes without the other."""

from __future__ import annotations

import copy
import functools
import io
from collections.abc import Callable
from typing import Any

import pytest
import torch
from accelerate.hooks import AlignDevicesHook, ModelHook, SequentialHook, add_hook_to_module, remove_hook_from_module
from diffusers.hooks import hooks as diffusers_hooks
from small_models import build, random_shift
from torch import Tensor, nn

import spectra
from spectra.errors import MismatchError, OutputError, WeightError
from spectra.shift.shift import SpectralShift


class Net(nn.Module):
    """A matrix, a norm, a convolution and a norm whose class is nobody's, each called once."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(6, 8)
        self.norm = nn.LayerNorm(8)
        self.conv = nn.Conv1d(8, 8, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.conv(self.norm(self.linear(x)).mT)
        return out


class Theirs:
    """What another library does with a module: it counts calls, adds 1 to the input, and doubles the output."""

    def __init__(self) -> None:
        self.calls = 0

    def before(self, x: Tensor) -> Tensor:
        self.calls += 1
        return x + 1

    def put(self, module: nn.Module) -> Callable[[], Any]:
        """Put it into the module; the result takes it out."""
        raise NotImplementedError


class Accelerate(Theirs):
    def hook(self) -> ModelHook:
        theirs = self

        class Hook(ModelHook):
            def pre_forward(self, module: nn.Module, x: Tensor) -> tuple[tuple[Tensor], dict[str, Any]]:
                return (theirs.before(x),), {}

            def post_forward(self, module: nn.Module, output: Tensor) -> Tensor:
                return 2 * output

        return Hook()

    def put(self, module: nn.Module) -> Callable[[], Any]:
        add_hook_to_module(module, self.hook())
        return lambda: remove_hook_from_module(module)


class Sequence(Accelerate):
    def put(self, module: nn.Module) -> Callable[[], Any]:
        add_hook_to_module(module, AlignDevicesHook(execution_device="cpu", io_same_device=True))
        add_hook_to_module(module, self.hook(), append=True)
        assert isinstance(module._hf_hook, SequentialHook)
        return lambda: remove_hook_from_module(module)


class Diffusers(Theirs):
    def put(self, module: nn.Module) -> Callable[[], Any]:
        theirs = self

        class Hook(diffusers_hooks.ModelHook):
            def pre_forward(self, module: nn.Module, x: Tensor) -> tuple[tuple[Tensor], dict[str, Any]]:
                return (theirs.before(x),), {}

            def post_forward(self, module: nn.Module, output: Tensor) -> Tensor:
                return 2 * output

        registry = diffusers_hooks.HookRegistry.check_if_exists_or_initialize(module)
        registry.register_hook(Hook(), "theirs")
        return lambda: registry.remove_hook("theirs")


class Wrapper(Theirs):
    def put(self, module: nn.Module) -> Callable[[], Any]:
        inner = module.forward

        @functools.wraps(inner)
        def forward(x: Tensor) -> Tensor:
            out: Tensor = 2 * inner(self.before(x))
            return out

        module.forward = forward
        return lambda: setattr(module, "forward", inner)


THEIRS = {each.__name__: each for each in (Accelerate, Sequence, Diffusers, Wrapper)}
PATHS = ("linear", "norm", "conv")


def net() -> Net:
    torch.manual_seed(0)
    return Net()


def shifts() -> list[SpectralShift]:
    return [random_shift({"unet": net()}, "*", seed) for seed in (1, 2)]


def shifted(shift: SpectralShift | None) -> Net:
    """A net whose weights are the shifted ones, with nothing of ours in it."""
    model = net()
    if shift is not None:
        spectra.load({"unet": model}, shift, "s")
        spectra.activate({"unet": model}, "s")
        state = {name: value.clone() for name, value in model.state_dict().items()}
        spectra.unload({"unet": model})
        model.load_state_dict(state)
    return model


class Training:
    """A model in training with the first of two shifts."""

    def __init__(self, model: nn.Module) -> None:
        self.adapter = spectra.attach({"unet": model}, "*")
        self.deltas = self.adapter.train().by_key
        self.adapter.set(shifts()[0])
        self.expected = [shifted(shifts()[0])] * 2

    def end(self) -> None:
        self.adapter.detach()


class Serving:
    """A model with the first shift active."""

    def __init__(self, model: nn.Module) -> None:
        self.parts = {"unet": model}
        spectra.load(self.parts, shifts()[0], "s")
        spectra.activate(self.parts, "s")
        self.expected = [shifted(shifts()[0])] * 2

    def end(self) -> None:
        spectra.unload(self.parts)


class PerSample:
    """A model that draws its first sample with one shift, its second with another."""

    def __init__(self, model: nn.Module) -> None:
        self.parts = {"unet": model}
        for name, shift in zip("st", shifts(), strict=True):
            spectra.load(self.parts, shift, name)
        self.block = spectra.per_sample(self.parts, ["s", "t"])
        self.block.__enter__()
        self.expected = [shifted(shift) for shift in shifts()]

    def end(self) -> None:
        self.block.__exit__(None, None, None)
        spectra.unload(self.parts)


USES = {each.__name__: each for each in (Training, Serving, PerSample)}


def hook_all(model: nn.Module, kind: str) -> tuple[list[Theirs], Callable[[], None]]:
    """Theirs in every module."""
    all_theirs = [THEIRS[kind]() for _ in PATHS]
    take_out = [theirs.put(model.get_submodule(path)) for theirs, path in zip(all_theirs, PATHS, strict=True)]
    return all_theirs, lambda: [each() for each in take_out] and None


@pytest.mark.parametrize("theirs_leaves_first", [False, True])
@pytest.mark.parametrize("theirs_comes_first", [False, True])
@pytest.mark.parametrize("use", USES)
@pytest.mark.parametrize("kind", THEIRS)
def test_both_run_once(kind: str, use: str, theirs_comes_first: bool, theirs_leaves_first: bool) -> None:
    model, x = net(), torch.randn(2, 5, 6)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    base = model(x)
    if theirs_comes_first:
        all_theirs, take_out = hook_all(model, kind)
        ours = USES[use](model)
    else:
        ours = USES[use](model)
        all_theirs, take_out = hook_all(model, kind)

    def expected(hooked: bool) -> Tensor:
        parts = []
        for row, each in zip(x.split(1), ours.expected, strict=True):
            remove = hook_all(each, kind)[1] if hooked else lambda: None
            parts.append(each(row))
            remove()
        return torch.cat(parts)

    y = model(x)
    assert [theirs.calls for theirs in all_theirs] == [1, 1, 1]
    torch.testing.assert_close(y, expected(hooked=True), rtol=1e-4, atol=1e-4)
    if isinstance(ours, Training):
        y.square().sum().backward()
        assert all(bool(delta.grad.any()) for delta in ours.deltas.values())
    # A wrapper that was there before ours takes ours away with it, when it puts the forward back that it found.
    if theirs_leaves_first and not (kind == "Wrapper" and theirs_comes_first):
        take_out()
        torch.testing.assert_close(model(x), expected(hooked=False), rtol=1e-4, atol=1e-4)
        ours.end()
    else:
        ours.end()
        reference = net()
        hook_all(reference, kind)
        assert torch.equal(model(x), reference(x))
        assert [theirs.calls for theirs in all_theirs] == [2, 2, 2]
        take_out()
    assert torch.equal(model(x), base)
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    with torch.no_grad():  # and again, beside whatever is left
        again = USES[use](model)
        torch.testing.assert_close(model(x), expected(hooked=False), rtol=1e-4, atol=1e-4)
        again.end()
    assert torch.equal(model(x), base)


def test_hooks_that_are_replaced_and_chained_keep_ours() -> None:
    model, x = net(), torch.randn(2, 5, 6)
    base = model(x)
    ours = Training(model)
    first, second = Accelerate(), Accelerate()
    add_hook_to_module(model.linear, first.hook())
    add_hook_to_module(model.linear, second.hook(), append=True)
    model(x)
    assert first.calls == second.calls == 1
    add_hook_to_module(model.linear, second.hook())
    model(x)
    assert (first.calls, second.calls) == (1, 2)
    remove_hook_from_module(model.linear)
    torch.testing.assert_close(model(x), ours.expected[0](x), rtol=1e-4, atol=1e-4)
    ours.end()
    assert torch.equal(model(x), base)
    assert not any("forward" in module.__dict__ for module in model.modules())


def test_pausing_beside_a_hook() -> None:
    model, x = net(), torch.randn(2, 5, 6)
    all_theirs, _ = hook_all(model, "Accelerate")
    hooked = model(x)
    ours = Training(model)
    with ours.adapter.disabled():
        assert torch.equal(model(x), hooked)
    assert not torch.allclose(model(x), hooked)
    assert [theirs.calls for theirs in all_theirs] == [3, 3, 3]
    ours.end()


def test_training_with_weights_that_are_offloaded_between_calls() -> None:
    """accelerate's sequential offloading: a module's weights are there while it computes."""
    model, x = net(), torch.randn(2, 5, 6)
    base = model(x)
    ours = Training(model)
    for path in PATHS:
        add_hook_to_module(model.get_submodule(path), AlignDevicesHook(execution_device="cpu", offload=True))
    assert all(parameter.is_meta for parameter in model.parameters())
    y = model(x)
    y.sum().backward()
    torch.testing.assert_close(y, ours.expected[0](x), rtol=1e-4, atol=1e-4)
    assert all(bool(delta.grad.any()) for delta in ours.deltas.values())
    ours.end()
    remove_hook_from_module(model, recurse=True)
    assert torch.equal(model(x), base)


def test_offloaded_weights_are_not_switched_behind_the_offloading() -> None:
    model, x = net(), torch.randn(2, 5, 6)
    base = model(x)
    ours = Serving(model)
    active = model(x)
    for path in PATHS:
        add_hook_to_module(model.get_submodule(path), AlignDevicesHook(execution_device="cpu", offload=True))
    assert torch.equal(model(x), active)
    block = spectra.disabled(ours.parts)
    for change in (lambda: spectra.activate(ours.parts, {}), ours.end, block.__enter__):
        with pytest.raises(WeightError, match="offloaded"):
            change()
    assert torch.equal(model(x), active) and spectra.loaded(ours.parts) == {"s": 1.0}
    remove_hook_from_module(model, recurse=True)
    ours.end()
    assert torch.equal(model(x), base)


def test_per_sample_refuses_a_wrapper_that_computes_on_its_own() -> None:
    model = net()
    linear = model.linear
    linear.forward = lambda x: x @ linear.weight.T
    ours = PerSample(model)
    with pytest.raises(MismatchError, match="replaced the forward of Linear"):
        model(torch.randn(2, 5, 6))
    ours.end()
    serving = Serving(model)
    expected = serving.expected[0].linear
    torch.testing.assert_close(model.linear(torch.ones(6)), torch.ones(6) @ expected.weight.T)
    serving.end()
    training = Training(model)
    torch.testing.assert_close(model.linear(torch.ones(6)), torch.ones(6) @ expected.weight.T)
    training.end()


def saved(model: nn.Module) -> Any:
    """A model written by torch.save, and read again."""
    file = io.BytesIO()
    torch.save(model, file)
    file.seek(0)
    return torch.load(file, weights_only=False)


@pytest.mark.parametrize("use", ["Training", "PerSample"])
def test_a_model_that_is_saved_whole_is_the_base(use: str) -> None:
    model, x = net(), torch.randn(2, 5, 6)
    base, state = model(x), {name: value.clone() for name, value in model.state_dict().items()}
    ours = USES[use](model)
    shifted_output = model(x)
    if isinstance(ours, Training):
        shifted_output.sum().backward()
    loaded = saved(model)
    assert torch.equal(loaded(x), base)
    assert torch.equal(model(x), shifted_output), "saving changes nothing"
    for each in (model, loaded):
        assert each.state_dict().keys() == state.keys()
        assert all(torch.equal(value, state[name]) for name, value in each.state_dict().items())
    ours.end()


def test_a_model_that_is_saved_whole_has_the_weights_in_force() -> None:
    model, x = net(), torch.randn(2, 5, 6)
    base = model(x)
    ours = Serving(model)
    assert torch.equal(saved(model)(x), model(x))
    with spectra.disabled(ours.parts):
        assert torch.equal(saved(model)(x), base)
    ours.end()
    clip, _ = build("clip")
    spectra.load(clip, random_shift(clip, "text-encoder", 1), "s")
    spectra.activate(clip, "s")
    ids = torch.tensor([[1, 2, 3]])
    assert torch.equal(saved(clip)(ids)[0], clip(ids)[0])
    spectra.unload(clip)


def test_in_low_memory_a_model_cannot_be_saved_whole() -> None:
    model = net()
    adapter = spectra.attach({"unet": model}, "*", low_memory=True)
    with pytest.raises(OutputError, match="low memory.*detach"):
        saved(model)
    adapter.detach()
    assert torch.equal(saved(model).linear.weight, model.linear.weight)


def test_a_copy_of_an_attached_model_computes_as_it() -> None:
    model, x = net(), torch.randn(2, 5, 6)
    base = model(x)
    ours = Training(model)
    twin = copy.deepcopy(model)
    shifted_output = model(x)
    assert torch.equal(twin(x), shifted_output)
    ours.adapter.set({name: torch.zeros_like(delta) for name, delta in ours.adapter.deltas.items()})
    assert torch.equal(model(x), base) and torch.equal(twin(x), shifted_output)
    ours.end()
    assert torch.equal(twin(x), shifted_output)
