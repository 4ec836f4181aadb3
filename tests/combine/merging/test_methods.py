"""Each method on the deltas of one weight, against its definition and against float64."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from spectra.combine.merging import METHODS
from spectra.combine.merging.one_weight import random_numbers
from spectra.combine.merging.stacked_terms import Row, Rows

EVERY = sorted(METHODS)


def call(name: str, deltas: Rows, weights: object = (), seed: int = 0, **parameters: float) -> Row:
    method = METHODS[name]
    given_weights = method.weights(np.atleast_1d(weights).tolist(), len(deltas))
    random = {"random": random_numbers(seed, "unet.a", deltas.shape)} if method.random else {}
    return method.function(deltas, given_weights, **method.complete(parameters), **random)


def rows(least: int = 1, most: int = 5) -> st.SearchStrategy[Rows]:
    numbers = st.floats(-100, 100, width=32).map(lambda x: 0.0 if abs(x) < 1e-20 else x)
    shapes = st.tuples(st.integers(least, most), st.integers(1, 40))
    return shapes.flatmap(lambda shape: arrays(np.float64, shape, elements=numbers))


def spread(k: int, n: int, seed: int = 0) -> Rows:
    return np.random.default_rng(seed).standard_normal((k, n))


@given(rows(2, 2), st.floats(0, 1))
@settings(max_examples=60)
def test_interpolation_is_the_papers_formula(deltas: Rows, alpha: float) -> None:
    np.testing.assert_array_equal(
        call("interpolate", deltas, alpha), alpha * deltas[0] + (1 - alpha) * deltas[1] + 0.0 * deltas[0]
    )


@given(rows(2, 2))
@settings(max_examples=40)
@pytest.mark.parametrize("name", ["interpolate", "slerp"])
def test_alpha_1_and_0_are_the_parents_bit_for_bit(name: str, deltas: Rows) -> None:
    deltas[0, 0] = -0.0
    assert call(name, deltas, 1.0).tobytes() == deltas[0].tobytes()
    assert call(name, deltas, 0.0).tobytes() == deltas[1].tobytes()


@given(rows())
@settings(max_examples=40)
def test_sums_and_means(deltas: Rows) -> None:
    close = {"rtol": 1e-13, "atol": 1e-12}
    np.testing.assert_allclose(call("add", deltas), deltas.sum(axis=0), **close)
    np.testing.assert_allclose(call("weighted", deltas), deltas.mean(axis=0), **close)
    weights = np.arange(1.0, len(deltas) + 1)
    np.testing.assert_allclose(call("weighted", deltas, weights), weights @ deltas, **close)


@given(rows(2, 2), st.floats(0, 1))
@settings(max_examples=60)
def test_slerp_stays_between_and_at_one_length(deltas: Rows, alpha: float) -> None:
    a, b = deltas
    if min(np.linalg.norm(a), np.linalg.norm(b)) < 1e-3:
        return
    a, b = a / np.linalg.norm(a), b / np.linalg.norm(b)
    angle = math.acos(min(1.0, max(-1.0, float(a @ b))))
    if angle > math.pi - 1e-3:
        return
    found = call("slerp", np.array([a, b]), alpha)
    assert np.linalg.norm(found) == pytest.approx(1, abs=1e-9)
    assert math.acos(min(1.0, float(found @ a))) == pytest.approx((1 - alpha) * angle, abs=1e-6)


def test_slerp_in_a_straight_line_where_there_is_no_arc() -> None:
    a = spread(1, 9)[0]
    for b in (-a, 3 * a, 0 * a):
        np.testing.assert_allclose(call("slerp", np.array([a, b]), 0.25), 0.25 * a + 0.75 * b, atol=1e-12)


@given(rows(1, 6), st.integers(0, 9))
@settings(max_examples=80)
def test_karcher_is_where_the_tangents_cancel(deltas: Rows, seed: int) -> None:
    deltas += spread(*deltas.shape, seed)  # hardly ever exactly opposite
    weights = np.random.default_rng(seed).uniform(0.1, 1, len(deltas))
    units = deltas / np.linalg.norm(deltas, axis=1)[:, None]
    mean_cosine = np.linalg.norm(weights @ units) / weights.sum()
    if deltas.shape[1] < 3 or mean_cosine < 0.3:
        return
    found = call("karcher", deltas, weights)
    shares = weights / weights.sum()
    assert np.linalg.norm(found) == pytest.approx(shares @ np.linalg.norm(deltas, axis=1), rel=1e-9)
    mean = found / np.linalg.norm(found)
    angles = np.arccos(np.clip(units @ mean, -1, 1))
    tangents = (units - np.cos(angles)[:, None] * mean) / np.sinc(angles / np.pi)[:, None]
    assert np.linalg.norm(shares @ tangents) < 1e-8


def test_karcher_of_two_is_the_middle_of_the_arc_and_of_opposites_nothing() -> None:
    deltas = spread(2, 50)
    lengths = np.linalg.norm(deltas, axis=1)
    units = deltas / lengths[:, None]
    np.testing.assert_allclose(call("karcher", deltas), call("slerp", units, 0.5) * lengths.mean(), rtol=1e-9)
    assert not call("karcher", np.array([deltas[0], -deltas[0]])).any()
    assert not call("karcher", np.zeros((3, 4))).any()


def test_karcher_ends_on_a_thousand_shifts() -> None:
    deltas = spread(1000, 300)
    assert np.linalg.norm(call("karcher", deltas)) == pytest.approx(np.linalg.norm(deltas, axis=1).mean())


def test_model_stock_by_hand() -> None:
    a, b = np.array([1.0, 0.0]), np.array([0.6, 0.8])
    cos = 0.6
    np.testing.assert_allclose(call("model-stock", np.array([a, b])), 2 * cos / (1 + cos) * (a + b) / 2)
    np.testing.assert_allclose(call("model-stock", np.array([a, a, a])), a)
    assert not call("model-stock", np.array([a, -a])).any()


def by_definition(deltas: Rows, weights: Row, elected: Row | None = None) -> Row:
    """TIES' elect and disjoint mean, coordinate by coordinate."""
    result = np.zeros(deltas.shape[1])
    for j in range(deltas.shape[1]):
        total = sum(weights * deltas[:, j]) if elected is None else elected[j]
        agreeing = [i for i in range(len(deltas)) if deltas[i, j] * np.sign(total) > 0]
        if agreeing:
            result[j] = sum(weights[i] * deltas[i, j] for i in agreeing) / sum(weights[i] for i in agreeing)
    return result


def trimmed(delta: Row, share: float) -> Row:
    number = min(delta.size, int(share * delta.size + 0.5))
    least = sorted(abs(delta), reverse=True)[number - 1] if number else math.inf
    return np.where(abs(delta) >= least, delta, 0)


@given(rows(), st.floats(0.01, 1))
@settings(max_examples=60)
def test_ties_by_its_definition(deltas: Rows, density: float) -> None:
    weights = np.linspace(0.5, 2, len(deltas))
    expected = by_definition(np.array([trimmed(delta, density) for delta in deltas]), weights)
    np.testing.assert_allclose(call("ties", deltas, weights, density=density), expected, rtol=1e-12, atol=1e-300)


@given(rows(), st.floats(0.01, 1))
@settings(max_examples=60)
def test_sce_by_its_definition(deltas: Rows, density: float) -> None:
    selected = trimmed(np.var(deltas, axis=0), density) != 0
    chosen = np.where(selected, deltas, 0)
    found = call("sce", deltas, density=density)
    assert not found[~selected & (np.var(deltas, axis=0) > 0)].any()
    if (np.var(deltas, axis=0) > 0).all():
        energies = np.square(chosen).sum(axis=1)
        expected = by_definition(chosen, energies, chosen.sum(axis=0))
        np.testing.assert_allclose(found, expected, rtol=1e-9, atol=1e-12)


@given(rows(), st.floats(0.1, 0.8), st.floats(0, 0.2))
@settings(max_examples=40)
def test_breadcrumbs_leaves_out_both_ends(deltas: Rows, density: float, gamma: float) -> None:
    kept = [trimmed(delta, density + gamma) - trimmed(delta, gamma) for delta in deltas]
    found = call("breadcrumbs", deltas, density=density, gamma=gamma)
    np.testing.assert_allclose(found, np.mean(kept, axis=0), rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("name", ["dare", "dare-ties", "della"])
def test_drawing_is_by_seed_alone(name: str) -> None:
    deltas = spread(3, 200)
    assert (call(name, deltas, seed=1) == call(name, deltas, seed=1)).all()
    assert (call(name, deltas, seed=1) != call(name, deltas, seed=2)).any()


def test_the_numbers_drawn_are_these_on_every_machine() -> None:
    drawn = random_numbers(7, "unet.conv_in", (1, 3))
    np.testing.assert_array_equal(drawn, [[0.5319469093010701, 0.10261794722821993, 0.04572458760148068]])


def test_dropping_changes_nothing_on_average() -> None:
    deltas = np.linspace(-1, 1, 40)[None]
    for name, parameters in (("dare", {}), ("della", {"epsilon": 0.4}), ("dare-ties", {"density": 0.8})):
        mean = np.mean([call(name, deltas, seed=seed, **parameters) for seed in range(2000)], axis=0)
        if name == "dare":
            np.testing.assert_allclose(mean, deltas[0], atol=0.12)
        else:  # one shift agrees with itself: what is kept is taken as it is enlarged
            np.testing.assert_allclose(mean, deltas[0], atol=0.15)


def test_della_keeps_large_values_more_often() -> None:
    deltas = np.linspace(0.1, 1, 100)[None]
    kept = np.mean([call("della", deltas, seed=seed, epsilon=0.8) > 0 for seed in range(400)], axis=0)
    assert kept[:20].mean() < 0.3
    assert kept[-20:].mean() > 0.7
    assert kept.mean() == pytest.approx(0.5, abs=0.02)


@given(rows(2, 4))
@settings(max_examples=30)
@pytest.mark.parametrize("name", EVERY)
def test_every_method_keeps_to_finite_numbers_and_shape(name: str, deltas: Rows) -> None:
    deltas = deltas[:2] if METHODS[name].shares == "alpha" else deltas
    if name == "karcher":
        deltas += spread(*deltas.shape)  # it refuses directions that nearly cancel
    found = call(name, deltas)
    assert found.shape == deltas.shape[1:]
    assert found.dtype == np.float64
    assert np.isfinite(found).all()


@given(rows(2, 2))
@settings(max_examples=30)
@pytest.mark.parametrize("name", [name for name in EVERY if not METHODS[name].random and name != "karcher"])
def test_the_order_of_two_shifts_does_not_matter(name: str, deltas: Rows) -> None:
    forth, back = call(name, deltas), call(name, deltas[::-1])
    np.testing.assert_allclose(forth, back, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("name", EVERY)
def test_zeros_give_zeros(name: str) -> None:
    assert not call(name, np.zeros((2, 6))).any()


@pytest.mark.parametrize("name", EVERY)
def test_every_method_names_its_paper_and_says_what_it_does(name: str) -> None:
    method = METHODS[name]
    assert "arXiv:" in method.source or "doi:" in method.source
    assert method.about.endswith(".")
