"""A shifted weight made in half precision, as a GPU makes it: within twice the error of the paper's formula."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from spectra import kernels
from spectra.layers.shifted_layer import ShiftedLayer
from spectra.spectrum.decomposition import decompose


def test_half_precision_multiplies_in_itself_on_a_gpu_alone() -> None:
    cuda, cpu = torch.device("cuda"), torch.device("cpu")
    for half in (torch.float16, torch.bfloat16):
        assert kernels.product_dtype(cuda, half) == half
        assert kernels.product_dtype(cpu, half) == torch.float32
    assert kernels.product_dtype(cuda, torch.float32) == torch.float32
    assert kernels.product_dtype(cuda, torch.float64) == torch.float64


def formula(weight: torch.Tensor, delta: torch.Tensor, dtype: torch.dtype) -> tuple[torch.Tensor, ...]:
    """`U`, `ReLU(sigma + delta)` and `V^T` of the paper's formula, rounded to `dtype`."""
    u, sigma, vt = torch.linalg.svd(weight.double(), full_matrices=False)
    return u.to(dtype), torch.relu(sigma + delta).to(dtype), vt.to(dtype)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize("shape", [(48, 160), (160, 48), (64, 64)])
def test_its_error_is_at_most_twice_the_papers(
    shape: tuple[int, int], dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(kernels, "product_dtype", lambda device, dtype: dtype)
    torch.manual_seed(0)
    module = nn.Linear(shape[1], shape[0], bias=False).to(dtype).requires_grad_(False)
    spectrum = decompose(module.weight)
    delta = 0.2 * spectrum.sigma.square().mean().sqrt() * torch.randn(spectrum.rank)
    x, grad = torch.randn(300, shape[1]).to(dtype), torch.randn(300, shape[0]).to(dtype)

    def paper(dtype: torch.dtype) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        u, s, vt = formula(module.weight, delta, dtype)
        s.requires_grad_()
        weight = (u * s) @ vt
        y = x.to(dtype) @ weight.T
        (gradient,) = torch.autograd.grad(y, s, grad.to(dtype))
        return weight.detach(), y.detach(), torch.where(s > 0, gradient, 0)

    layer = ShiftedLayer(module, spectrum, delta.clone().requires_grad_())
    layer.plan = "materialized"
    y = layer.forward(x)
    y.backward(grad)
    eye = torch.eye(shape[1], dtype=dtype)
    ours = (layer.forward(eye).detach().T, y.detach(), layer.delta.grad)
    for found, plain, exact in zip(ours, paper(dtype), paper(torch.float64), strict=True):
        error, usual = (float((each.double() - exact).norm()) for each in (found, plain))
        assert error <= 2 * usual
