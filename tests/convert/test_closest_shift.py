"""The closest shift to a change: against both bases of the whole matrix in float64, and no other shift is closer."""

from __future__ import annotations

import math
from pathlib import Path
from unittest import mock

import hypothesis.strategies as st
import pytest
import torch
from hypothesis import given, settings
from torch import Tensor

from spectra.convert import projection
from spectra.convert.closest_shift import (
    ClosestPart,
    Factors,
    ShiftForm,
    find_closest,
    shift_of_parts,
    summed,
    take_pairs,
)
from spectra.convert.projection import project
from spectra.errors import InputError, WeightError
from spectra.shift.outer_terms import OuterTerms
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
    with mock.patch.object(projection, "_PANEL", 3):
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
    with mock.patch.object(projection, "_PANEL", 3):
        factors = find_closest({"w": weight}, {"w": lambda w: change}, rank=rank, cache=SpectrumCache())["w"].rest
    u, v = both_sides(weight, spectrum)
    rest = matrix(change) - (u * delta) @ v.T
    kept = min(rank, spectrum.rank)
    if factors is None:
        assert float(rest.norm()) < 1e-6 * float(change.norm())
        return
    assert factors.up.shape == (rest.shape[0], kept)
    assert factors.down.shape == (kept, rest.shape[1])
    error = float((rest - factors.up.double() @ factors.down.double()).norm())
    best = float(torch.linalg.svdvals(rest)[rank:].norm())
    assert error <= best + 1e-5 * float(change.norm())


def test_one_dimension_takes_any_change() -> None:
    weight, change = torch.ones(5), torch.linspace(-3, 3, 5)
    found = find_closest({"n": weight}, {"n": lambda w: change}, cache=SpectrumCache())["n"]
    assert torch.equal(found.delta, change)
    assert (found.captured.error, found.ndim) == (0.0, 1)


def test_what_is_clipped_and_summed_up() -> None:
    weight = torch.diag(torch.tensor([3.0, 2.0]))
    changes = {"a": torch.diag(torch.tensor([-5.0, 1.0])), "b": torch.tensor([[0.0, 1.0], [0.0, 0.0]])}
    found = find_closest(
        {"a": weight, "b": weight}, {k: lambda w, k=k: changes[k] for k in changes}, rank=1, cache=SpectrumCache()
    )
    assert found["a"].delta.tolist() == [-3.0, 1.0]
    assert (found["a"].captured.clipped, found["a"].captured.clipped_rest) == (1, pytest.approx(4))
    assert found["a"].captured.error == pytest.approx(math.sqrt(4 / 26))
    assert found["b"].captured.error == pytest.approx(1)
    assert isinstance(found["b"].rest, Factors)
    assert torch.allclose(found["b"].rest.up @ found["b"].rest.down, changes["b"])
    assert summed("both", (each.captured for each in found.values())).error == pytest.approx(math.sqrt(5 / 27))


def test_a_change_that_is_not_finite_is_refused() -> None:
    with pytest.raises(WeightError, match="w: .*not finite"):
        find_closest({"w": torch.ones(2, 2)}, {"w": lambda w: w * torch.nan}, cache=SpectrumCache())


def left_over(change: Tensor, weight: Tensor, found: ClosestPart) -> tuple[Tensor, Tensor, Tensor]:
    """`D - U diag(d) V^T`, the terms' part of it, and the directions' `u_i v_i^T`, all in float64 from numpy's SVD."""
    u, sigma, vt = torch.linalg.svd(matrix(weight).double(), full_matrices=False)
    d = applied(sigma, found.delta.double())
    terms = torch.zeros_like(matrix(change)) if found.outer is None else torch.from_numpy(found.outer.change())
    return matrix(change) - (u * d) @ vt, terms, torch.einsum("ri,ic->irc", u, vt)


@settings(max_examples=25)
@given(
    shape=st.sampled_from([(1, 7), (9, 2), (7, 7), (6, 13), (17, 5), (6, 3, 3, 3), (40, 2, 3, 3)]),
    directions=st.sampled_from([0, 2, 4, None]),
    outer=st.integers(1, 3),
    seed=st.integers(0, 99),
    size=st.sampled_from([1e-3, 0.3, 10.0]),
    aligned=st.booleans(),
)
def test_diagonal_and_terms_are_each_best_for_the_other(
    shape: tuple[int, ...], directions: int | None, outer: int, seed: int, size: float, aligned: bool, tmp_path: Path
) -> None:
    torch.manual_seed(seed)
    weight = torch.randn(shape)
    change = size * torch.randn(shape, dtype=torch.float64)
    if aligned:  # more along the directions than a shift may hold: some are clipped
        change -= 0.7 * weight
    with mock.patch.object(projection, "_PANEL", 3):
        found = find_closest(
            {"w": weight}, {"w": lambda w: change}, ShiftForm(directions, outer), cache=SpectrumCache(tmp_path)
        )["w"]
    rest, terms, along = left_over(change, weight, found)
    known = len(along) if directions is None else min(directions, len(along))
    norm = float(change.norm())
    assert not found.delta[known:].any()
    error = float((rest - terms).square().sum())
    assert found.captured.rest == pytest.approx(error, abs=1e-5 * norm**2)
    # Of all terms, those of the leading singular pairs are best; of all diagonals, the projection of what terms leave.
    best = float(torch.linalg.svdvals(rest)[outer:].square().sum())
    assert error == pytest.approx(best, abs=1e-5 * norm**2)
    sigma = torch.linalg.svdvals(matrix(weight).double())
    wanted = (along * (matrix(change) - terms)).sum((1, 2)).maximum(-sigma)[:known]
    assert torch.allclose(found.delta[:known].double(), wanted, atol=1e-3 * norm)
    # Both together hold more than the diagonal and then what is best for its rest.
    apart = find_closest({"w": weight}, {"w": lambda w: change}, ShiftForm(0, outer), cache=SpectrumCache(tmp_path))[
        "w"
    ]
    assert found.captured.rest <= apart.captured.rest + 1e-6 * norm**2


def test_what_consists_of_directions_and_terms_is_found_whole(tmp_path: Path) -> None:
    torch.manual_seed(2)
    weight = torch.randn(30, 40)
    u, _, vt = torch.linalg.svd(weight.double(), full_matrices=False)
    a, b = torch.randn(2, 30, dtype=torch.float64), torch.randn(2, 40, dtype=torch.float64)
    change = (u[:, :5] * torch.tensor([0.5, -0.3, 0.2, 0.4, -0.6])) @ vt[:5] + a.T @ b
    form = ShiftForm(5, 2)
    found = find_closest({"w": weight}, {"w": lambda w: change}, form, cache=SpectrumCache(tmp_path))["w"]
    rest, terms, _ = left_over(change, weight, found)
    assert float((rest - terms).norm()) < 1e-3 * float(change.norm())
    assert found.captured.error < 1e-5
    alone = find_closest({"w": weight}, {"w": lambda w: change}, ShiftForm(5), cache=SpectrumCache(tmp_path))["w"]
    assert alone.captured.error > 0.8


@pytest.mark.parametrize("shape", [(6, 5, 3, 3), (40, 2, 3, 3)])
@pytest.mark.parametrize("directions", [0, 3])
def test_separable_terms_of_a_convolution(shape: tuple[int, ...], directions: int, tmp_path: Path) -> None:
    torch.manual_seed(4)
    weight, k, taps = torch.randn(shape), 2, 9
    a, b, kernel = (torch.randn(k, n, dtype=torch.float64) for n in (shape[0], shape[1], taps))
    exact = torch.einsum("kn,km,kt->nmt", a, b, kernel).reshape(shape)
    noise = 0.05 * float(exact.norm()) * torch.nn.functional.normalize(torch.randn(shape).flatten().double(), dim=0)
    for change, floor in ((exact, 0.0), (exact + noise.reshape(shape), 0.05**2)):
        form = ShiftForm(directions, k, separable=True)
        found = find_closest({"w": weight}, {"w": lambda w, c=change: c}, form, cache=SpectrumCache(tmp_path))["w"]
        assert found.outer is not None
        assert found.outer.kernel is not None
        assert found.outer.kernel.shape == (k, taps)
        rest, terms, _ = left_over(change, weight, found)
        missed = float((rest - terms).square().sum()) / float(change.square().sum())
        assert found.captured.rest / found.captured.change == pytest.approx(missed, abs=1e-6)
        assert missed <= floor + 1e-5
    matrices = ShiftForm(directions, 1, separable=True)
    plain = find_closest({"w": weight.flatten(1)}, {"w": lambda w: exact.flatten(1)}, matrices, cache=SpectrumCache())
    assert plain["w"].outer is not None
    assert plain["w"].outer.kernel is None


def test_terms_that_hold_nothing_are_left_out(tmp_path: Path) -> None:
    weight = torch.randn(8, 9)
    one = torch.outer(torch.randn(8), torch.randn(9))
    for change, rank in ((one, 1), (0 * one, 0)):
        found = find_closest(
            {"w": weight}, {"w": lambda w, c=change: c}, ShiftForm(0, 3), cache=SpectrumCache(tmp_path)
        )["w"]
        assert (found.outer.rank if found.outer else 0) == rank


def test_what_directions_and_terms_leave_in_low_rank(tmp_path: Path) -> None:
    torch.manual_seed(5)
    weight, change = torch.randn(20, 30), torch.randn(20, 30, dtype=torch.float64)
    found = find_closest(
        {"w": weight}, {"w": lambda w: change}, ShiftForm(4, 2), rank=3, cache=SpectrumCache(tmp_path)
    )["w"]
    rest, terms, _ = left_over(change, weight, found)
    assert found.rest is not None
    rest = rest - terms
    error = float((rest - found.rest.up.double() @ found.rest.down.double()).norm())
    assert error == pytest.approx(float(torch.linalg.svdvals(rest)[3:].norm()), rel=1e-5)


def test_pairs_are_taken_as_they_are(tmp_path: Path) -> None:
    weights = {"unet.a": torch.randn(6, 4, 3, 3), "unet.b": torch.randn(5, 7), "unet.c": torch.randn(4, 4)}
    up, down = torch.randn(6, 2).double(), torch.randn(2, 36).double()
    split = torch.einsum("kn,kt->knt", torch.randn(2, 4).double(), torch.randn(2, 9).double()).flatten(1)
    found = take_pairs(weights, {"unet.a": lambda w: (up, down), "unet.b": lambda w: (up[:5] * 0.3, down[:, :7])})
    shift = shift_of_parts(found, base="test")
    assert not any(delta.any() for delta in shift.values())
    for name, left, right in (("unet.a", up, down), ("unet.b", up[:5] * 0.3, down[:, :7])):
        exact = left @ right
        assert float((torch.from_numpy(shift.outer[name].change()) - exact).norm()) < 1e-7 * float(exact.norm())
        assert shift.outer[name].kernel is None
        assert found[name].captured.change == pytest.approx(float(exact.square().sum()))
        assert found[name].captured.error == 0
    [alike] = take_pairs({"unet.a": weights["unet.a"]}, {"unet.a": lambda w: (up, split)}).values()
    assert alike.outer is not None
    assert alike.outer.kernel is not None
    assert float((torch.from_numpy(alike.outer.change()) - up @ split).norm()) < 1e-6 * float((up @ split).norm())
    [half] = take_pairs(
        {"c": weights["unet.c"]}, {"c": lambda w: (up[:4] * torch.tensor([1, 0]), down[:, :4])}
    ).values()
    assert isinstance(half.outer, OuterTerms)
    assert half.outer.rank == 1


@pytest.mark.parametrize("form", [{"directions": -1}, {"outer": -1}, {"directions": 0}, {"separable": True}])
def test_forms_that_are_none_are_refused(form: dict[str, int]) -> None:
    with pytest.raises(InputError, match="outer terms"):
        ShiftForm(**form)  # type: ignore[arg-type]
