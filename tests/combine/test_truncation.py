"""Fewer outer terms: the best of their number against the singular values of dense matrices, and their exact error."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from spectra.combine import truncation
from spectra.combine.truncation import truncated
from spectra.shift.outer_terms import OuterTerms


def drawn(rank: int, n0: int, n1: int, taps: int = 0, seed: int = 0) -> OuterTerms:
    rng = np.random.default_rng(seed)
    sides = [rng.standard_normal((rank, n)).astype(np.float32) for n in (n0, n1, *([taps] if taps else []))]
    return OuterTerms(*sides)


def lost(terms: OuterTerms, left: OuterTerms | None) -> float:
    """The relative error by dense matrices in float64."""
    change = terms.change()
    rest = change if left is None else change - left.change()
    return float(np.linalg.norm(rest) / np.linalg.norm(change))


@given(st.integers(1, 12), st.integers(1, 9), st.integers(2, 9), st.integers(1, 8), st.integers(0, 99))
@settings(max_examples=60, deadline=None)
def test_without_kernels_it_is_the_best_approximation(rank: int, n0: int, n1: int, keep: int, seed: int) -> None:
    terms = drawn(rank, n0, n1, seed=seed)
    found = truncated(terms, keep)
    sigma = np.linalg.svd(terms.change(), compute_uv=False)
    assert found.terms is not None
    assert found.terms.rank <= keep or found.terms.rank == rank <= keep
    assert np.sqrt(found.lost / found.energy) == pytest.approx(lost(terms, found.terms), abs=2e-7)
    best = 0.0 if rank <= keep else np.linalg.norm(sigma[keep:]) / np.linalg.norm(sigma)
    assert lost(terms, found.terms) == pytest.approx(best, abs=2e-7)
    assert found.energy == pytest.approx(np.sum(np.square(sigma)))


def test_no_more_terms_than_asked_stay_as_they_are() -> None:
    terms = drawn(3, 5, 6, 9)
    found = truncated(terms, 3)
    assert found.terms is terms
    assert found.lost == 0.0


@pytest.mark.parametrize("taps", [0, 9])
def test_what_fewer_terms_hold_is_not_lost(taps: int) -> None:
    few = drawn(2, 20, 12, taps)
    sides = [few.a, few.b] if few.kernel is None else [few.a, few.b, few.kernel]
    mixed = [np.concatenate([side, side[::-1], side]) for side in sides]
    mixed[0] = np.concatenate([2 * few.a, -0.3 * few.a[::-1], 0.5 * few.a])  # six terms, two directions
    found = truncated(OuterTerms(*mixed), 2)
    assert found.terms is not None
    assert found.terms.rank == 2
    assert lost(OuterTerms(*mixed), found.terms) < 1e-5


@given(st.integers(2, 10), st.integers(1, 4), st.integers(0, 99))
@settings(max_examples=30, deadline=None)
def test_with_kernels_the_error_is_exact_and_no_side_can_be_bettered(rank: int, keep: int, seed: int) -> None:
    terms = drawn(rank, 14, 9, 9, seed)
    found = truncated(terms, keep)
    assert found.terms is not None
    assert np.sqrt(found.lost / found.energy) == pytest.approx(lost(terms, found.terms), abs=2e-7)
    assert found.terms.floats <= max(keep * (14 + 9 + 9), 0) or rank <= keep
    sigma = np.linalg.svd(terms.change(), compute_uv=False)
    assert lost(terms, found.terms) >= np.linalg.norm(sigma[keep:]) / np.linalg.norm(sigma) - 1e-6
    if found.terms.kernel is not None and rank > keep:
        change, sides = terms.change().reshape(14, 9, 9), (found.terms.a, found.terms.b, found.terms.kernel)
        for side in range(3):  # least squares for one side, the others fixed, gains next to nothing
            others = [x.astype(float) for i, x in enumerate(sides) if i != side]
            design = np.einsum("kp,kq->kpq", *others).reshape(found.terms.rank, -1)
            target = np.moveaxis(change, side, 0).reshape(change.shape[side], -1)
            fitted = np.linalg.lstsq(design.T, target.T, rcond=None)[0]
            least = np.linalg.norm(target.T - design.T @ fitted) / np.linalg.norm(change)
            assert lost(terms, found.terms) <= least + 1e-4


def test_terms_without_kernels_are_taken_where_they_are_nearer_in_no_more_floats() -> None:
    rng = np.random.default_rng(0)
    a = np.repeat(rng.standard_normal((1, 12)), 40, axis=0)  # one output direction, kernels of every kind
    terms = OuterTerms(a, rng.standard_normal((40, 12)), rng.standard_normal((40, 9)))
    found = truncated(terms, 4)
    assert found.terms is not None
    assert (found.terms.kernel, found.terms.rank) == (None, 1)
    assert lost(terms, found.terms) < 1e-6


def test_opposites_leave_nothing() -> None:
    one = drawn(2, 5, 6)
    terms = OuterTerms(np.vstack([one.a, -one.a]), np.vstack([one.b, one.b]))
    found = truncated(terms, 1)
    assert found.terms is None or np.linalg.norm(found.terms.change()) < 1e-6
    zeros = OuterTerms(np.zeros((3, 5), np.float32), np.ones((3, 6), np.float32), np.ones((3, 9), np.float32))
    assert truncated(zeros, 1).terms is None
    assert truncated(zeros, 1).lost == 0.0


def test_thousands_are_taken_in_piece_by_piece(monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng(1)
    a, b = (rng.standard_normal((3, n)) for n in (30, 40))
    shares = rng.standard_normal((1200, 3))
    noise = OuterTerms(0.02 * rng.standard_normal((1200, 30)), rng.standard_normal((1200, 40)))
    terms = OuterTerms(shares @ a + noise.a, np.sign(shares) @ b + 0.01 * noise.b)
    at_once = np.linalg.svd(terms.change(), compute_uv=False)
    best = np.linalg.norm(at_once[4:]) / np.linalg.norm(at_once)
    found = truncated(terms, 4)
    assert np.sqrt(found.lost / found.energy) == pytest.approx(lost(terms, found.terms), abs=2e-7)
    assert best <= lost(terms, found.terms) + 1e-7 < 1.05 * best + 1e-6
    monkeypatch.setattr(truncation, "_AT_ONCE", 10_000)
    assert lost(terms, truncated(terms, 4).terms) == pytest.approx(best, abs=1e-6)
