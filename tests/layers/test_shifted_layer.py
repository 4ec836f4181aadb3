"""Layers against the paper's formula in float64: outputs, gradients, every kind of module, every plan."""

from __future__ import annotations

import pytest
import torch
from layer_kinds import KINDS, build, loss, paper
from torch import Tensor, nn

from spectra import kernels
from spectra.layers.shifted_layer import ShiftedLayer
from spectra.layers.shifted_vector import ShiftedVector
from spectra.spectrum.decomposition import decompose
from spectra.spectrum.shifted_weight import shifted_weight, singular_value_change


@pytest.mark.parametrize("plan", ["factored", "materialized", "two-sided", None])
@pytest.mark.parametrize("kind", KINDS)
def test_agrees_with_the_paper_in_float64(kind: str, plan: str | None) -> None:
    module, x = build(kind)
    spectrum = decompose(module.weight)
    torch.manual_seed(2)
    start = torch.randn(spectrum.rank, dtype=torch.float64) * 0.3 * spectrum.sigma
    start[0] = -2 * spectrum.sigma[0]  # clipped by ReLU: no gradient

    layer = ShiftedLayer(module, spectrum, start.float().requires_grad_())
    layer.plan = plan
    inputs = x.clone().requires_grad_() if x.is_floating_point() else x
    y = layer.forward(inputs)
    loss(y).backward()

    reference = start.float().double().requires_grad_()
    exact_inputs = x.double().requires_grad_() if x.is_floating_point() else x
    exact = paper(module, reference, exact_inputs)
    loss(exact).backward()

    torch.testing.assert_close(y.double(), exact, rtol=2e-5, atol=2e-5 * float(exact.detach().abs().max()))
    scale = float(reference.grad.abs().max())
    torch.testing.assert_close(layer.delta.grad.double(), reference.grad, rtol=2e-4, atol=2e-5 * scale)
    assert layer.delta.grad[0] == 0
    if x.is_floating_point():
        torch.testing.assert_close(
            inputs.grad.double(), exact_inputs.grad, rtol=1e-4, atol=2e-5 * float(exact_inputs.grad.abs().max())
        )


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("plan", ["factored", "materialized", "two-sided"])
@pytest.mark.parametrize("kind", KINDS)
def test_zero_delta_is_the_module_itself(kind: str, plan: str, dtype: torch.dtype) -> None:
    module, x = build(kind)
    module = module.to(dtype)
    x = x.to(dtype) if x.is_floating_point() else x
    spectrum = decompose(module.weight)
    layer = ShiftedLayer(module, spectrum, torch.zeros(spectrum.rank))
    layer.plan = plan
    assert torch.equal(layer.forward(x), module(x))
    assert shifted_weight(module.weight, spectrum, torch.zeros(spectrum.rank)) is module.weight


@pytest.mark.parametrize("rank", [0, 1, 5])
@pytest.mark.parametrize("plan", ["factored", "materialized", "two-sided"])
def test_weights_without_full_rank(rank: int, plan: str) -> None:
    torch.manual_seed(0)
    module = nn.Linear(14, 10).requires_grad_(False)
    module.weight.copy_(torch.randn(10, rank) @ torch.randn(rank, 14) if rank else torch.zeros(10, 14))
    spectrum = decompose(module.weight)
    assert int((spectrum.sigma > 1e-5).sum()) == rank
    delta = torch.full((10,), 0.5, requires_grad=True)
    layer = ShiftedLayer(module, spectrum, delta)
    layer.plan = plan
    x = torch.randn(6, 14)
    y = layer.forward(x) - module.bias
    y.sum().backward()
    # Any orthonormal completion will do for the directions without a singular value: the weight stays a matrix whose
    # singular values are sigma + delta.
    values = torch.linalg.svdvals(shifted_weight(module.weight, spectrum, delta.detach()).double())
    torch.testing.assert_close(values, (spectrum.sigma + 0.5).sort(descending=True).values, rtol=1e-5, atol=1e-6)
    expected = x @ shifted_weight(module.weight, spectrum, delta.detach()).T
    torch.testing.assert_close(y, expected, rtol=1e-4, atol=1e-5)
    assert torch.isfinite(delta.grad).all()


def test_empty_batches_pass() -> None:
    for kind in ("linear-wide", "linear-tall", "conv2d", "embedding-tall"):
        module, x = build(kind)
        spectrum = decompose(module.weight)
        for plan in ("factored", "materialized", "two-sided"):
            layer = ShiftedLayer(module, spectrum, torch.full((spectrum.rank,), 0.1, requires_grad=True))
            layer.plan = plan
            y = layer.forward(x[:0])
            y.sum().backward()
            assert y.shape == module(x[:0]).shape
            assert torch.equal(layer.delta.grad, torch.zeros(spectrum.rank))


def test_a_materialized_weight_is_made_once_per_step(monkeypatch: pytest.MonkeyPatch) -> None:
    module, x = build("linear-wide")
    spectrum = decompose(module.weight)
    layer = ShiftedLayer(module, spectrum, torch.full((spectrum.rank,), 0.1, requires_grad=True))
    layer.plan = "materialized"
    made = []
    original = kernels.rebuild
    monkeypatch.setattr(kernels, "rebuild", lambda *a, **k: made.append(1) or original(*a, **k))
    optimizer = torch.optim.AdamW([layer.delta], lr=0.1)
    for _ in range(3):  # accumulation
        layer.forward(x).sum().backward()
        with torch.no_grad():
            layer.forward(x)
    assert len(made) == 1
    optimizer.step()
    before = layer.forward(x)
    assert len(made) == 2
    with torch.no_grad():
        layer.delta.zero_()
    assert not torch.equal(layer.forward(x), before)
    assert torch.equal(layer.forward(x), module(x))


def test_a_materialized_direction_that_shrank_keeps_its_gradient() -> None:
    """Dividing by a shifted singular value near zero would be noise: such directions get both sides explicitly."""
    torch.manual_seed(0)
    module = nn.Linear(32, 16).requires_grad_(False)
    spectrum = decompose(module.weight)
    start = torch.zeros(16, dtype=torch.float64)
    start[:4] = -spectrum.sigma[:4] * (1 - 1e-6)
    layer = ShiftedLayer(module, spectrum, start.float().requires_grad_())
    layer.plan = "materialized"
    x = torch.randn(50, 32)
    loss(layer.forward(x)).backward()
    reference = start.float().double().requires_grad_()
    loss(paper(module, reference, x)).backward()
    torch.testing.assert_close(layer.delta.grad.double(), reference.grad, rtol=1e-4, atol=1e-3)


@pytest.mark.parametrize("kind", ["linear-wide", "linear-tall", "linear-square", "conv2d", "embedding-tall"])
def test_autocast_and_checkpointing(kind: str) -> None:
    module, x = build(kind)
    spectrum = decompose(module.weight)
    gradients = []
    for checkpointed in (False, True):
        for plan in ("factored", "materialized", "two-sided"):
            delta = torch.full((spectrum.rank,), 0.05, requires_grad=True)
            layer = ShiftedLayer(module, spectrum, delta)
            layer.plan = plan
            with torch.autocast("cpu", dtype=torch.bfloat16):
                run = layer.forward
                y = torch.utils.checkpoint.checkpoint(run, x, use_reentrant=False) if checkpointed else run(x)
                assert y.dtype == (torch.bfloat16 if x.is_floating_point() else torch.float32)
            loss(y.float()).backward()
            gradients.append(delta.grad)
    for gradient in gradients[1:]:
        torch.testing.assert_close(gradient, gradients[0], rtol=0.05, atol=0.02 * float(gradients[0].abs().max()))


def test_vectors_are_added() -> None:
    norm = nn.GroupNorm(2, 8)
    nn.init.normal_(norm.weight)
    norm.requires_grad_(False)
    delta = torch.zeros(8, requires_grad=True)
    layer = ShiftedVector(norm, delta)
    x = torch.randn(2, 8, 4, 4)
    assert torch.equal(layer.forward(x), norm(x))
    with torch.no_grad():
        delta += 0.5
    expected = torch.nn.functional.group_norm(x, 2, norm.weight + delta, norm.bias)
    torch.testing.assert_close(layer.forward(x), expected)
    layer.forward(x).square().sum().backward()
    assert delta.grad.abs().min() > 0


def test_a_norm_behind_frozen_layers_learns_from_a_channels_last_input() -> None:
    """PyTorch's own backward pass ends the process there: the input needs no gradient, and the scale does."""
    torch.manual_seed(0)
    norm = nn.GroupNorm(2, 8).requires_grad_(False)
    x = torch.randn(2, 8, 4, 4).to(memory_format=torch.channels_last)
    gradients = []
    for given in (x, x.contiguous()):
        delta = torch.zeros(8, requires_grad=True)
        ShiftedVector(norm, delta).forward(given).square().sum().backward()
        gradients.append(delta.grad)
    torch.testing.assert_close(*gradients)


def test_small_changes_are_not_lost_beside_large_sigma() -> None:
    sigma, delta = torch.tensor([1e4, 1.0, 1.0]), torch.tensor([1e-6, -3.0, 1e-9])
    assert singular_value_change(sigma, delta).tolist() == pytest.approx([1e-6, -1.0, 1e-9])


@pytest.mark.parametrize(
    ("kind", "plan", "kept"),
    [
        ("conv2d", "factored", "another"),
        ("conv2d", "materialized", "output"),
        ("linear-tall", "materialized", "input"),
        ("linear-square", "materialized", "output"),
        ("linear-square", "materialized, both sides", "input"),
        ("linear-square", "two-sided", "another"),
    ],
)
def test_what_is_kept_for_backward(kind: str, plan: str, kept: str) -> None:
    """One activation: the output or the input itself, which others may keep too, or one as large as the output."""
    module, x = build(kind)
    x = x.repeat(20, *[1] * (x.ndim - 1)).requires_grad_()
    spectrum = decompose(module.weight)
    layer = ShiftedLayer(module, spectrum, torch.full((spectrum.rank,), 0.01, requires_grad=True))
    if plan.endswith("both sides"):
        layer.plan = "two-sided"
        layer.forward(x)
    layer.plan = plan.partition(",")[0]
    sizes: dict[int, int] = {}

    def note(tensor: Tensor) -> Tensor:
        if tensor.shape[:1] == x.shape[:1]:
            sizes[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(note, lambda tensor: tensor):
        y = layer.forward(x)
    storages = {"input": x.untyped_storage().data_ptr(), "output": y.untyped_storage().data_ptr()}
    largest = max(sizes, key=lambda storage: sizes[storage])
    assert next((name for name, storage in storages.items() if storage == largest), "another") == kept
    narrow = sum(sizes.values()) - sizes[largest]
    assert narrow <= 0.25 * y.nbytes and sizes[largest] <= max(x.nbytes, y.nbytes)
    y.sum().backward()
