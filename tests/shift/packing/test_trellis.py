"""The trellis: its paths are paths, the cheapest, and worth their trouble."""

from __future__ import annotations

import itertools

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from spectra.shift.packing.trellis import Integers, find_path, level, successors

values = hnp.arrays(np.float64, st.integers(1, 60), elements=st.floats(-1e4, 1e4))


def walk(k: Integers, lanes: int) -> Integers:
    """Whether the state is odd before each number, by the rule alone."""
    state, odd = np.zeros(lanes, dtype=np.int64), np.empty_like(k)
    following = successors()
    for i, number in enumerate(k):
        odd[i] = state[i % lanes] & 1
        state[i % lanes] = following[state[i % lanes], number & 1]
    return odd


@settings(max_examples=60)
@given(values=values, lanes=st.integers(1, 7))
def test_a_path_follows_the_states(values: np.ndarray, lanes: int) -> None:
    k, odd = find_path(values, lanes)
    assert (k >= 0).all()
    np.testing.assert_array_equal(odd, walk(k, lanes))
    # The nearest level of one set is at most two steps off; the path may give up one more to go on better.
    assert np.abs(level(k, odd) - np.abs(values)).max() <= 4


@settings(max_examples=20)
@given(values=hnp.arrays(np.float64, st.integers(1, 5), elements=st.floats(0, 6)))
def test_it_is_the_nearest_of_all_paths(values: np.ndarray) -> None:
    k, odd = find_path(values, 1)
    found = np.square(level(k, odd) - values).sum()
    every = (np.array(numbers) for numbers in itertools.product(range(6), repeat=len(values)))
    best = min(np.square(level(numbers, walk(numbers, 1)) - values).sum() for numbers in every)
    np.testing.assert_allclose(found, best, atol=1e-5)


def test_every_state_is_entered_twice() -> None:
    following = successors()
    np.testing.assert_array_equal(np.bincount(following.reshape(-1)), 2)
    assert (following[:, 0] != following[:, 1]).all()


def test_the_error_is_1_2_db_below_a_uniform_quantisers() -> None:
    """At equal rate: a set of levels is two steps wide, so a uniform quantiser of two steps costs as many bits."""
    drawn = np.random.default_rng(0).uniform(-200, 200, 20_000)
    k, odd = find_path(drawn, 40)
    error = np.square(level(k, odd) - np.abs(drawn)).mean()
    assert 10 * np.log10((4 / 12) / error) > 1.2


def test_zeros_are_free() -> None:
    k, odd = find_path(np.zeros(100), 3)
    assert not level(k, odd).any()
