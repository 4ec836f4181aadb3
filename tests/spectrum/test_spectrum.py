"""Properties of `decompose`, each held against float64 computed another way."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from spectra.errors import WeightError
from spectra.spectrum.decomposition import TAIL_THRESHOLD, decompose
from spectra.spectrum.spectrum import Spectrum, matrix, other_side

FLOAT32 = 6e-8
"""Half a unit in the last place of float32: what storing the basis costs."""

QUICK = settings(max_examples=40, deadline=None, derandomize=True)

LAYERS = {
    "linear": nn.Linear(12, 7),
    "linear wide": nn.Linear(5, 40),
    "linear one row": nn.Linear(9, 1),
    "conv1d": nn.Conv1d(6, 10, 3, stride=2, padding=1),
    "conv2d": nn.Conv2d(8, 6, 3, padding=1, dilation=2),
    "conv2d 1x1": nn.Conv2d(4, 20, 1),
    "conv2d groups": nn.Conv2d(8, 12, 3, groups=4),
    "conv2d depthwise": nn.Conv2d(16, 16, 3, groups=16),
    "conv3d": nn.Conv3d(3, 5, (1, 3, 3), stride=(1, 2, 2)),
    "transposed 1d": nn.ConvTranspose1d(6, 9, 4, stride=2),
    "transposed 2d": nn.ConvTranspose2d(6, 4, 3, stride=2, groups=2),
    "transposed 3d": nn.ConvTranspose3d(4, 3, 2),
    "embedding": nn.Embedding(50, 8),
    "embedding wide": nn.Embedding(5, 30),
}


def sides(spectrum: Spectrum, weight: Tensor) -> tuple[Tensor, Tensor]:
    """All singular vectors, `U [rows, r]` and `V [columns, r]` in float64.

    The other side of one-sided directions comes from W, that of the tail as it is stored.
    """
    w = matrix(weight.detach()).to(torch.float64)
    basis, tail = spectrum.basis.double(), spectrum.tail.double()
    through = w.T if spectrum.side == "left" else w
    first = through @ basis[:, : spectrum.one_sided] / spectrum.sigma[: spectrum.one_sided]
    other = torch.cat([first, tail.T], dim=1)
    return (basis, other) if spectrum.side == "left" else (other, basis)


def check(weight: Tensor, spectrum: Spectrum) -> None:
    """Everything that must hold of any spectrum."""
    w = matrix(weight.detach()).to(torch.float64)
    r, long = min(w.shape), max(w.shape)
    assert spectrum.side == ("left" if w.shape[0] <= w.shape[1] else "right")
    assert (spectrum.rank, spectrum.shape) == (r, tuple(weight.shape))
    assert spectrum.basis.shape == (r, r)
    assert spectrum.tail.shape == (r - spectrum.one_sided, long)
    assert (spectrum.basis.dtype, spectrum.sigma.dtype, spectrum.tail.dtype) == (
        torch.float32,
        torch.float64,
        torch.float32,
    )

    top = float(spectrum.sigma[0])
    assert bool((spectrum.sigma >= 0).all())
    assert bool((spectrum.sigma.diff() <= 0).all())
    torch.testing.assert_close(spectrum.sigma, torch.linalg.svdvals(w), rtol=1e-11, atol=top * 1e-14 * math.sqrt(long))

    rms = float(w.square().sum().div(r).sqrt())
    assert bool((spectrum.sigma[: spectrum.one_sided] >= TAIL_THRESHOLD * rms * (1 - 1e-9)).all())
    assert bool((spectrum.sigma[spectrum.one_sided :] <= TAIL_THRESHOLD * rms * (1 + 1e-9)).all())

    u, v = sides(spectrum, weight)
    bound = 4 * FLOAT32 * math.sqrt(long)
    unit = torch.eye(r, dtype=torch.float64)
    basis, other = (u, v) if spectrum.side == "left" else (v, u)
    assert float((basis.T @ basis - unit).abs().max()) <= bound
    # Their other side is W / sigma: the basis' rounding grows by up to top / sigma, at most 8 sqrt(r).
    assert float((other.T @ other - unit).abs().max()) <= bound * 8 * math.sqrt(r)
    assert float((u * spectrum.sigma @ v.T - w).abs().max()) <= bound * max(top, 1e-300)

    peaks = spectrum.basis.gather(0, spectrum.basis.abs().argmax(0, keepdim=True))
    assert bool((peaks > 0).all())


@pytest.mark.parametrize("kind", LAYERS)
def test_every_layer_kind(kind: str) -> None:
    check(LAYERS[kind].weight, decompose(LAYERS[kind].weight))


@QUICK
@given(
    rows=st.integers(1, 60),
    columns=st.integers(1, 60),
    log_scale=st.floats(-18, 18),
    seed=st.integers(0, 2**16),
)
def test_any_shape_and_scale(rows: int, columns: int, log_scale: float, seed: int) -> None:
    weight = torch.randn(rows, columns, generator=torch.Generator().manual_seed(seed)) * 10**log_scale
    check(weight, decompose(weight))


def with_sigma(sigma: Tensor, rows: int, columns: int, seed: int = 0) -> Tensor:
    """A float64 matrix of exactly these singular values (to rounding)."""
    generator = torch.Generator().manual_seed(seed)

    def frame(size: int) -> Tensor:
        return torch.linalg.qr(torch.randn(size, len(sigma), generator=generator, dtype=torch.float64))[0]

    return frame(rows) * sigma @ frame(columns).T


@QUICK
@given(
    r=st.integers(2, 40),
    extra=st.integers(0, 30),
    tall=st.booleans(),
    decades=st.floats(0, 12),
    seed=st.integers(0, 2**16),
)
def test_any_condition(r: int, extra: int, tall: bool, decades: float, seed: int) -> None:
    sigma = torch.logspace(0, -decades, r, dtype=torch.float64)
    weight = with_sigma(sigma, *((r + extra, r) if tall else (r, r + extra)), seed=seed)
    check(weight, decompose(weight))


def test_tiny_directions_are_accurate_relative_to_themselves() -> None:
    sigma = torch.logspace(0, -8, 64, dtype=torch.float64)
    weight = with_sigma(sigma, 64, 200)
    torch.testing.assert_close(decompose(weight).sigma, sigma, rtol=1e-6, atol=0)
    naive = torch.linalg.eigvalsh(weight @ weight.T).flip(0).clamp_min(0).sqrt()
    assert float(((naive - sigma) / sigma).abs().max()) > 1e-3, "the Gram matrix alone would do: the test shows nothing"


def test_tiny_directions_keep_both_sides() -> None:
    sigma = torch.logspace(0, -10, 80, dtype=torch.float64)
    weight = with_sigma(sigma, 80, 80, seed=3)
    spectrum = decompose(weight)
    u, v = sides(spectrum, weight)
    seen = ((u.T @ weight) * v.T).sum(1)[spectrum.one_sided :]
    assert float((seen - spectrum.sigma[spectrum.one_sided :]).abs().max()) < 1e-7


@pytest.mark.parametrize("decades", [8, 12, 14])
def test_the_tail_is_orthogonal_to_the_head(decades: int) -> None:
    weight = with_sigma(torch.logspace(0, -decades, 200, dtype=torch.float64), 200, 300, seed=1)
    _, v = sides(decompose(weight), weight)
    assert float((v.T @ v - torch.eye(200)).abs().max()) < 2e-6


@QUICK
@given(
    r=st.integers(1, 30),
    long=st.integers(30, 50),
    rank=st.integers(0, 30),
    tall=st.booleans(),
    seed=st.integers(0, 999),
)
def test_rank_deficient(r: int, long: int, rank: int, tall: bool, seed: int) -> None:
    rank = min(rank, r)
    sigma = torch.cat([torch.linspace(2, 1, rank), torch.zeros(r - rank)]).double()
    weight = with_sigma(sigma, *((long, r) if tall else (r, long)), seed=seed)
    spectrum = decompose(weight)
    check(weight, spectrum)
    assert spectrum.tail.shape[0] == r - rank
    assert bool((spectrum.sigma[rank:] < 1e-13).all())


@pytest.mark.parametrize("shape", [(6, 6), (4, 9), (9, 4), (5, 2, 3, 3)])
def test_zero(shape: tuple[int, ...]) -> None:
    weight = torch.zeros(shape)
    spectrum = decompose(weight)
    check(weight, spectrum)
    assert spectrum.one_sided == 0
    assert not spectrum.sigma.any()


@pytest.mark.parametrize("shape", [(0, 4), (4, 0), (0, 0), (0, 3, 3, 3)])
def test_empty(shape: tuple[int, ...]) -> None:
    spectrum = decompose(torch.zeros(shape))
    assert spectrum.rank == 0
    assert spectrum.floats == 0


@pytest.mark.parametrize("sigma", [[1.0] * 12, [3.0] * 4 + [1.0] * 4 + [0.01] * 4, [1.0] * 6 + [TAIL_THRESHOLD] * 6])
def test_repeated_singular_values(sigma: list[float]) -> None:
    weight = with_sigma(torch.tensor(sigma, dtype=torch.float64), 12, 20)
    spectrum = decompose(weight)
    torch.testing.assert_close(spectrum.sigma, torch.tensor(sigma, dtype=torch.float64), rtol=1e-12, atol=0)
    check(weight, spectrum)


def test_identity_and_equal_entries() -> None:
    for weight in (torch.eye(8), torch.ones(5, 9), torch.tensor([[1.0, 1.0], [1.0, -1.0]])):
        check(weight, decompose(weight))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_is_taken_at_its_word(dtype: torch.dtype) -> None:
    weight = torch.randn(24, 40, generator=torch.Generator().manual_seed(1)).to(dtype)
    spectrum = decompose(weight)
    check(weight, spectrum)
    exact = decompose(weight.double())
    assert torch.equal(spectrum.sigma, exact.sigma)
    assert torch.equal(spectrum.basis, exact.basis)


@pytest.mark.parametrize("exponent", [-1060, -700, -400, 400, 700, 1000])
def test_float64_at_the_ends_of_its_range(exponent: int) -> None:
    weight = torch.randn(10, 16, generator=torch.Generator().manual_seed(2), dtype=torch.float64)
    scaled = torch.ldexp(weight, torch.tensor(exponent))
    expected = torch.ldexp(torch.linalg.svdvals(torch.ldexp(scaled, torch.tensor(-exponent))), torch.tensor(exponent))
    torch.testing.assert_close(decompose(scaled).sigma, expected, rtol=1e-12, atol=0)


def test_smallest_and_largest_float32() -> None:
    for scale in (1e-45, 1e-38, 3e38):
        weight = (torch.rand(6, 8, generator=torch.Generator().manual_seed(3), dtype=torch.float64) * scale).float()
        check(weight, decompose(weight))


@pytest.mark.parametrize("layout", ["transposed", "strided", "channels_last", "expanded"])
def test_memory_layout_does_not_matter(layout: str) -> None:
    generator = torch.Generator().manual_seed(4)
    weight = {
        "transposed": lambda: torch.randn(20, 12, generator=generator).T,
        "strided": lambda: torch.randn(24, 30, generator=generator)[::2, ::3],
        "channels_last": lambda: torch.randn(6, 8, 3, 3, generator=generator).to(memory_format=torch.channels_last),
        "expanded": lambda: torch.randn(1, 9, generator=generator).expand(4, 9),
    }[layout]()
    spectrum, plain = decompose(weight), decompose(weight.contiguous())
    check(weight, spectrum)
    assert torch.equal(spectrum.sigma, plain.sigma)
    assert torch.equal(spectrum.basis, plain.basis)


def test_trainable_weight_is_left_alone() -> None:
    weight = nn.Parameter(torch.randn(6, 9, generator=torch.Generator().manual_seed(5)))
    before = weight.detach().clone()
    spectrum = decompose(weight)
    assert not any(t.requires_grad for t in (spectrum.basis, spectrum.sigma, spectrum.tail))
    assert torch.equal(weight.detach(), before)
    assert weight.grad is None


@QUICK
@given(rows=st.integers(1, 40), columns=st.integers(1, 40), seed=st.integers(0, 99))
def test_deterministic(rows: int, columns: int, seed: int) -> None:
    weight = torch.randn(rows, columns, generator=torch.Generator().manual_seed(seed))
    one, two = decompose(weight), decompose(weight.clone())
    for name in ("basis", "sigma", "tail"):
        assert torch.equal(getattr(one, name), getattr(two, name))


def test_blocks_of_the_gram_matrix() -> None:
    weight = torch.randn(700, 900, generator=torch.Generator().manual_seed(6))
    check(weight, decompose(weight))


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_non_finite_weight_is_refused(value: float) -> None:
    weight = torch.ones(3, 4)
    weight[1, 2] = value
    with pytest.raises(WeightError, match=r"unet\.conv_in: 1 of 12 values are not finite"):
        decompose(weight, name="unet.conv_in")


def test_what_has_no_spectrum_is_refused() -> None:
    with pytest.raises(WeightError, match="two or more dimensions"):
        decompose(torch.ones(5))
    with pytest.raises(WeightError, match="floating-point"):
        decompose(torch.ones(5, 5, dtype=torch.int8))
    with pytest.raises(WeightError, match="floating-point"):
        decompose(torch.ones(5, 5, dtype=torch.complex64))
    with pytest.raises(WeightError, match="16 bits or more, got torch.float8_e4m3fn; load the base unquantised"):
        decompose(torch.ones(5, 5).to(torch.float8_e4m3fn))
    with pytest.raises(WeightError, match="meta device"):
        decompose(torch.ones(5, 5, device="meta"))


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_on_cuda_it_stays_there_and_agrees() -> None:
    weight = torch.randn(64, 96, generator=torch.Generator().manual_seed(7))
    spectrum = decompose(weight.cuda())
    assert {t.device.type for t in (spectrum.basis, spectrum.sigma, spectrum.tail)} == {"cuda"}
    check(weight, spectrum.to("cpu"))


@pytest.mark.parametrize("shape", [(5, 9), (9, 5), (6, 6), (4, 3, 2, 2)])
@pytest.mark.parametrize("lost", [0, 2])
def test_the_other_side_completes_the_weight(shape: tuple[int, ...], lost: int) -> None:
    torch.manual_seed(1)
    w = torch.randn(shape, dtype=torch.float64)
    u, s, vt = torch.linalg.svd(matrix(w), full_matrices=False)
    s[len(s) - lost :] = 0
    weight = (u * s @ vt).reshape(shape).float()
    spectrum = decompose(weight)
    other = other_side(weight, spectrum)
    torch.testing.assert_close(other @ other.T, torch.eye(len(s), dtype=torch.float64), atol=1e-5, rtol=0)
    product = spectrum.basis.double() * spectrum.sigma @ other
    made = product if spectrum.side == "left" else product.T
    torch.testing.assert_close(made, matrix(weight).double(), atol=1e-6, rtol=0)
