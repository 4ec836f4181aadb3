"""Every Triton kernel under Triton's interpreter, against float64. Run by test_triton.py with TRITON_INTERPRET=1.

A kernel's tolerance is earned, not guessed: its error against float64 is at most twice that of the plain PyTorch
formula in the same dtype. Memory that a kernel did not ask to be filled holds NaN.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest
import torch
from torch import Tensor

from spectra import kernels
from spectra.kernels import configurations, dispatch, operators, reference

DTYPES = [torch.float32, torch.float16, torch.bfloat16]
WORST: dict[str, float] = {}


@pytest.fixture(autouse=True)
def _uninitialised_memory_is_nan() -> Iterator[None]:
    torch.manual_seed(0)
    torch.use_deterministic_algorithms(True)
    yield
    torch.use_deterministic_algorithms(False)


@pytest.fixture(autouse=True, scope="module")
def _report() -> Iterator[None]:
    assert dispatch.uses_triton(torch.ones(1)), "run with TRITON_INTERPRET=1"
    yield
    print("\nworst error, as a multiple of PyTorch's:", {name: round(ratio, 2) for name, ratio in WORST.items()})


@pytest.fixture(params=["one kernel", "two products"])
def _on_chip(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    if request.param == "two products":
        monkeypatch.setattr(configurations, "MIDDLE_LIMIT", {"half": 0, "single": 0})


def agrees(name: str, ours: Tensor, plain: Tensor, exact: Tensor) -> None:
    """Our error is at most twice PyTorch's, and a rounding of the float32 that everything is accumulated in."""
    assert ours.shape == plain.shape == exact.shape
    assert ours.dtype == plain.dtype
    size = exact.norm().clamp_min(1e-30)
    error, theirs = (float((x.double() - exact).norm() / size) for x in (ours, plain))
    floor = torch.finfo(torch.float32).eps
    WORST[name] = max(WORST.get(name, 0.0), error / max(theirs, floor))
    assert error <= 2 * theirs + floor, f"{name}: error {error:.2e}, PyTorch's {theirs:.2e}"


def compare(
    name: str, function: Callable[..., Tensor], plain: Callable[..., Tensor], inputs: list[Tensor]
) -> list[Tensor]:
    """Outputs and gradients of two functions of the same inputs, and of the second in float64; returns the first's."""
    results = []
    grad = None
    for f, wide in ((function, False), (plain, False), (plain, True)):
        leaves = []
        for x in inputs:
            strided = x.detach() if not wide else x.detach().double()
            leaves.append(strided.requires_grad_(x.requires_grad))
        y = f(*leaves)
        if grad is None:
            grad = torch.randn(y.shape).to(y.dtype).as_strided(y.shape, y.stride()) if y.numel() else y.detach()
        y.backward(grad.to(y.dtype))
        results.append([y.detach(), *(x.grad for x in leaves if x.requires_grad)])
    for what, ours, theirs, exact in zip(("", *[" gradient"] * 9), *results, strict=False):
        agrees(name + what, ours, theirs, exact)
    return results[0]


def basis_of(r: int, h: int, dtype: torch.dtype, *, by_column: bool = True) -> Tensor:
    q = torch.linalg.qr(torch.randn(r, r))[0].to(dtype)
    return (q.T.contiguous().T if by_column else q)[:, :h]


def relative(*shape: int) -> Tensor:
    e = 0.3 * torch.randn(shape)
    e[..., 0] = -1  # clipped by ReLU
    return e


ACTIVATIONS: dict[str, tuple[Callable[[], Tensor], int]] = {
    "tokens": (lambda: torch.randn(2, 37, 43), -1),
    "matrix": (lambda: torch.randn(33, 40), -1),
    "one row": (lambda: torch.randn(1, 21), -1),
    "vector": (lambda: torch.randn(18), -1),
    "one channel": (lambda: torch.randn(5, 1), -1),
    "columns of a wider one": (lambda: torch.randn(2, 19, 60)[..., 7:40], -1),
    "every other row": (lambda: torch.randn(70, 32)[::2], -1),
    "transposed": (lambda: torch.randn(24, 35).T, -1),
    "expanded": (lambda: torch.randn(1, 1, 24).expand(3, 5, 24), -1),
    "channels first": (lambda: torch.randn(2, 44, 5, 7), 1),
    "channels last": (lambda: torch.randn(2, 44, 5, 7).to(memory_format=torch.channels_last), 1),
    "cropped": (lambda: torch.randn(2, 20, 6, 9)[:, :, 1:, 2:], 1),
    "one dimension": (lambda: torch.randn(3, 26, 11), 1),
    "without pixels": (lambda: torch.randn(6, 17), 1),
}


@pytest.mark.usefixtures("_on_chip")
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("kind", ACTIVATIONS)
def test_factored(kind: str, dtype: torch.dtype) -> None:
    make, dim = ACTIVATIONS[kind]
    a = make().to(dtype)
    r = a.shape[dim]
    h = max(1, r - 3)
    basis = basis_of(r, h, dtype, by_column=r % 2 == 0)
    offset = torch.randn(h) if r % 3 else None
    e = relative(h)
    compare(
        "factored apply",
        lambda a, e: kernels.factored_apply(a, basis, e, offset, dim),
        lambda a, e: dispatch._Factored.apply(
            a, basis.to(a.dtype), e, None if offset is None else offset.to(e.dtype), dim, None
        ),
        [a.requires_grad_(), e.requires_grad_()],
    )


@pytest.mark.usefixtures("_on_chip")
def test_vectors_with_gaps() -> None:
    a, b, basis = torch.randn(3, 5, 24), torch.randn(3, 5, 24), basis_of(24, 20, torch.float32)
    e, offset = relative(3, 40)[:, ::2], torch.randn(40)[::2]
    sigma, over, index = torch.rand(40)[::2], torch.rand(40)[1::2], torch.tensor([2, 9, 0, 9, 1, 9])[::2]
    packed = [x.clone(memory_format=torch.contiguous_format) for x in (e, offset, sigma, over, index)]
    results = []
    for e_, offset_, sigma_, over_, index_ in ((e, offset, sigma, over, index), packed):
        leaf = e_.detach().requires_grad_()
        y = kernels.batched_apply(a, basis, leaf, index_, offset_)
        (gradient,) = torch.autograd.grad(y.square().sum(), leaf)
        two_sided = kernels.two_sided_apply(a, basis, basis, sigma_, leaf[1])
        (delta_gradient,) = torch.autograd.grad(two_sided.square().sum(), leaf)
        sums = kernels.shift_gradient(a, b, basis, offset=offset_, over=over_)
        weight = kernels.rebuild_from_delta(a[0].T, basis, sigma_ + 0.1, e_[0], left=True)
        results.append([y, gradient, two_sided, delta_gradient, sums, weight])
    for strided, contiguous in zip(*results, strict=True):
        assert torch.equal(strided, contiguous)


@pytest.mark.parametrize("h", [1, 15, 16, 17, 31, 33, 40, 64, 72])
def test_every_width_of_the_middle(h: int) -> None:
    a, basis, e = torch.randn(20, 80), basis_of(80, h, torch.float32), relative(h)
    compare(
        "factored apply",
        lambda a, e: kernels.factored_apply(a, basis, e),
        lambda a, e: dispatch._Factored.apply(a, basis.to(a.dtype), e, None, -1, None),
        [a.requires_grad_(), e.requires_grad_()],
    )


@pytest.mark.usefixtures("_on_chip")
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_no_shift_is_the_input_bit_for_bit(dtype: torch.dtype) -> None:
    a = torch.randn(3, 33, 40).to(dtype)
    basis = basis_of(40, 37, dtype)
    assert torch.equal(kernels.factored_apply(a, basis, torch.zeros(37)), a)
    index = torch.tensor([0, 1, 0])
    e = torch.stack([torch.zeros(37), relative(37)])
    y = kernels.batched_apply(a, basis, e, index)
    assert torch.equal(y[[0, 2]], a[[0, 2]])
    assert not torch.equal(y[1], a[1])
    for left in (True, False):
        weight = torch.randn(40, 50).to(dtype)
        weight = weight if left else weight.T
        assert torch.equal(kernels.rebuild(weight, basis, torch.zeros(37), left=left), weight)


@pytest.mark.usefixtures("_on_chip")
@pytest.mark.parametrize("need", ["a", "e", "nothing"])
def test_only_the_gradients_asked_for(need: str) -> None:
    a, basis, e = torch.randn(20, 24), basis_of(24, 20, torch.float32), relative(20)
    a.requires_grad_(need == "a")
    e.requires_grad_(need == "e")
    y = kernels.factored_apply(a, basis, e)
    assert y.requires_grad == (need != "nothing")
    if need != "nothing":
        y.sum().backward()
    assert (a.grad is not None) == (need == "a")
    assert (e.grad is not None) == (need == "e")


def test_the_middle_is_kept_only_for_the_gradient_of_e(monkeypatch: pytest.MonkeyPatch) -> None:
    kept = []
    original = operators.apply
    monkeypatch.setattr(operators, "apply", lambda *a: kept.append(a[-1]) or original(*a))
    a, basis, e = torch.randn(20, 24, requires_grad=True), basis_of(24, 20, torch.float32), relative(20)
    kernels.factored_apply(a, basis, e)
    with torch.no_grad():
        kernels.factored_apply(a, basis, e.requires_grad_())
    kernels.factored_apply(a, basis, e)
    assert kept == [False, False, True]


@pytest.mark.usefixtures("_on_chip")
@pytest.mark.parametrize(
    ("kind", "dtype"),
    [*(("tokens", dtype) for dtype in DTYPES), ("matrix", torch.float16), ("channels first", torch.bfloat16)],
)
def test_batched(kind: str, dtype: torch.dtype) -> None:
    make, dim = ACTIVATIONS[kind]
    a = make().to(dtype)[:3]
    r, h = a.shape[dim], a.shape[dim] - 4
    basis, offset, e = basis_of(r, h, dtype), torch.randn(h), relative(4, h)
    index = torch.tensor([2, 0, 2])[: len(a)]

    def plain(a: Tensor, e: Tensor) -> Tensor:
        return dispatch._Factored.apply(a, basis.to(a.dtype), e, offset.to(e.dtype), dim, index)

    y, _, gradient = compare(
        "batched apply",
        lambda a, e: kernels.batched_apply(a, basis, e, index, offset, dim),
        plain,
        [a.requires_grad_(), e.requires_grad_()],
    )
    assert torch.equal(gradient[[1, 3]], torch.zeros(2, h))  # adapters that no sample took
    assert gradient[index].abs().min() > 0
    a, e = a.detach(), e.detach()
    apart = torch.cat([kernels.factored_apply(a[i : i + 1], basis, e[j], offset, dim) for i, j in enumerate(index)])
    assert torch.equal(y, apart)


def test_a_wrong_index_is_refused() -> None:
    a, basis, e = torch.randn(3, 24), basis_of(24, 20, torch.float32), relative(2, 20)
    for index in (torch.zeros(2, dtype=torch.int64), torch.zeros(3, dtype=torch.int32)):
        with pytest.raises(ValueError, match="one entry per sample"):
            kernels.batched_apply(a, basis, e, index)


@pytest.mark.usefixtures("_on_chip")
@pytest.mark.parametrize(
    ("kind", "rows", "dtype"),
    [
        *(("tokens", 60, dtype) for dtype in DTYPES),
        ("one row", 5, torch.bfloat16),
        ("transposed", 24, torch.float32),
        ("channels first", 9, torch.float16),
        ("channels last", 60, torch.bfloat16),
    ],
)
def test_two_sided(kind: str, rows: int, dtype: torch.dtype) -> None:
    make, dim = ACTIVATIONS[kind]
    x = make().to(dtype)
    h = min(rows, x.shape[dim])
    left, right = basis_of(rows, h, dtype), basis_of(x.shape[dim], h, dtype, by_column=False)
    sigma = torch.rand(h).sort(descending=True).values + 0.1
    delta = 0.2 * torch.randn(h)
    delta[0] = -2 * sigma[0]

    def plain(x: Tensor, delta: Tensor) -> Tensor:
        s = torch.relu(sigma.to(delta.dtype) + delta)
        return reference.two_sided_apply(x, left.to(x.dtype), right.to(x.dtype), s, dim)

    *_, gradient = compare(
        "two-sided apply",
        lambda x, delta: kernels.two_sided_apply(x, left, right, sigma, delta, dim),
        plain,
        [x.requires_grad_(), delta.requires_grad_()],
    )
    assert gradient[0] == 0  # clipped


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(("rows", "columns"), [(20, 70), (33, 33), (1, 40), (45, 2)])
def test_rebuild(rows: int, columns: int, dtype: torch.dtype) -> None:
    left = rows <= columns
    r = min(rows, columns)
    h = max(1, r - 2)
    basis = basis_of(r, h, dtype)
    sigma, delta = torch.rand(h) + 0.2, torch.randn(h)
    for weight in (torch.randn(rows, columns).to(dtype), torch.randn(columns, rows).to(dtype).T):
        for scale in (1.0, -0.5):
            e = reference.relative_change(sigma, delta, scale)
            assert e.min() >= -1
            plain = reference.rebuild(weight, basis, e.to(dtype), left=left)
            exact_e = reference.relative_change(sigma.double(), delta.double(), scale)
            exact = reference.rebuild(weight.double(), basis.double(), exact_e, left=left)
            agrees("rebuild", kernels.rebuild(weight, basis, e, left=left), plain, exact)
            ours = kernels.rebuild_from_delta(weight, basis, sigma, delta, left=left, scale=scale)
            agrees("rebuild", ours, plain, exact)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("kind", ACTIVATIONS)
def test_shift_gradient(kind: str, dtype: torch.dtype) -> None:
    make, dim = ACTIVATIONS[kind]
    a, b = make().to(dtype), torch.randn_like(make()).to(dtype)
    r = a.shape[dim]
    h = max(1, r - 3)
    basis, offset, over = basis_of(r, h, dtype), torch.randn(h), torch.rand(h) + 0.5
    over[-1] = 0
    for extra in ({}, {"offset": offset, "over": over}):
        wide = {name: x.double() for name, x in extra.items()}
        exact = reference.shift_gradient(a.double(), b.double(), basis.double(), dim, **wide)
        plain = reference.shift_gradient(a, b, basis, dim, **extra)
        ours = kernels.shift_gradient(a, b, basis, dim, **extra)
        agrees("shift gradient", ours, plain, exact)
    assert torch.equal(ours, kernels.shift_gradient(a, b, basis, dim, **extra))
    assert ours[-1] == 0


def test_many_rows_are_shared_among_programs() -> None:
    a, b, basis = torch.randn(400, 16), torch.randn(400, 16), basis_of(16, 16, torch.float32)
    exact = reference.shift_gradient(a.double(), b.double(), basis.double(), -1)
    agrees("shift gradient", kernels.shift_gradient(a, b, basis), reference.shift_gradient(a, b, basis, -1), exact)


def test_empty_tensors() -> None:
    basis, none, e = basis_of(24, 20, torch.float32), torch.randn(0, 24), relative(20).requires_grad_()
    y = kernels.factored_apply(none.requires_grad_(), basis, e)
    y.sum().backward()
    assert y.shape == (0, 24)
    assert torch.equal(e.grad, torch.zeros(20))
    values = torch.zeros(1, 20)
    out, t = operators.apply(none[None].detach(), basis, basis, values, None, None, None, True, True)
    assert (out.shape, t.shape) == ((1, 0, 24), (1, 0, 32))
    grads = operators.apply_backward(out, t, basis, basis, values, None, None, True, True)
    assert torch.equal(grads[1], values)
    assert torch.equal(operators.shift_gradient(out, out, basis, None, None), torch.zeros(20))
    assert torch.equal(kernels.shift_gradient(none, none, basis), torch.zeros(20))
    assert operators.rebuild(torch.ones(0, 5), torch.ones(0, 0), torch.ones(0), None, 1.0, True).shape == (0, 5)
    a = torch.randn(4, 24)
    assert torch.equal(kernels.factored_apply(a, basis[:, :0], torch.ones(0)), a)


def test_what_triton_does_not_compute_is_pytorchs() -> None:
    a, basis, e = torch.randn(4, 24).double(), basis_of(24, 20, torch.float64), relative(20).double()
    assert not dispatch.uses_triton(a, basis)
    exact = a + ((a @ basis) * e) @ basis.T
    torch.testing.assert_close(kernels.factored_apply(a, basis, e), exact, rtol=1e-12, atol=1e-12)


SAMPLES = {
    "apply": (
        operators.apply,
        lambda: (
            torch.randn(2, 9, 24, requires_grad=True),
            basis_of(24, 20, torch.float32),
            basis_of(24, 20, torch.float32),
            relative(3, 20).requires_grad_(),
            None,
            torch.tensor([2, 0]),
            torch.randn(20),
            True,
            True,
        ),
    ),
    "apply, two-sided, rows contiguous": (
        operators.apply,
        lambda: (
            torch.randn(2, 24, 9).transpose(1, 2).requires_grad_(),
            basis_of(24, 18, torch.float32),
            basis_of(18, 18, torch.float32),
            torch.randn(1, 18, requires_grad=True),
            torch.rand(18),
            None,
            None,
            False,
            True,
        ),
    ),
    "apply_backward": (
        operators.apply_backward,
        lambda: (
            torch.randn(1, 9, 24),
            torch.randn(1, 9, 32),
            basis_of(24, 20, torch.float32),
            basis_of(24, 20, torch.float32),
            relative(1, 20),
            None,
            None,
            True,
            True,
        ),
    ),
    "rebuild": (
        operators.rebuild,
        lambda: (torch.randn(24, 30), basis_of(24, 20, torch.float32), relative(20), torch.rand(20) + 0.1, 0.5, True),
    ),
    "shift_gradient": (
        operators.shift_gradient,
        lambda: (torch.randn(1, 9, 24), torch.randn(1, 9, 24), basis_of(24, 20, torch.float32), None, torch.rand(20)),
    ),
}


@pytest.mark.parametrize("name", SAMPLES)
def test_opcheck(name: str) -> None:
    torch.use_deterministic_algorithms(False)  # opcheck compares uninitialised padding bit for bit
    op, make = SAMPLES[name]
    torch.library.opcheck(op, make())


def test_compiles_into_one_graph_and_takes_another_shift_without_another() -> None:
    compiled: list[int] = []

    def backend(graph: torch.fx.GraphModule, inputs: list[Tensor]) -> Callable[..., object]:
        compiled.append(len(graph.graph.nodes))
        return graph.forward

    basis, sigma, index = basis_of(24, 20, torch.float32), torch.rand(20) + 0.1, torch.tensor([1, 0])

    def layer(a: Tensor, e: Tensor) -> Tensor:
        y = kernels.factored_apply(kernels.batched_apply(a, basis, e, index), basis, e[0])
        return kernels.two_sided_apply(y, basis, basis, sigma, e[1])

    run = torch.compile(layer, backend=backend, fullgraph=True)
    for _ in range(2):
        a, e = torch.randn(2, 9, 24, requires_grad=True), relative(2, 20).requires_grad_()
        gradients = [torch.autograd.grad(f(a, e).square().sum(), (a, e)) for f in (run, layer)]
        for ours, eager in zip(*gradients, strict=True):
            torch.testing.assert_close(ours, eager)
    assert len(compiled) == 1
