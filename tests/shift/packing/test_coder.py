"""Tokens and the entropy coder: exact round trips, near the entropy, and damage that is noticed."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from spectra.shift.packing import coder, tokens
from spectra.shift.packing.trellis import Integers, find_path


def read(found: Integers, stored: np.ndarray) -> tuple[Integers, np.ndarray]:
    """All numbers and signs that `read_bits` gives part by part."""
    k, negative = np.full(len(found), -1), np.zeros(len(found), dtype=bool)
    for part, numbers, signs in tokens.read_bits(found.astype(np.uint16), stored):
        k[part], negative[part] = numbers, signs
    return k, negative


def test_millions_of_numbers_are_read_in_parts() -> None:
    k = np.random.default_rng(0).geometric(0.03, 200_000) - 1
    negative = (k % 3 == 0) & (k > 0)
    again, signs = read(tokens.to_tokens(k)[0], tokens.write_bits(k, negative))
    np.testing.assert_array_equal(again, k)
    np.testing.assert_array_equal(signs, negative)


@given(k=hnp.arrays(np.int64, st.integers(0, 50), elements=st.integers(0, 2 ** (tokens.HIGHEST + 1) - 1)))
def test_numbers_survive_as_tokens_and_bits(k: Integers) -> None:
    found, width = tokens.to_tokens(k)
    assert (found < tokens.COUNT).all()
    np.testing.assert_array_equal(tokens.widths(found), width)
    np.testing.assert_array_equal(found & 1, k & 1)  # the trellis needs no more than the token
    negative = (k % 3 == 0) & (k > 0)
    again, signs = read(found, tokens.write_bits(k, negative))
    np.testing.assert_array_equal(again, k)
    np.testing.assert_array_equal(signs, negative)


def test_missing_bits_are_noticed() -> None:
    k = np.arange(100)
    stored = tokens.write_bits(k, k > 50)
    for changed in (stored[:-1], np.append(stored, np.uint8(0))):
        with pytest.raises(ValueError, match="bytes of signs"):
            read(tokens.to_tokens(k)[0], changed)


@settings(max_examples=60)
@given(counts=hnp.arrays(np.int64, st.integers(1, 600), elements=st.integers(0, 10**9)))
def test_frequencies_sum_up_and_leave_nothing_out(counts: Integers) -> None:
    scaled = coder.scale_counts(counts)
    assert scaled.sum(dtype=np.int64) == 1 << coder.PRECISION
    assert (scaled[counts > 0] > 0).all()


def coded(values: np.ndarray, classes: Integers, lanes: int) -> tuple[Integers, Integers, tuple[np.ndarray, ...]]:
    """Tokens, states' parity, and what `decode` takes."""
    k, odd = find_path(values, lanes)
    found, _ = tokens.to_tokens(k)
    contexts, width = 2 * classes + odd, int(found.max(initial=0)) + 1
    counts = np.array([np.bincount(found[contexts == c], minlength=width) for c in range(2 * int(classes.max() + 1))])
    tables = np.array([coder.scale_counts(row) for row in counts])
    return found, odd, (*coder.encode(found, contexts, tables, lanes), classes, tables)


@settings(max_examples=60)
@given(
    values=hnp.arrays(np.float64, st.integers(1, 300), elements=st.floats(-1e6, 1e6)),
    lanes=st.integers(1, 9),
    split=st.integers(0, 300),
)
def test_what_is_encoded_is_decoded(values: np.ndarray, lanes: int, split: int) -> None:
    classes = (np.arange(len(values)) >= min(split, len(values) - 1)).astype(np.int64)
    found, odd, stored = coded(values, classes, lanes)
    again, states = coder.decode(*stored)
    np.testing.assert_array_equal(again, found)
    np.testing.assert_array_equal(states, odd)


def test_the_words_are_as_many_as_the_entropy_asks_for() -> None:
    values = np.random.default_rng(0).normal(0, 10, 50_000)
    found, odd, (states, words, _, tables) = coded(values, np.zeros(len(values), dtype=np.int64), 64)
    frequency = tables[odd, found] / (1 << coder.PRECISION)
    assert words.nbytes + states.nbytes < -np.log2(frequency).sum() / 8 + 4 * len(states)


@settings(max_examples=60)
@given(data=st.data())
def test_damage_is_an_error_or_other_tokens_but_no_crash(data: st.DataObject) -> None:
    values = np.random.default_rng(1).normal(0, 10, 400)
    _, _, (states, words, classes, tables) = coded(values, np.zeros(400, dtype=np.int64), 4)
    parts = [states.copy(), words.copy(), classes.copy(), tables.copy()]
    which = data.draw(st.sampled_from([0, 1, 3]))
    bits = parts[which].reshape(-1).view(np.uint8)
    bits[data.draw(st.integers(0, len(bits) - 1))] ^= 1 << data.draw(st.integers(0, 7))
    if data.draw(st.booleans()):
        parts[1] = parts[1][: data.draw(st.integers(0, len(words)))]
    try:
        found, _ = coder.decode(*parts)
    except ValueError:
        return
    assert found.shape == (400,)
    assert (found < tables.shape[1]).all()
