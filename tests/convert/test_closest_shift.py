"""The closest shift to a change: against both bases of the whole matrix in float64, and no other shift is closer."""

from __future__ import annotations

from unittest import mock

import hypothesis.strategies as st
import pytest
import torch
from hypothesis import given, settings
from torch import Tensor

from spectra.convert import closest_shift
from spectra.convert.closest_shift import Factors, approximate_rest, find_closest, project, summed
from spectra.errors import WeightError
from spectra.spectrum.cache.spectrum_cache import SpectrumCache
from spectra.spectrum.decomposition import decompose
from spectra.spectrum.shifted_weight import singular_value_change as applied
from spectra.spectrum.spectrum import Spectrum, matrix, other_side

SHAPES = st.sampled_from([(1, 1), (1, 7), (9, 1), (5, 5), (6, 13), (17, 4), (4, 3, 3, 3), (24, 2, 1, 1), (8, 8)])
DTYPES = st.sampled_from([torch.float32, torch.float16, torch.bfloat16, torch.float64])


def weight_of(shape: tuple[int, ...], dtype: torch.dtype, seed: int, rank: int) -> Tensor:
    """Random, of at most the given rank."""
    torch.manual_seed(seed)
    rows, columns = shape[0], int(torch.tensor(shape[1:]).prod())
    return (torch.randn(rows, rank) @ torch.randn(rank, columns)).reshape(shape).to(dtype)


def both_sides(weight: Tensor, spectrum: Spectrum) -> tuple[Tensor, Tensor]:
    """`U [rows, r]` and `V [columns, r]`, float64."""
    near, far = spectrum.basis.double(), other_side(weight, spectrum).T
    return (near, far) if spectrum.side == "left" else (far, near)


@settings(max_examples=30)
@given(SHAPES, DTYPES, st.integers(0, 99), st.integers(1, 9), st.floats(1e-3, 10))
def test_it_is_what_both_bases_say_and_the_rest_is_counted(
    shape: tuple[int, ...], dtype: torch.dtype, seed: int, rank: int, size: float
) -> None:
    weight = weight_of(shape, dtype, seed, rank)
    change = size * torch.randn(shape, dtype=torch.float64)
    with mock.patch.object(closest_shift, "_PANEL", 3):
        found = find_closest({"w": weight}, {"w": lambda w: change}, cache=SpectrumCache())["w"]
    spectrum = decompose(weight)
    u, v = both_sides(weight, spectrum)
    c = ((matrix(change).T @ u) * v).sum(0)
    norm = float(change.norm())
    assert torch.allclose(project(change, weight, spectrum), c, atol=1e-6 * norm)
    assert torch.allclose(found.delta.double(), c.maximum(-spectrum.sigma), atol=2e-6 * norm)
    rest = matrix(change) - (u * applied(spectrum.sigma, found.delta.double())) @ v.T
    assert found.captured.change == pytest.approx(norm**2)
    assert found.captured.rest == pytest.approx(float(rest.square().sum()), abs=1e-5 * norm**2)
    assert found.captured.clipped == int((c < -spectrum.sigma).sum())
    nudged = rest - (u * (1e-2 * norm * torch.randn(spectrum.rank))) @ v.T
    if not found.captured.clipped:
        assert nudged.norm() > rest.norm() * (1 - 1e-9)


@settings(max_examples=15)
@given(SHAPES, st.integers(0, 99), st.integers(1, 4))
def test_the_rest_in_low_rank_is_the_best_there_is(shape: tuple[int, ...], seed: int, rank: int) -> None:
    weight = weight_of(shape, torch.float32, seed, 9)
    change = torch.randn(shape, dtype=torch.float64)
    spectrum = decompose(weight)
    delta = project(change, weight, spectrum).maximum(-spectrum.sigma)
    with mock.patch.object(closest_shift, "_PANEL", 3):
        factors = approximate_rest(change, weight, spectrum, delta, rank)
    u, v = both_sides(weight, spectrum)
    rest = matrix(change) - (u * delta) @ v.T
    kept = min(rank, spectrum.rank)
    assert factors.up.shape == (rest.shape[0], kept)
    assert factors.down.shape == (kept, rest.shape[1])
    error = float((rest - factors.up.double() @ factors.down.double()).norm())
    best = float(torch.linalg.svdvals(rest)[rank:].norm())
    assert error <= best + 1e-5 * float(change.norm())


def test_one_dimension_takes_any_change() -> None:
    weight, change = torch.ones(5), torch.linspace(-3, 3, 5)
    found = find_closest({"n": weight}, {"n": lambda w: change}, cache=SpectrumCache())["n"]
    assert torch.equal(found.delta, change)
    assert (found.captured.energy, found.ndim) == (1.0, 1)


def test_what_is_clipped_and_summed_up() -> None:
    weight = torch.diag(torch.tensor([3.0, 2.0]))
    changes = {"a": torch.diag(torch.tensor([-5.0, 1.0])), "b": torch.tensor([[0.0, 1.0], [0.0, 0.0]])}
    found = find_closest(
        {"a": weight, "b": weight}, {k: lambda w, k=k: changes[k] for k in changes}, rank=1, cache=SpectrumCache()
    )
    assert found["a"].delta.tolist() == [-3.0, 1.0]
    assert (found["a"].captured.clipped, found["a"].captured.clipped_rest) == (1, pytest.approx(4))
    assert found["a"].captured.energy == pytest.approx(1 - 4 / 26)
    assert found["b"].captured.energy == pytest.approx(0)
    assert isinstance(found["b"].rest, Factors)
    assert torch.allclose(found["b"].rest.up @ found["b"].rest.down, changes["b"])
    assert summed("both", (each.captured for each in found.values())).energy == pytest.approx(1 - 5 / 27)


def test_a_change_that_is_not_finite_is_refused() -> None:
    with pytest.raises(WeightError, match="w: .*not finite"):
        find_closest({"w": torch.ones(2, 2)}, {"w": lambda w: w * torch.nan}, cache=SpectrumCache())
