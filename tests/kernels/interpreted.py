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
from spectra.kernels import configurations, dispatch, torch_operators
from spectra.kernels.dispatch import Impl

DTYPES = [torch.float16, torch.bfloat16]
WORST: dict[str, float] = {}


@pytest.fixture(autouse=True)
def _uninitialised_memory_is_nan() -> Iterator[None]:
    torch.manual_seed(0)
    torch.use_deterministic_algorithms(True)
    yield
    torch.use_deterministic_algorithms(False)


@pytest.fixture(autouse=True, scope="module")
def _report() -> Iterator[None]:
    assert dispatch.uses_triton(torch.ones(1, dtype=torch.float16)), "run with TRITON_INTERPRET=1"
    yield
    print("\nworst error, as a multiple of PyTorch's:", {name: round(ratio, 2) for name, ratio in WORST.items()})


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

    def apply(impl: Impl) -> Callable[..., Tensor]:
        return lambda a, e: kernels.factored_apply(a, basis.to(a.dtype), e, None, _as(offset, e), dim, impl=impl)

    compare("factored apply", apply("triton"), apply("torch"), [a.requires_grad_(), e.requires_grad_()])


def _as(vector: Tensor | None, like: Tensor) -> Tensor | None:
    return None if vector is None else vector.to(like.dtype)


def test_vectors_with_gaps() -> None:
    a, basis = torch.randn(3, 5, 24).half(), basis_of(24, 20, torch.float16)
    e, offset, index = relative(3, 40)[:, ::2], torch.randn(40)[::2], torch.tensor([2, 9, 0, 9, 1, 9])[::2]
    packed = [x.clone(memory_format=torch.contiguous_format) for x in (e, offset, index)]
    results = []
    for e_, offset_, index_ in ((e, offset, index), packed):
        leaf = e_.detach().requires_grad_()
        y = kernels.factored_apply(a, basis, leaf, index_, offset_)
        (gradient,) = torch.autograd.grad(y.square().sum(), leaf)
        results.append([y, gradient])
    for strided, contiguous in zip(*results, strict=True):
        assert torch.equal(strided, contiguous)


@pytest.mark.parametrize("h", [1, 15, 16, 17, 31, 33, 40, 64, 72])
def test_every_number_of_directions(h: int) -> None:
    a, basis, e = torch.randn(20, 80).half(), basis_of(80, h, torch.float16), relative(h)
    compare(
        "factored apply",
        lambda a, e: kernels.factored_apply(a, basis, e, impl="triton"),
        lambda a, e: kernels.factored_apply(a, basis.to(a.dtype), e, impl="torch"),
        [a.requires_grad_(), e.requires_grad_()],
    )


@pytest.mark.parametrize("dtype", DTYPES)
def test_no_shift_is_the_input_bit_for_bit(dtype: torch.dtype) -> None:
    a = torch.randn(3, 33, 40).to(dtype)
    basis = basis_of(40, 37, dtype)
    assert torch.equal(kernels.factored_apply(a, basis, torch.zeros(37)), a)
    index = torch.tensor([0, 1, 0])
    e = torch.stack([torch.zeros(37), relative(37)])
    y = kernels.factored_apply(a, basis, e, index)
    assert torch.equal(y[[0, 2]], a[[0, 2]])
    assert not torch.equal(y[1], a[1])
    x = torch.randn(3, 33, 24).to(dtype)
    assert torch.equal(kernels.low_rank_apply(x, a, (basis[:, :20], basis_of(24, 20, dtype)), torch.zeros(20)), a)


@pytest.mark.parametrize("need", ["a", "e", "nothing"])
def test_only_the_gradients_asked_for(need: str) -> None:
    a, basis, e = torch.randn(20, 24).half(), basis_of(24, 20, torch.float16), relative(20)
    a.requires_grad_(need == "a")
    e.requires_grad_(need == "e")
    y = kernels.factored_apply(a, basis, e)
    assert y.requires_grad == (need != "nothing")
    if need != "nothing":
        y.sum().backward()
    assert (a.grad is not None) == (need == "a")
    assert (e.grad is not None) == (need == "e")


def test_the_bottleneck_is_kept_only_for_the_gradient_of_e(monkeypatch: pytest.MonkeyPatch) -> None:
    kept = []
    original = torch_operators.low_rank_apply
    monkeypatch.setattr(torch_operators, "low_rank_apply", lambda *a: kept.append(a[-1]) or original(*a))
    a, basis, e = torch.randn(20, 24).half().requires_grad_(), basis_of(24, 20, torch.float16), relative(20)
    kernels.factored_apply(a, basis, e)
    with torch.no_grad():
        kernels.factored_apply(a, basis, e.requires_grad_())
    kernels.factored_apply(a, basis, e)
    assert kept == [False, False, True]


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

    def apply(impl: Impl) -> Callable[..., Tensor]:
        return lambda a, e: kernels.factored_apply(a, basis.to(a.dtype), e, index, _as(offset, e), dim, impl=impl)

    learning = [a.requires_grad_(), e.requires_grad_()]
    y, _, gradient = compare("batched apply", apply("triton"), apply("torch"), learning)
    assert torch.equal(gradient[[1, 3]], torch.zeros(2, h))  # adapters that no sample took
    assert gradient[index].abs().min() > 0
    a, e = a.detach(), e.detach()
    apart = torch.cat(
        [kernels.factored_apply(a[i : i + 1], basis, e[j], None, offset, dim) for i, j in enumerate(index)]
    )
    assert torch.equal(y, apart)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("index", [None, [1, 0]])
@pytest.mark.parametrize(("kind", "rows"), [("tokens", 60), ("one row", 18), ("channels first", 17)])
def test_a_term_of_few_directions(kind: str, rows: int, index: list[int] | None, dtype: torch.dtype) -> None:
    make, dim = ACTIVATIONS[kind]
    x = make().to(dtype)
    if index is not None and len(x) < 2:
        index = index[: len(x)]
    h = min(rows, 12)
    left, right = basis_of(rows, h, dtype), basis_of(x.shape[dim], h, dtype, by_column=False)
    y = torch.randn(*x.shape[:dim], rows, *(x.shape[2:] if dim == 1 else ())).to(dtype)
    d, samples = torch.randn(2, h) if index else torch.randn(h), index and torch.tensor(index)

    def apply(impl: Impl) -> Callable[..., Tensor]:
        def term(x: Tensor, y: Tensor, d: Tensor) -> Tensor:
            return kernels.low_rank_apply(x, y, (left.to(x.dtype), right.to(x.dtype)), d, samples, dim, impl=impl)

        return term

    compare("low rank", apply("triton"), apply("torch"), [each.requires_grad_() for each in (x, y, d)])


def test_a_wrong_index_is_refused() -> None:
    a, basis, e = torch.randn(3, 24).half(), basis_of(24, 20, torch.float16), relative(2, 20)
    for index in (torch.zeros(2, dtype=torch.int64), torch.zeros(3, dtype=torch.int32)):
        with pytest.raises(ValueError, match="one entry per sample"):
            kernels.factored_apply(a, basis, e, index)


def test_a_sample_whose_index_is_out_of_range_becomes_nan_and_reads_nothing() -> None:
    a, basis, e = torch.randn(4, 3, 24).half(), basis_of(24, 20, torch.float16), relative(2, 20)
    y, _ = torch_operators.low_rank_apply(a, basis, basis, e, None, torch.tensor([1, 2, 0, -1]), None, True, False)
    assert y.isnan().all((1, 2)).tolist() == [False, True, False, True]
    assert not y[::2].isnan().any()


def test_an_explicit_choice_is_never_another() -> None:
    a, basis, e = torch.randn(3, 400).half(), basis_of(400, 330, torch.float16), relative(330)
    with pytest.raises(ValueError, match="at most 320 directions"):
        kernels.factored_apply(a, basis, e, impl="triton")
    y = kernels.factored_apply(a, basis, e)
    assert torch.equal(y, kernels.factored_apply(a, basis, e, impl="torch"))
    with pytest.raises(ValueError, match=r"float16 or bfloat16.* got torch\.float32"):
        kernels.factored_apply(a.float(), basis.float()[:, :9], e[:9], impl="triton")


def test_sums_are_the_same_whichever_tile_the_clock_would_have_liked(monkeypatch: pytest.MonkeyPatch) -> None:
    """Tiles of 32 and of 16 rows add up in another order: what is taken depends on the shapes alone."""
    from triton.runtime.autotuner import Autotuner

    from spectra.kernels import triton_backend

    assert not isinstance(triton_backend.low_rank_apply, Autotuner)
    a, b = torch.randn(2, 4, 70, 24).bfloat16()
    basis, index = basis_of(24, 20, torch.bfloat16), torch.tensor([0, 1, 0, 1])
    found = []
    for likes in (32, 16):
        monkeypatch.setattr(
            Autotuner, "_bench", lambda *_, config, likes=likes, **__: [float(config.kwargs["BLOCK_P"] != likes)] * 3
        )
        e = relative(2, 20).zero_().requires_grad_()
        y = kernels.factored_apply(a, basis, e, index)
        found += torch.autograd.grad(y, e, b)
    assert torch.equal(*found)
    used = configurations.choose(20, "interpreter", 4, lambda c: 128 // c.p)
    assert used.p == 32
    assert configurations.choose(20, "interpreter", 9, lambda c: 128 // c.p).p == 16


def test_empty_tensors() -> None:
    basis, none = basis_of(24, 20, torch.float16), torch.randn(0, 24).half()
    e = relative(20).requires_grad_()
    y = kernels.factored_apply(none.requires_grad_(), basis, e)
    y.sum().backward()
    assert y.shape == (0, 24)
    assert torch.equal(e.grad, torch.zeros(20))
    values = torch.zeros(1, 20)
    out, t = torch_operators.low_rank_apply(none[None].detach(), basis, basis, values, None, None, None, True, True)
    assert (out.shape, t.shape) == ((1, 0, 24), (1, 0, 32))
    assert torch.equal(
        torch_operators.low_rank_apply_backward(out, t, basis, basis, values, None, True, True)[1], values
    )
    a = torch.randn(4, 24).half()
    assert torch.equal(kernels.factored_apply(a, basis[:, :0], torch.ones(0)), a)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_what_triton_does_not_compute_is_pytorchs(dtype: torch.dtype) -> None:
    a, basis, e = torch.randn(4, 24).to(dtype), basis_of(24, 20, dtype), relative(20).to(dtype)
    assert not dispatch.uses_triton(a, basis)
    exact = a + ((a @ basis) * e) @ basis.T
    torch.testing.assert_close(kernels.factored_apply(a, basis, e), exact)


HALF = torch.bfloat16
SAMPLES = {
    "apply": (
        torch_operators.low_rank_apply,
        lambda: (
            torch.randn(2, 9, 24).to(HALF).requires_grad_(),
            basis_of(24, 20, HALF),
            basis_of(24, 20, HALF),
            relative(3, 20).requires_grad_(),
            None,
            torch.tensor([2, 0]),
            torch.randn(20),
            True,
            True,
        ),
    ),
    "apply, a residual, rows contiguous": (
        torch_operators.low_rank_apply,
        lambda: (
            torch.randn(2, 24, 9).to(HALF).transpose(1, 2).requires_grad_(),
            basis_of(24, 18, HALF),
            basis_of(18, 18, HALF),
            torch.randn(1, 18, requires_grad=True),
            torch.randn(2, 9, 18).to(HALF).requires_grad_(),
            None,
            None,
            False,
            True,
        ),
    ),
    "apply_backward": (
        torch_operators.low_rank_apply_backward,
        lambda: (
            torch.randn(1, 9, 24).to(HALF),
            torch.randn(1, 9, 32).to(HALF),
            basis_of(24, 20, HALF),
            basis_of(24, 20, HALF),
            relative(1, 20),
            None,
            True,
            True,
        ),
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
        assert any("spectra" in str(node.target) for node in graph.graph.nodes)
        return graph.forward

    basis, index = basis_of(24, 20, HALF), torch.tensor([1, 0])

    def layer(a: Tensor, e: Tensor) -> Tensor:
        y = kernels.factored_apply(kernels.factored_apply(a, basis, e, index), basis, e[0])
        return kernels.low_rank_apply(a, y, (basis, basis), e[1])

    run = torch.compile(layer, backend=backend, fullgraph=True)
    for _ in range(2):
        a, e = torch.randn(2, 9, 24).to(HALF).requires_grad_(), relative(2, 20).requires_grad_()
        gradients = [torch.autograd.grad(f(a, e).square().sum(), (a, e)) for f in (run, layer)]
        for ours, eager in zip(*gradients, strict=True):
            torch.testing.assert_close(ours, eager)
    assert len(compiled) == 1
