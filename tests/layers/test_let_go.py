"""What activations, feed-forwards and modulated norms keep that a module before them can make again is let go of."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import nullcontext
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.autograd.graph import save_on_cpu, saved_tensors_hooks
from torch.utils.checkpoint import checkpoint

from spectra.layers.saved_elsewhere import to_save, watch

FEATURES = 16


class NormAndActivation(nn.Module):
    """As a resnet's first half."""

    def __init__(self, *, changes: bool = False) -> None:
        super().__init__()
        self.norm, self.activation = nn.GroupNorm(4, FEATURES), nn.SiLU()
        self.changes = changes

    def forward(self, x: Tensor) -> Tensor:
        h = x * 1
        y: Tensor = self.activation(self.norm(h))
        if self.changes:
            h += 1
        return y


def _geglu() -> nn.Module:
    from diffusers.models.activations import GEGLU

    return GEGLU(FEATURES, 24)


class Modulated(nn.Module):
    """A norm whose scale and shift come from an input."""

    def __init__(self) -> None:
        from diffusers.models.normalization import AdaLayerNormZeroSingle

        super().__init__()
        self.norm = AdaLayerNormZeroSingle(FEATURES)

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.norm(x, emb=x[:, 0])[0]
        return y


CASES: dict[str, tuple[Callable[[], nn.Module], tuple[int, ...], int]] = {
    "norm and activation": (NormAndActivation, (2, FEATURES, 30), 2 * FEATURES * 30),
    "gated": (_geglu, (2, 40, FEATURES), 2 * 40 * 24),
    "modulated norm": (Modulated, (2, 40, FEATURES), 2 * 40 * FEATURES + 2 * FEATURES),  # an activation too
}
"""Modules, shapes of their input, and how many numbers less they keep when they are watched."""


def run(model: nn.Module, x: Tensor, how: Callable[..., Tensor] | None = None) -> tuple[list[Tensor], int]:
    """Output and gradients, and how many numbers were kept from forward to backward, each storage once."""
    parameters = {parameter.untyped_storage()._cdata for parameter in model.parameters()}
    kept: dict[int, int] = {}
    alive: list[Tensor] = []

    def note(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if storage._cdata not in parameters:
            alive.append(tensor)  # so that no storage takes another's place
            kept[storage._cdata] = storage.nbytes() // tensor.element_size()
        return tensor.detach()

    if how is not None:
        y = how(model, x)
    else:
        with saved_tensors_hooks(note, lambda tensor: tensor):
            y = model(x)
    return [y, *torch.autograd.grad(y.sin().sum(), [x, *model.parameters()])], sum(kept.values())


@pytest.mark.parametrize("case", CASES)
def test_less_is_kept_and_gradients_are_the_same_bits(case: str) -> None:
    torch.manual_seed(0)
    make, shape, spared = CASES[case]
    model, x = make(), torch.randn(shape, requires_grad=True)
    wanted, before = run(model, x)
    close = watch([model])
    found, after = run(model, x)
    again, _ = run(model, x, lambda model, x: checkpoint(model, x, use_reentrant=False))
    close()
    assert before - after == spared
    for mine, right, checkpointed in zip(found, wanted, again, strict=True):
        assert torch.equal(mine, right) and torch.equal(checkpointed, right)
    assert run(model, x)[1] == before, "after the end everything is kept again"


@pytest.mark.parametrize("case", CASES)
def test_hooks_that_were_there_get_what_is_kept(case: str) -> None:
    torch.manual_seed(0)
    make, shape, _ = CASES[case]
    model, x = make(), torch.randn(shape, requires_grad=True)

    def offloaded(model: nn.Module, x: Tensor) -> Tensor:
        with save_on_cpu():
            y: Tensor = model(x)
        return y

    wanted, _ = run(model, x)
    close = watch([model])
    for mine, right in zip(run(model, x, offloaded)[0], wanted, strict=True):
        assert torch.equal(mine, right)
    close()


@pytest.mark.parametrize("case", CASES)
def test_checkpointing_computes_nothing_again_before_the_backward_pass(case: str) -> None:
    make, shape, _ = CASES[case]
    model, x = make(), torch.randn(shape, requires_grad=True)
    calls: list[int] = []
    last = nn.Linear(shape[-1] if case != "gated" else 24, 4)
    close = watch([model])

    def block(x: Tensor) -> Tensor:
        calls.append(1)
        y = model(x)
        to_save(y)  # as a layer behind it does
        out: Tensor = last(y)
        return out

    y = checkpoint(block, x, use_reentrant=False)
    assert len(calls) == 1
    y.sum().backward()
    assert len(calls) == 2
    close()


def test_a_second_derivative_goes_through() -> None:
    torch.manual_seed(0)
    model, x = NormAndActivation().double(), torch.randn(2, FEATURES, 5, dtype=torch.float64, requires_grad=True)
    close = watch([model])
    assert torch.autograd.gradgradcheck(model, (x,))
    close()


def test_a_source_that_changes_before_the_backward_pass_is_an_error() -> None:
    model, x = NormAndActivation(changes=True), torch.randn(2, FEATURES, 5, requires_grad=True)
    close = watch([model])
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        run(model, x, lambda model, x: model(x))
    close()


@pytest.mark.parametrize("grad", [True, False])
def test_an_error_within_leaves_nothing_behind(grad: bool) -> None:
    model = _geglu()
    close = watch([model])
    top: Any = torch._C._autograd._top_saved_tensors_default_hooks
    with nullcontext() if grad else torch.no_grad(), pytest.raises(RuntimeError, match="shapes cannot be multiplied"):
        model(torch.randn(3, FEATURES + 1))
    assert top(True) is None
    close()
