"""Distances and cosines of shifts, held against the weights they make, in float64."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from spectra.analysis.diffing import by_group, by_weight, check_comparable, compare, correlate
from spectra.analysis.weight_changes import Change, Changes, weight_changes
from spectra.errors import MismatchError
from spectra.naming.blocks import block_of
from spectra.shift.metadata import ShiftMetadata
from spectra.shift.shift import SpectralShift

A, B, NORM = "unet.down_blocks.0.a", "unet.down_blocks.0.b", "unet.down_blocks.10.norm"


def shift_of(deltas: dict[str, object], digits: str = "0" * 8, **told: object) -> SpectralShift:
    arrays = {name: np.array(values, dtype=np.float64) for name, values in deltas.items()}
    return SpectralShift(arrays, ShiftMetadata("b", dict.fromkeys(arrays, digits), **told))  # type: ignore[arg-type]


@dataclass(frozen=True)
class OneSigma:
    """Stands in for a spectrum cache that knows the singular values of every weight, or of none."""

    known: np.ndarray | None

    def sigma(self, digits: str) -> np.ndarray | None:
        return self.known

    def leading_vectors(self, digits: str, directions: int) -> None:
        return None


def of_deltas(deltas: dict[str, np.ndarray]) -> Changes:
    return {name: Change(d, None, None, np.zeros_like(d)) for name, d in deltas.items()}


def changes_of(shifts: list[SpectralShift], sigma: np.ndarray | None = None) -> list[Changes]:
    return weight_changes(shifts, cache=OneSigma(sigma))[0]  # type: ignore[arg-type]


@settings(max_examples=40)
@given(st.integers(0, 10**6), st.integers(1, 6), st.integers(1, 8), st.sampled_from([0.01, 1.0, 30.0]))
def test_the_distance_is_that_of_the_weights_the_paper_makes(seed: int, rows: int, columns: int, size: float) -> None:
    """`U diag(ReLU(sigma + delta)) V^T` of both, rebuilt; small, large and clipping deltas, rank-deficient weights."""
    rng = np.random.default_rng(seed)
    weight = rng.normal(size=(rows, columns)) * (rng.random(columns) < 0.7)
    left, sigma, right = np.linalg.svd(weight, full_matrices=False)
    shifts = [shift_of({A: size * rng.normal(size=sigma.size)}) for _ in range(2)]
    first, second = changes_of(shifts, sigma)
    made = [left @ np.diag(np.maximum(sigma + shift[A], 0.0)) @ right for shift in shifts]
    found = compare(first, second)
    scale = max(sigma.max(), size)
    assert found.distance == pytest.approx(np.linalg.norm(made[0] - made[1]), rel=1e-12, abs=1e-13 * scale)
    assert found.first == pytest.approx(np.linalg.norm(made[0] - weight), rel=1e-12, abs=1e-13 * scale)
    plain = compare(*changes_of(shifts))
    assert plain.distance >= found.distance * (1 - 1e-12)


def test_a_small_delta_beside_a_large_sigma_keeps_its_digits() -> None:
    delta = np.float32(1.234567e-12)
    (found,) = changes_of([shift_of({A: [delta]})], np.array([1e9]))
    assert found[A].d[0] == delta


def test_a_short_distance_between_long_shifts_is_exact() -> None:
    first = {A: np.full(100, 1e6)}
    second = {A: np.full(100, 1e6) + 1e-6}
    gap = float(np.linalg.norm(first[A] - second[A]))
    assert compare(of_deltas(first), of_deltas(second)).distance == gap
    assert correlate([of_deltas(first), of_deltas(second)]).distance[0, 1] == pytest.approx(gap, rel=1e-12)


def test_a_missing_weight_is_unchanged_and_outside_the_mean() -> None:
    first = of_deltas({A: np.array([3.0, 0.0]), NORM: np.array([1.0])})
    second = of_deltas({A: np.array([0.0, 4.0]), B: np.array([12.0]), NORM: np.array([2.0])})
    found = compare(first, second)
    assert found.distance == pytest.approx(np.sqrt(9 + 16 + 144 + 1))
    assert found.weights == 3
    assert found.mean_cosine == pytest.approx((0 + 1) / 2)  # B is in one of them only
    assert found.cosine == pytest.approx(2 / (np.sqrt(10) * np.sqrt(16 + 144 + 4)))
    parts = {part.name: part for part in by_weight(first, second)}
    assert (parts[B].cosine, parts[B].first, parts[B].second, parts[B].moved) == (None, 0.0, 12.0, 0)


def test_signs_that_conflict_are_counted() -> None:
    first, second = ({A: np.array(d)} for d in ([1.0, -1.0, 0.0, 2.0], [-1.0, -2.0, 3.0, 1e-300]))
    found = compare(of_deltas(first), of_deltas(second))
    assert (found.moved, found.opposed) == (3, 1)


def test_groups_add_up_to_the_whole() -> None:
    rng = np.random.default_rng(1)
    first, second = ({name: rng.normal(size=5) for name in (A, B, NORM)} for _ in range(2))
    every = by_weight(of_deltas(first), of_deltas(second))
    groups = by_group(every, block_of)
    assert [group.name for group in groups] == ["unet.down_blocks.0", "unet.down_blocks.10"]
    whole = compare(of_deltas(first), of_deltas(second))
    assert sum(group.distance**2 for group in groups) == pytest.approx(whole.distance**2)
    assert sum(group.opposed for group in groups) == whole.opposed
    flat = [np.concatenate([side[name] for name in (A, B, NORM)]) for side in (first, second)]
    assert whole.cosine == pytest.approx(flat[0] @ flat[1] / np.linalg.norm(flat[0]) / np.linalg.norm(flat[1]))


@settings(max_examples=20)
@given(st.integers(0, 10**6), st.integers(2, 5))
def test_each_with_each_agrees_with_pairs(seed: int, count: int) -> None:
    rng = np.random.default_rng(seed)
    lengths = {A: 4, B: 1, NORM: 3}
    shifts = [
        {name: rng.normal(size=size) * (rng.random() < 0.8) for name, size in lengths.items() if rng.random() < 0.8}
        for _ in range(count)
    ]
    found = correlate(list(map(of_deltas, shifts)))
    for i, first in enumerate(shifts):
        for j, second in enumerate(shifts):
            if not first and not second:
                continue
            pair = compare(of_deltas(first), of_deltas(second))
            assert found.distance[i, j] == pytest.approx(pair.distance)
            for got, expected in ((found.cosine[i, j], pair.cosine), (found.mean_cosine[i, j], pair.mean_cosine)):
                assert got == pytest.approx(np.nan if expected is None else expected, nan_ok=True)


def test_a_shift_and_itself() -> None:
    same = of_deltas({A: np.array([0.1, -0.3])})
    found = compare(same, same)
    assert (found.distance, found.cosine, found.opposed) == (0.0, pytest.approx(1.0), 0)
    zero = of_deltas({A: np.zeros(2)})
    assert compare(zero, zero).cosine is None
    assert np.isnan(correlate([zero, same]).cosine[0]).all()


def test_other_bases_are_refused_by_name_with_the_way_out() -> None:
    one, two = shift_of({A: [1.0]}), shift_of({B: [1.0]})
    other = shift_of({B: [1.0]}, digits="1" * 8)
    check_comparable({"one": one, "two": two})
    with pytest.raises(MismatchError, match=r"^two and other: .*spectra transplant"):
        check_comparable({"one": one, "two": two, "other": other})
    half = shift_of({A: [1.0]}, base_dtype="float16")
    with pytest.raises(MismatchError, match=r"^one and half: .*float16"):
        check_comparable({"one": one, "half": half})
    with pytest.raises(MismatchError, match="^one and longer: .*1 floats in one and 2 in another"):
        check_comparable({"one": one, "longer": shift_of({A: [1.0, 2.0]})})


def test_what_is_not_known_is_told() -> None:
    shift = shift_of({A: [1.0], NORM: [1.0]}, ndims={A: 2, NORM: 1})
    for known, clipping in ((None, {A}), (np.ones(1), set())):
        _, unknown = weight_changes([shift], cache=OneSigma(known))  # type: ignore[arg-type]
        assert (unknown.clipping, unknown.cross, bool(unknown)) == (clipping, set(), bool(clipping))
    untold = shift_of({A: [1.0], NORM: [1.0], B: [0.0]})
    _, unknown = weight_changes([untold], cache=OneSigma(None))  # type: ignore[arg-type]
    # Where dimensions are not told a norm may be a matrix. What does not move is not clipped.
    assert unknown.clipping == {A, NORM}
    with pytest.raises(MismatchError, match="expected a delta of 2 floats"):
        changes_of([shift], np.ones(2))
