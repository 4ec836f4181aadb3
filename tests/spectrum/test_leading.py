"""Leading directions, held against float64 and against the full decomposition."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import Tensor

from spectra.errors import InputError, WeightError
from spectra.spectrum import leading
from spectra.spectrum.decomposition import decompose
from spectra.spectrum.lanczos import leading_left_vectors
from spectra.spectrum.leading import TOLERANCE, cut, decompose_leading
from spectra.spectrum.partial import PartialSpectrum
from spectra.spectrum.spectrum import matrix

FLOAT32 = 6e-8


def trained(rows: int, columns: int, *, seed: int = 0, decay: float = 0.3) -> Tensor:
    """A weight whose singular values fall like a trained one's: a power of their number, then to nothing."""
    rank = min(rows, columns)
    at = (torch.arange(rank, dtype=torch.float64) + 1) / rank
    return with_sigma(at**-decay * (1.02 - at), rows, columns, seed=seed).float()


def with_sigma(sigma: Tensor, rows: int, columns: int, *, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)

    def frame(size: int) -> Tensor:
        return torch.linalg.qr(torch.randn(size, len(sigma), generator=generator, dtype=torch.float64))[0]

    return frame(rows) * sigma @ frame(columns).T


def residuals(weight: Tensor, found: PartialSpectrum) -> Tensor:
    """Of each direction the larger of its two residuals, over the largest sigma, in float64; the weight not scaled."""
    w, u, v = matrix(weight).double(), found.left.double(), found.right.double()
    both = torch.stack([(w @ v - u * found.sigma).norm(dim=0), (w.T @ u - v * found.sigma).norm(dim=0)])
    return both.amax(0) / found.sigma[0]


def check(weight: Tensor, found: PartialSpectrum, directions: int, *, tolerance: float = 1.5e-6) -> None:
    """Everything that must hold of any leading directions."""
    w = matrix(weight.detach()).double()
    k = min(directions, *w.shape)
    assert (found.directions, found.rank, found.shape) == (k, min(w.shape), tuple(weight.shape))
    assert (found.left.shape, found.right.shape) == ((w.shape[0], k), (w.shape[1], k))
    assert (found.left.dtype, found.sigma.dtype, found.right.dtype) == (torch.float32, torch.float64, torch.float32)
    exact = torch.linalg.svdvals(w)[:k]
    torch.testing.assert_close(found.sigma, exact, rtol=0, atol=1e-7 * float(exact[0]))
    assert bool((found.sigma.diff() <= 0).all())
    unit = torch.eye(k, dtype=torch.float64)
    for side in (found.left.double(), found.right.double()):
        assert float((side.T @ side - unit).abs().max()) <= max(2 * FLOAT32, 1.01 * found.orthogonality)
    assert found.orthogonality <= 1e-6
    each = residuals(weight, found)
    assert float(each.max()) <= tolerance
    assert float(each.max()) <= 1.01 * found.residual <= TOLERANCE
    small = found.left if w.shape[0] <= w.shape[1] else found.right
    peaks = small.gather(0, small.abs().argmax(0, keepdim=True))
    assert bool((peaks > 0).all())


@pytest.mark.parametrize("shape", [(160, 160), (320, 160), (160, 700), (200, 24, 3, 3), (900, 130)], ids=str)
def test_found_without_the_full_decomposition(shape: tuple[int, ...], monkeypatch: Any) -> None:
    as_in_full(trained(shape[0], math.prod(shape[1:])).reshape(shape), 8, monkeypatch)


@pytest.mark.parametrize("shape", [(480, 480), (600, 500), (480, 60, 3, 3)], ids=str)
def test_found_in_noise(shape: tuple[int, ...], monkeypatch: Any) -> None:
    """Independent Gaussian entries: the least decay that a weight of full rank can have."""
    as_in_full(torch.randn(shape, generator=torch.Generator().manual_seed(3)), 8, monkeypatch)


def as_in_full(weight: Tensor, directions: int, monkeypatch: Any) -> None:
    """The leading directions are found without the full decomposition, and agree with it as far as gaps allow."""
    full = decompose(weight)

    def forbidden(*arguments: Any, **more: Any) -> None:
        raise AssertionError("decomposed in full")

    monkeypatch.setattr(leading, "decompose", forbidden)
    found = decompose_leading(weight, directions)
    check(weight, found, directions)
    assert not found.from_full
    expected = cut(full, weight, directions)
    # A vector is known as far as its residual is small beside the gap to its neighbours.
    sigma = full.sigma[: directions + 1]
    gap = torch.minimum((sigma[:-1] - sigma[1:]), torch.cat([sigma.new_tensor([torch.inf]), sigma[:-2] - sigma[1:-1]]))
    allowed = (4 * residuals(weight, found) * sigma[0] / gap).clamp_min(1e-6)
    for side in ("left", "right"):
        difference = (getattr(found, side).double() - getattr(expected, side).double()).norm(dim=0)
        assert bool((difference <= allowed).all()), (side, difference, allowed)


@pytest.mark.parametrize("shape", [(12, 20), (20, 12), (6, 3, 3, 3), (1, 9), (9, 1), (40, 40)], ids=str)
@pytest.mark.parametrize("directions", [1, 4, 1000])
def test_small_weights_are_cut_from_the_full_decomposition(shape: tuple[int, ...], directions: int) -> None:
    weight = torch.randn(shape, generator=torch.Generator().manual_seed(4))
    found = decompose_leading(weight, directions)
    check(weight, found, directions, tolerance=2e-7)
    full = decompose(weight)
    small = found.left if full.side == "left" else found.right
    assert torch.equal(small, full.basis[:, : found.directions])
    assert torch.equal(found.sigma, full.sigma[: found.directions])


def test_more_directions_grow_from_fewer(monkeypatch: Any) -> None:
    weight = trained(260, 300)
    seen: list[int] = []

    def recorded(a: Tensor, wanted: int, tolerance: float, known: Tensor | None = None) -> Tensor | None:
        seen.append(0 if known is None else known.shape[0])
        return leading_left_vectors(a, wanted, tolerance, known)

    monkeypatch.setattr(leading, "leading_left_vectors", recorded)
    few = decompose_leading(weight, 8)
    grown = decompose_leading(weight, 24, start=few)
    fresh = decompose_leading(weight, 24)
    assert seen == [0, 8, 0]
    assert not grown.from_full
    check(weight, grown, 24)
    torch.testing.assert_close(grown.sigma, fresh.sigma, rtol=1e-6, atol=0)
    for side in ("left", "right"):
        agree = (getattr(grown, side) * getattr(fresh, side)).sum(0)
        assert float(agree.min()) > 1 - 1e-6


@pytest.mark.parametrize("exponent", [-1000, -400, -140, -40, 40, 120, 500, 1000])
def test_huge_and_tiny_weights(exponent: int) -> None:
    plain = trained(128, 144).double()
    weight = torch.ldexp(plain, torch.tensor(exponent))
    if abs(exponent) < 130:
        weight = weight.float()
    found, expected = decompose_leading(weight, 6), decompose_leading(plain, 6)
    assert not found.from_full
    torch.testing.assert_close(torch.ldexp(found.sigma, torch.tensor(-exponent)), expected.sigma, rtol=1e-7, atol=0)
    torch.testing.assert_close(found.left, expected.left, rtol=0, atol=1e-5)
    assert found.residual <= TOLERANCE


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
def test_dtypes_are_taken_at_their_word(dtype: torch.dtype) -> None:
    weight = trained(240, 300).to(dtype)
    found = decompose_leading(weight, 10)
    check(weight, found, 10)
    assert not found.from_full


@pytest.mark.parametrize("rank", [0, 1, 3, 10])
def test_fewer_directions_than_asked_for(rank: int) -> None:
    sigma = torch.cat([torch.linspace(2, 1, rank), torch.zeros(160 - rank)]).double()
    weight = with_sigma(sigma, 160, 200)
    found = decompose_leading(weight, 12)
    assert found.from_full
    torch.testing.assert_close(found.sigma, sigma[:12], rtol=1e-12, atol=1e-13)
    unit = torch.eye(12)
    torch.testing.assert_close(found.left.T @ found.left, unit, atol=1e-6, rtol=0)
    torch.testing.assert_close(found.right.T @ found.right, unit, atol=1e-6, rtol=0)
    assert found.residual <= 1e-6


@pytest.mark.parametrize("decades", [3, 8, 14])
def test_ill_conditioned_weights(decades: int) -> None:
    weight = with_sigma(torch.logspace(0, -decades, 200, dtype=torch.float64), 200, 220)
    check(weight, decompose_leading(weight, 16), 16)


@pytest.mark.parametrize("top", [[1.0] * 30, [2.0, 1.5] + [1.0] * 30, [5.0, 5.0, 5.0, 1.0, 1.0, 1.0]])
def test_equal_singular_values(top: list[float]) -> None:
    sigma = torch.cat([torch.tensor(top), torch.linspace(0.9, 0.1, 200 - len(top))]).double()
    weight = with_sigma(sigma, 200, 260)
    check(weight, decompose_leading(weight, 20), 20)
    check(weight, decompose_leading(weight, 20, start=decompose_leading(weight, 8)), 20)


def test_a_value_that_more_directions_share_than_are_sought_at_once() -> None:
    """Of 40 equal values Lanczos finds 12 with small residuals, and then takes smaller ones for the next."""
    sigma = torch.cat([torch.ones(40), torch.linspace(0.9, 0.05, 560)]).double()
    weight = with_sigma(sigma, 600, 650)
    check(weight, decompose_leading(weight, 25), 25)


def test_the_identity() -> None:
    found = decompose_leading(torch.eye(200), 10)
    check(torch.eye(200), found, 10)


def test_none_and_nothing() -> None:
    for found in (decompose_leading(torch.ones(5, 7), 0), decompose_leading(torch.zeros(0, 7), 3)):
        assert (found.directions, found.residual, found.floats) == (0, 0.0, 0)
    assert decompose_leading(torch.ones(5, 7), 0).left.shape == (5, 0)


def test_the_same_again() -> None:
    weight = trained(150, 180)
    one, two = decompose_leading(weight, 12), decompose_leading(weight.clone(), 12)
    torch.manual_seed(7)
    three = decompose_leading(weight.T.contiguous().T, 12)
    for name in ("left", "sigma", "right"):
        assert torch.equal(getattr(one, name), getattr(two, name))
        torch.testing.assert_close(getattr(one, name), getattr(three, name), rtol=0, atol=1e-5)


def test_a_stated_residual_that_is_too_large_is_not_believed(monkeypatch: Any) -> None:
    """Vectors that are wrong are seen in float64, and the full decomposition takes their place."""
    weight = trained(160, 200)

    def wrong(a: Tensor, wanted: int, tolerance: float, known: Tensor | None = None) -> Tensor:
        return torch.linalg.qr(torch.randn(160, wanted, generator=torch.Generator().manual_seed(0)))[0].T

    monkeypatch.setattr(leading, "leading_left_vectors", wrong)
    found = decompose_leading(weight, 8)
    assert found.from_full
    check(weight, found, 8)


def test_first_ones_are_views() -> None:
    found = decompose_leading(trained(160, 200), 12)
    few = found.first(5)
    assert (few.directions, few.left.shape, few.right.shape) == (5, (160, 5), (200, 5))
    assert few.left.data_ptr() == found.left.data_ptr()
    assert found.first(99) is found
    assert found.floats == 12 * (160 + 200 + 1)
    assert found.bytes == 12 * (4 * 160 + 4 * 200 + 8)


def test_what_cannot_be_is_refused() -> None:
    with pytest.raises(WeightError, match=r"conv: 1 of 40000 values are not finite"):
        decompose_leading(
            torch.ones(200, 200).index_put((torch.tensor(3), torch.tensor(4)), torch.tensor(math.nan)), 4, name="conv"
        )
    with pytest.raises(WeightError, match="two or more dimensions"):
        decompose_leading(torch.ones(5), 2)
    with pytest.raises(WeightError, match="meta device"):
        decompose_leading(torch.ones(5, 5, device="meta"), 2)
    with pytest.raises(InputError, match="q: expected 0 or more directions, got -2"):
        decompose_leading(torch.ones(5, 5), -2, name="q")
    start = decompose_leading(torch.ones(5, 5), 1)
    with pytest.raises(InputError, match=r"expected a start of shape \(5, 6\), got \(5, 5\)"):
        decompose_leading(torch.ones(5, 6), 2, start=start)
