"""The formulas in plain PyTorch, against their definitions in float64."""

from __future__ import annotations

import pytest
import torch

from spectra import kernels

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
def test_batched_apply_is_one_adapter_per_sample(shape: tuple[int, ...]) -> None:
    dim = 1 if len(shape) == 4 else -1
    a = torch.randn(shape, dtype=torch.float64, requires_grad=True)
    e = torch.randn(3, 5, dtype=torch.float64, requires_grad=True)
    basis, offset, index = orthonormal(7, 5), torch.randn(5, dtype=torch.float64), torch.tensor([2, 0, 2, 2])
    y = kernels.batched_apply(a, basis, e, index, offset, dim)
    parts = [kernels.factored_apply(a[i : i + 1], basis, e[j], offset, dim) for i, j in enumerate(index)]
    torch.testing.assert_close(y, torch.cat(parts), **EXACT)
    grad = torch.randn_like(y)
    ours = torch.autograd.grad(y, (a, e), grad)
    torch.testing.assert_close(ours, torch.autograd.grad(torch.cat(parts), (a, e), grad), **EXACT)
    assert torch.equal(ours[1][1], torch.zeros(5, dtype=torch.float64))


def test_two_sided_apply_is_the_papers_product() -> None:
    weight = torch.randn(6, 9, dtype=torch.float64)
    u, sigma, vt = torch.linalg.svd(weight, full_matrices=False)
    x = torch.randn(2, 9, 4, dtype=torch.float64)
    delta = torch.randn(6, dtype=torch.float64)
    delta[0] = -2 * sigma[0]
    delta.requires_grad_()
    y = kernels.two_sided_apply(x, u, vt.T, sigma, delta, 1)
    exact = (u * torch.relu(sigma + delta)) @ vt @ x
    torch.testing.assert_close(y, exact, **EXACT)
    gradients = [torch.autograd.grad(z.square().sum(), delta)[0] for z in (y, exact)]
    torch.testing.assert_close(*gradients, **EXACT)
    assert gradients[0][0] == 0


@pytest.mark.parametrize("left", [True, False])
def test_rebuild_from_delta_is_the_papers_weight(left: bool) -> None:
    weight = torch.randn(6, 9, dtype=torch.float64)
    weight = weight if left else weight.T
    u, sigma, vt = torch.linalg.svd(weight, full_matrices=False)
    delta = torch.randn(6, dtype=torch.float64)
    delta[1] = -4 * sigma[1]
    ours = kernels.rebuild_from_delta(weight, u if left else vt.T, sigma, delta, left=left, scale=0.5)
    torch.testing.assert_close(ours, (u * torch.relu(sigma + 0.5 * delta)) @ vt, **EXACT)


@pytest.mark.parametrize("gram", [False, True])
@pytest.mark.parametrize("count", [3, 200])
def test_shift_gradient_with_an_offset_and_a_divisor(count: int, gram: bool) -> None:
    a, b = torch.randn(2, count, 7, dtype=torch.float64)
    basis, offset, over = orthonormal(7, 5), torch.randn(5, dtype=torch.float64), torch.rand(5, dtype=torch.float64)
    over[2] = 0
    total = ((a @ basis - offset) * (b @ basis)).sum(0)
    torch.testing.assert_close(kernels.shift_gradient(a, b, basis, offset=offset, gram=gram), total, **EXACT)
    ours = kernels.shift_gradient(a, b, basis, offset=offset, over=over, gram=gram)
    torch.testing.assert_close(ours, torch.where(over > 0, total / over, 0), **EXACT)
    plain = ((a @ basis) * (b @ basis)).sum(0)
    torch.testing.assert_close(kernels.shift_gradient(a, b, basis, gram=gram), plain, **EXACT)


def test_splitting_the_middle() -> None:
    from spectra.kernels.configurations import MIDDLES, middle, split

    for h in range(1, 600):
        first, second = split(h)
        assert first + second >= h
        assert second < first
        assert all(part == 0 or (part >= 16 and part & (part - 1) == 0) for part in (first, second))
    assert split(320) == (256, 64)
    assert [middle(h, "half") for h in (1, 128, 129, 320)] == [128, 128, 320, 320]
    assert middle(MIDDLES[-1] + 1, "half") is None
    with pytest.raises(ValueError, match="h=0"):
        split(0)
