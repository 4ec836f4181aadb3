"""The formulas in plain PyTorch, against their definitions in float64."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch

from spectra import kernels
from spectra.kernels import configurations, devices

EXACT = {"rtol": 1e-10, "atol": 1e-12}


@pytest.fixture(autouse=True)
def _seed() -> None:
    torch.manual_seed(0)


def orthonormal(r: int, h: int) -> torch.Tensor:
    return torch.linalg.qr(torch.randn(r, r, dtype=torch.float64))[0][:, :h]


@pytest.mark.parametrize("shape", [(7,), (3, 7), (2, 5, 7)])
def test_factored_apply_of_any_number_of_dimensions(shape: tuple[int, ...]) -> None:
    a = torch.randn(shape, dtype=torch.float64, requires_grad=True)
    e = torch.randn(5, dtype=torch.float64, requires_grad=True)
    basis = orthonormal(7, 5)
    y = kernels.factored_apply(a, basis, e)
    exact = a + ((a @ basis) * e) @ basis.T
    torch.testing.assert_close(y, exact, **EXACT)
    grad = torch.randn_like(y)
    torch.testing.assert_close(torch.autograd.grad(y, (a, e), grad), torch.autograd.grad(exact, (a, e), grad), **EXACT)


@pytest.mark.parametrize("shape", [(4, 7), (4, 3, 7), (4, 7, 2, 3)])
def test_factored_apply_with_an_index_is_one_adapter_per_sample(shape: tuple[int, ...]) -> None:
    dim = 1 if len(shape) == 4 else -1
    a = torch.randn(shape, dtype=torch.float64, requires_grad=True)
    e = torch.randn(3, 5, dtype=torch.float64, requires_grad=True)
    basis, offset, index = orthonormal(7, 5), torch.randn(5, dtype=torch.float64), torch.tensor([2, 0, 2, 2])
    y = kernels.factored_apply(a, basis, e, index, offset, dim)
    parts = [kernels.factored_apply(a[i : i + 1], basis, e[j], None, offset, dim) for i, j in enumerate(index)]
    torch.testing.assert_close(y, torch.cat(parts), **EXACT)
    grad = torch.randn_like(y)
    ours = torch.autograd.grad(y, (a, e), grad)
    torch.testing.assert_close(ours, torch.autograd.grad(torch.cat(parts), (a, e), grad), **EXACT)
    assert torch.equal(ours[1][1], torch.zeros(5, dtype=torch.float64))


@pytest.mark.parametrize("samples", [None, [1, 0]])
@pytest.mark.parametrize("dim", [-1, 1])
def test_low_rank_apply_is_a_term_beside_the_layer(dim: int, samples: list[int] | None) -> None:
    left, right = orthonormal(6, 3), orthonormal(9, 3)
    d = torch.randn((3,) if samples is None else (2, 3), dtype=torch.float64, requires_grad=True)
    x, y = (torch.randn(2, 4, size, dtype=torch.float64) for size in (9, 6))
    x, y = (each if dim == -1 else each.transpose(1, 2) for each in (x.requires_grad_(), y.requires_grad_()))
    index = None if samples is None else torch.tensor(samples)
    ours = kernels.low_rank_apply(x, y, (left, right), d, index, dim)
    scale = d if index is None else d[index][:, None]
    exact = y.movedim(dim, -1) + ((x.movedim(dim, -1) @ right) * scale) @ left.T
    exact = exact.movedim(-1, dim)
    torch.testing.assert_close(ours, exact, **EXACT)
    grad = torch.randn_like(ours)
    gradients = [torch.autograd.grad(each, (x, y, d), grad, retain_graph=True) for each in (ours, exact)]
    torch.testing.assert_close(*gradients, **EXACT)


@pytest.mark.parametrize("wrong", [[0, 3, 1, 1], [0, -1, 1, 1]])
def test_an_index_out_of_range_is_refused(wrong: list[int]) -> None:
    a, e, basis = torch.randn(4, 7), torch.randn(3, 5), orthonormal(7, 5).float()
    with pytest.raises(ValueError, match="expected an index from 0 to 2"):
        kernels.factored_apply(a, basis, e, torch.tensor(wrong))
    with pytest.raises(ValueError, match="expected an index from 0 to 2"):
        kernels.low_rank_apply(a, a, (basis, basis), e, torch.tensor(wrong))


def test_triton_is_refused_where_it_cannot_compute() -> None:
    a, basis = torch.randn(4, 7), orthonormal(7, 5).float()
    with pytest.raises(ValueError, match=r"impl='triton' computes float16 .* got torch.float32 \(4, 7\) on cpu"):
        kernels.factored_apply(a, basis, torch.randn(5), impl="triton")
    with pytest.raises(ValueError, match="expected impl 'torch', 'triton' or None, got 'cuda'"):
        kernels.factored_apply(a, basis, torch.randn(5), impl="cuda")


@pytest.mark.parametrize("left", [True, False])
def test_rebuild_is_the_papers_weight(left: bool) -> None:
    weight = torch.randn(6, 9, dtype=torch.float64)
    weight = weight if left else weight.T
    u, sigma, vt = torch.linalg.svd(weight, full_matrices=False)
    delta = torch.randn(6, dtype=torch.float64)
    delta[1] = -4 * sigma[1]
    s = torch.relu(sigma + 0.5 * delta)
    ours = kernels.rebuild(weight, u if left else vt.T, (s - sigma) / sigma, left=left)
    torch.testing.assert_close(ours, (u * s) @ vt, **EXACT)
    unchanged = kernels.rebuild(weight, u if left else vt.T, torch.zeros(6, dtype=torch.float64), left=left)
    assert torch.equal(unchanged, weight)


@pytest.mark.parametrize("gram", [False, True])
@pytest.mark.parametrize("count", [3, 200])
def test_shift_gradient_with_an_offset_and_a_divisor(count: int, gram: bool) -> None:
    a, b = torch.randn(2, count, 7, dtype=torch.float64)
    basis, offset, over = orthonormal(7, 5), torch.randn(5, dtype=torch.float64), torch.rand(5, dtype=torch.float64)
    over[2] = 0
    total = ((a @ basis - offset) * (b @ basis)).sum(0)
    ones = torch.ones_like(over)
    torch.testing.assert_close(kernels.shift_gradient(a, b, basis, ones, offset=offset, gram=gram), total, **EXACT)
    ours = kernels.shift_gradient(a, b, basis, over, offset=offset, gram=gram)
    torch.testing.assert_close(ours, torch.where(over > 0, total / over, 0), **EXACT)
    plain = ((a @ basis) * (b @ basis)).sum(0)
    torch.testing.assert_close(kernels.shift_gradient(a, b, basis, ones, gram=gram), plain, **EXACT)


def test_splitting_the_bottleneck() -> None:
    for h in range(1, 600):
        first, second = configurations.split(h)
        assert first + second >= h
        assert second < first
        assert all(part == 0 or (part >= 16 and part & (part - 1) == 0) for part in (first, second))
    assert configurations.split(320) == (256, 64)
    with pytest.raises(ValueError, match="h=0"):
        configurations.split(0)


def test_the_largest_tiles_that_occupy_every_multiprocessor() -> None:
    kept = configurations.CONFIGURATIONS[128, "sm_90"]
    sizes = [each.p for each in kept]
    assert sizes == sorted(sizes, reverse=True)
    for rows, expected in ((132 * sizes[0], kept[0]), (132 * sizes[1], kept[1]), (64, kept[-1])):
        assert configurations.choose(128, "sm_90", 132, lambda c, n=rows: -(-n // c.p)) == expected
    assert configurations.choose(129, "sm_90", 1, lambda c: c.p) == configurations.CONFIGURATIONS[320, "sm_90"][0]


@pytest.mark.parametrize(
    ("capability", "architecture", "fast"),
    [
        ((7, 5), None, False),
        ((8, 0), "sm_80", True),
        ((8, 9), "sm_80", False),
        ((9, 0), "sm_90", True),
        ((10, 0), "sm_100", True),
        ((12, 0), "sm_80", False),
    ],
)
def test_what_a_gpu_can_do_decides(
    capability: tuple[int, int], architecture: str | None, fast: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: capability)
    devices._gpu_traits.cache_clear()
    gpu = torch.device("cuda")
    assert (devices.architecture(gpu), devices.fast_float64(gpu)) == (architecture, fast)
    devices._gpu_traits.cache_clear()


@pytest.mark.parametrize(
    ("name", "architecture"),
    [("gfx906:sramecc+", None), ("gfx90a", "gfx942"), ("gfx942:xnack-", "gfx942"), ("gfx1100", None)],
)
def test_an_amd_gpu_needs_matrix_cores(name: str, architecture: str | None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.version, "hip", "7.0")
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda device: SimpleNamespace(gcnArchName=name))
    devices._gpu_traits.cache_clear()
    gpu = torch.device("cuda")
    assert (devices.architecture(gpu), devices.fast_float64(gpu)) == (architecture, architecture is not None)
    devices._gpu_traits.cache_clear()


def test_a_graph_takes_what_a_gpu_can_do_as_a_constant(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: (9, 0))
    devices._gpu_traits.cache_clear()

    def one(x: torch.Tensor) -> torch.Tensor:
        return x + (devices.architecture(torch.device("cuda")) == "sm_90")

    assert torch.compile(one, backend="eager", fullgraph=True)(torch.zeros(1)) == 1
    devices._gpu_traits.cache_clear()


def test_the_gram_matrix_is_taken_where_it_is_fast() -> None:
    """A "cuda" that is not there stands for a data-centre GPU."""
    cpu, cuda = torch.device("cpu"), torch.device("cuda")
    assert all(kernels.uses_gram(cpu, dtype) for dtype in (torch.float32, torch.bfloat16))
    assert not kernels.uses_gram(cuda, torch.bfloat16)
    if not torch.cuda.is_available():
        assert kernels.uses_gram(cuda, torch.float32)
