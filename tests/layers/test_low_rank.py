"""A change of low rank beside a frozen layer: right against float64, exact at zero, little kept for the way back."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.func import functional_call

from spectra.layers.change import Change
from spectra.layers.changed_weight import SomeDirections, changed_weight
from spectra.layers.low_rank_layer import LowRankLayer
from spectra.layers.per_sample import Samples
from spectra.layers.sampled_low_rank import SampledLowRankLayer
from spectra.layers.shifted_layer import ShiftedLayer
from spectra.spectrum.decomposition import decompose

CASES: dict[str, tuple[nn.Module, tuple[int, ...]]] = {
    "linear, many rows": (nn.Linear(24, 40), (3, 50, 24)),
    "linear, few rows": (nn.Linear(24, 40), (3, 2, 24)),
    "linear, wide, no bias": (nn.Linear(48, 16, bias=False), (3, 20, 48)),
    "convolution": (nn.Conv2d(6, 10, 3, padding=1), (3, 6, 16, 16)),
    "convolution, few pixels": (nn.Conv2d(6, 10, 3, padding=1), (3, 6, 4, 4)),
    "convolution, stride": (nn.Conv2d(6, 10, 3, 2, 1), (3, 6, 16, 16)),
    "pointwise convolution": (nn.Conv2d(6, 10, 1), (3, 6, 8, 8)),
    "1-D convolution": (nn.Conv1d(6, 10, 3, dilation=2), (3, 6, 20)),
    "3-D convolution": (nn.Conv3d(3, 5, (1, 3, 3)), (3, 3, 2, 6, 6)),
    "groups": (nn.Conv2d(6, 10, 3, groups=2), (3, 6, 8, 8)),
    "reflected padding": (nn.Conv2d(6, 10, 3, padding=1, padding_mode="reflect"), (3, 6, 8, 8)),
    "transposed": (nn.ConvTranspose2d(6, 10, 3, 2, 1, 1), (3, 6, 5, 5)),
    "embedding": (nn.Embedding(30, 12), (3, 7)),
}

EXACT_CASES = list(CASES)[:5]

DEPTHWISE = nn.Conv2d(1152, 1152, 3, padding=1, groups=1152, bias=False), (4, 1152, 8, 8)
"""Long enough for the order of a sum to tell."""

DRAWS = 32
"""A delta's gradient has three numbers here: over few draws its relative error is chance."""


def make_input(module: nn.Module, shape: tuple[int, ...], dtype: torch.dtype) -> Tensor:
    if isinstance(module, nn.Embedding):
        return torch.randint(0, module.num_embeddings, shape)
    return torch.randn(shape).to(dtype)


def make_change(module: nn.Module, directions: int, terms: int, *, kernel: bool = True, rows: int = 0) -> Change:
    """A random one; with `rows`, as many in one."""
    weight: Tensor = module.weight  # type: ignore[assignment]
    lead = (rows,) if rows else ()
    taps = weight[0, 0].numel() if weight.ndim > 2 else 0
    parts: dict[str, Tensor] = {}
    if directions:
        parts["delta"] = 0.2 * torch.randn(*lead, directions)
    if terms:
        parts["a"] = 0.2 * torch.randn(*lead, terms, weight.shape[0])
        if taps and kernel:
            parts["b"] = torch.randn(*lead, terms, weight.shape[1])
            parts["kernel"] = torch.randn(*lead, terms, taps)
        else:
            parts["b"] = torch.randn(*lead, terms, weight[0].numel())
    return Change(**parts).map(lambda tensor: tensor.requires_grad_())


def leading(module: nn.Module, count: int) -> SomeDirections:
    weight: Tensor = module.weight  # type: ignore[assignment]
    u, s, vt = torch.linalg.svd(weight.detach().double().flatten(1), full_matrices=False)
    return SomeDirections(u[:, :count].float(), vt[:count].T.float(), s[:count])


def in_float64(module: nn.Module, change: Change, directions: SomeDirections, x: Tensor, grad: Tensor) -> list[Tensor]:
    """Output and gradients of the plain formula."""
    module = copy.deepcopy(module).double()
    weight: Tensor = module.weight  # type: ignore[assignment]
    wide = change.map(lambda tensor: tensor.detach().double().requires_grad_())
    matrix = weight.detach().flatten(1)
    if wide.delta is not None:
        left, right, sigma = (each.double() for each in directions)
        matrix = matrix + (left * (torch.relu(sigma + wide.delta) - sigma)) @ right.T
    if wide.a is not None:
        matrix = matrix + wide.a.T @ wide.right
    x = x.double().requires_grad_() if x.is_floating_point() else x
    y = functional_call(module, {"weight": matrix.reshape(weight.shape)}, (x,))
    learning = [*wide.tensors(), *([x] if x.is_floating_point() else [])]
    return [y, *torch.autograd.grad(y, learning, grad.double())]


@dataclass
class PlainFormula:
    """The changed weight, made by the formula in the layer's own dtype, and autograd through it."""

    module: nn.Module
    change: Change
    directions: SomeDirections

    def forward(self, x: Tensor) -> Tensor:
        weight: Tensor = self.module.weight.detach()  # type: ignore[assignment, union-attr]
        left, right, sigma = (each.to(weight.dtype) for each in self.directions)
        change = self.change.map(lambda tensor: tensor.to(weight.dtype))
        made = weight.flatten(1) + (left * (torch.relu(sigma + change.delta) - sigma)) @ right.T
        made = made + change.a.T @ change.right  # type: ignore[union-attr]
        return functional_call(self.module, {"weight": made.reshape(weight.shape)}, (x,))


def computed(layer: Any, change: Change, x: Tensor, grad: Tensor) -> list[Tensor]:
    x = x.clone().requires_grad_() if x.is_floating_point() else x
    y = layer.forward(x)
    return [y, *torch.autograd.grad(y, [*change.tensors(), *([x] if x.is_floating_point() else [])], grad.to(y.dtype))]


def error(found: Tensor, right: Tensor) -> float:
    return float((found.detach().double() - right.detach()).norm() / right.detach().norm())


@pytest.mark.parametrize("kernel", [True, False])
@pytest.mark.parametrize(("directions", "terms"), [(3, 0), (0, 2), (3, 1)])
@pytest.mark.parametrize("case", CASES)
def test_output_and_gradients(case: str, directions: int, terms: int, kernel: bool) -> None:
    torch.manual_seed(0)
    module, shape = CASES[case]
    x, some = make_input(module, shape, torch.float32), leading(module, directions)
    change = make_change(module, directions, terms, kernel=kernel)
    grad = torch.randn(module(x).shape)
    layer = LowRankLayer(module, change, some if directions else None)
    right = in_float64(module, change, some, x, grad)
    for found, wanted in zip(computed(layer, change, x, grad), right, strict=True):
        # A wrong formula is off by far more; what sums may lose differs between CPUs, and is tested below.
        assert error(found, wanted) < 1e-5


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32])
@pytest.mark.parametrize("case", [*EXACT_CASES, "depthwise"])
def test_error_is_at_most_twice_the_plain_formulas(case: str, dtype: torch.dtype) -> None:
    torch.manual_seed(1)
    module, shape = (copy.deepcopy(CASES[case][0]), CASES[case][1]) if case in CASES else DEPTHWISE
    module.reset_parameters()  # type: ignore[operator]  # others in each process without a seed
    module, ours, plain = module.to(dtype), [], []
    for _ in range(DRAWS if case in CASES else 3):
        x, some = make_input(module, shape, dtype), leading(module, 3)
        change = make_change(module, 3, 1, kernel=case in CASES)
        grad = torch.randn(module(x).shape).to(dtype)
        right = in_float64(module, change, some, x, grad)
        layers: list[Any] = [LowRankLayer(module, change, some), PlainFormula(module, change, some)]
        for layer, errors in zip(layers, (ours, plain), strict=True):
            found = computed(layer, change, x, grad)
            errors.append([error(*pair) for pair in zip(found, right, strict=True)])
    for mine, theirs in zip(torch.tensor(ours).mean(0), torch.tensor(plain).mean(0), strict=True):
        assert mine <= 2 * theirs


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("case", CASES)
def test_at_zero_it_is_the_frozen_layer(case: str, dtype: torch.dtype) -> None:
    module, shape = copy.deepcopy(CASES[case][0]).to(dtype), CASES[case][1]
    x = make_input(module, shape, dtype)
    change = make_change(module, 3, 2)
    with torch.no_grad():
        change.delta.zero_()  # type: ignore[union-attr]
        change.a.zero_()  # type: ignore[union-attr]
    assert torch.equal(LowRankLayer(module, change, leading(module, 3)).forward(x), module(x))
    frozen: Tensor = module.weight  # type: ignore[assignment]
    assert changed_weight(frozen, leading(module, 3), change.map(Tensor.detach)) is frozen


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32])
@pytest.mark.parametrize("case", EXACT_CASES)
def test_error_of_a_samples_own_directions_is_at_most_twice_the_plain_formulas(case: str, dtype: torch.dtype) -> None:
    torch.manual_seed(5)
    module, shape = copy.deepcopy(CASES[case][0]), CASES[case][1]
    module.reset_parameters()  # type: ignore[operator]
    module, ours, plain = module.to(dtype), [], []
    for _ in range(DRAWS):
        x, some = make_input(module, shape, dtype), leading(module, 3)
        changes = make_change(module, 3, 1, kernel=False, rows=3)  # a kernel's gradient is PyTorch's depthwise one
        grad = torch.randn(module(x).shape).to(dtype)
        own = [changes.map(lambda tensor, n=n: tensor.detach()[n].requires_grad_()) for n in range(3)]
        apart = [(module, own[n], some, x[n : n + 1], grad[n : n + 1]) for n in range(3)]
        right = [in_float64(*each) for each in apart]
        formula = [computed(PlainFormula(module, change, some), change, xn, gn) for _, change, _, xn, gn in apart]
        layer = SampledLowRankLayer(module, changes, Samples(torch.arange(3)), some)
        (y, *of_change, of_x) = computed(layer, changes, x, grad)
        together = [[y[n : n + 1], *(each[n] for each in of_change), of_x[n : n + 1]] for n in range(3)]
        for found, errors in ((together, ours), (formula, plain)):
            for mine, wanted in zip(found, right, strict=True):
                errors.append([error(*pair) for pair in zip(mine, wanted, strict=True)])
    for mine, theirs in zip(torch.tensor(ours).mean(0), torch.tensor(plain).mean(0), strict=True):
        assert mine <= 2 * theirs


def test_directions_of_small_values_are_not_divided_by_them() -> None:
    torch.manual_seed(6)
    module, x = nn.Linear(24, 24), torch.randn(3, 5, 24)
    u, sigma, vt = torch.linalg.svd(module.weight.detach())
    sigma[-2:] = 0
    with torch.no_grad():
        module.weight.copy_((u * sigma) @ vt)
    some = SomeDirections(u[:, [0, 23]], vt[[0, 23]].T, sigma[[0, 23]])
    changes = make_change(module, 2, 0, rows=3)
    y = SampledLowRankLayer(module, changes, Samples(torch.arange(3)), some).forward(x)
    each = [
        LowRankLayer(module, changes.map(lambda tensor, n=n: tensor[n]), some).forward(x[n : n + 1]) for n in range(3)
    ]
    assert torch.allclose(y, torch.cat(each), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("case", CASES)
def test_samples_have_changes_of_their_own(case: str) -> None:
    torch.manual_seed(2)
    module, shape = CASES[case]
    rows = torch.tensor([2, 0, 2])
    x, some, changes = make_input(module, shape, torch.float32), leading(module, 3), make_change(module, 3, 2, rows=3)
    y = SampledLowRankLayer(module, changes, Samples(rows), some).forward(x)
    each = [
        LowRankLayer(module, changes.map(lambda tensor, row=row: tensor[row]), some).forward(x[n : n + 1])
        for n, row in enumerate(rows.tolist())
    ]
    assert torch.allclose(y, torch.cat(each), rtol=1e-4, atol=1e-5)
    y.square().sum().backward()
    assert all(tensor.grad is not None and not tensor.grad[1].any() for tensor in changes.tensors())


def test_terms_beside_all_directions() -> None:
    torch.manual_seed(3)
    module, x = nn.Linear(24, 40), torch.randn(3, 50, 24)
    spectrum = decompose(module.weight)
    change = make_change(module, 24, 2)
    inner = ShiftedLayer(module, spectrum, change.delta)  # type: ignore[arg-type]
    grad = torch.randn(3, 50, 40)
    found = computed(LowRankLayer(module, change, spectrum, inner), change, x, grad)
    for mine, right in zip(found, in_float64(module, change, leading(module, 24), x, grad), strict=True):
        assert error(mine, right) < 5e-6


@pytest.fixture
def saved() -> Iterator[list[Tensor]]:
    """Tensors that autograd is given to keep while the test runs."""
    kept: list[Tensor] = []
    with torch.autograd.graph.saved_tensors_hooks(lambda t: kept.append(t) or t, lambda t: t):  # type: ignore[func-returns-value]
        yield kept


def test_directions_keep_no_input(saved: list[Tensor]) -> None:
    module, x = nn.Linear(64, 48), torch.randn(4, 100, 64, requires_grad=True)
    change = make_change(module, 3, 0)
    LowRankLayer(module, change, leading(module, 3)).forward(x)
    activations = [t for t in saved if t.numel() >= 400 and t.shape[0] == 4]
    assert [tuple(t.shape) for t in activations] == [(4, 100, 3)]


def test_a_head_that_is_tied_to_its_embedding_gains_the_special_word_s_vectors() -> None:
    head, x = nn.Linear(12, 8), torch.randn(3, 4, 12)
    word = torch.randn(2, 12)
    changed = head.weight.index_add(0, torch.tensor((5, 2)), word)
    torch.testing.assert_close(
        LowRankLayer(head, Change(word=word, ids=(5, 2))).forward(x), F.linear(x, changed, head.bias)
    )
    words = torch.randn(3, 2, 12)
    y = SampledLowRankLayer(head, Change(word=words, ids=(5, 2)), Samples(torch.tensor([2, 0, 1]))).forward(x)
    for sample, row in enumerate((2, 0, 1)):
        changed = head.weight.index_add(0, torch.tensor((5, 2)), words[row])
        torch.testing.assert_close(y[sample], F.linear(x[sample], changed, head.bias))


def test_the_special_word_has_vectors_of_its_own() -> None:
    module, ids = nn.Embedding(30, 12), torch.tensor([[1, 5, 2, 5], [3, 3, 3, 3]])
    word = torch.randn(2, 12, requires_grad=True)
    y = LowRankLayer(module, Change(word=word, ids=(5, 2))).forward(ids)
    expected = module(ids).detach()
    expected[0, 1] += word[0]
    expected[0, 3] += word[0]
    expected[0, 2] += word[1]
    assert torch.equal(y, expected)
    y.sum().backward()
    assert torch.equal(word.grad, torch.tensor([[2.0], [1.0]]).expand(2, 12))  # type: ignore[arg-type]
    changes = Change(word=torch.randn(3, 2, 12), ids=(5, 2))
    own = SampledLowRankLayer(module, changes, Samples(torch.tensor([1, 0]))).forward(ids)
    assert torch.allclose(own[0, 2], module.weight[2] + changes.word[1, 1])  # type: ignore[index]
    assert torch.equal(own[1], module(ids)[1])


def test_the_weight_is_made_once_for_each_value() -> None:
    module, x = nn.Linear(24, 40), torch.randn(5, 24)
    change = make_change(module, 3, 1).map(Tensor.detach)
    layer = LowRankLayer(module, change, leading(module, 3))
    wanted = layer.forward(x)
    layer.made_once = True
    assert torch.allclose(layer.forward(x), wanted, atol=1e-5)
    made = layer._changed_once(module.weight)
    assert layer._changed_once(module.weight) is made
    change.a.mul_(2)  # type: ignore[union-attr]
    assert layer._changed_once(module.weight) is not made
