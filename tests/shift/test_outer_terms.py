"""Outer terms and words in memory: what they are, their sums and inner products against the matrices they stand for."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from shifts_with_terms import CONV, EMBEDDING, LINEAR, NORM, PLAIN, SHAPES, change, shift_with_terms, spectra

from spectra.errors import MismatchError, ShiftFileError
from spectra.shift.metadata import ShiftMetadata
from spectra.shift.outer_terms import OuterTerms
from spectra.shift.provenance import Ancestry
from spectra.shift.shift import SpectralShift, combine, derive
from spectra.shift.singular_vectors import SingularVectors
from spectra.shift.sums import SingularPair, inner_product
from spectra.shift.word_vectors import WordVectors
from spectra.spectrum.cache.spectrum_cache import SpectrumCache
from spectra.spectrum.fingerprint import fingerprint


def ones(*shape: int) -> np.ndarray:
    return np.ones(shape, np.float32)


class Known(SingularVectors):
    """Singular vectors of the helper's weights, in place of a cache."""

    def __init__(self, *names: str) -> None:
        super().__init__(ShiftMetadata("tiny", dict.fromkeys(SHAPES, "0" * 8)))
        self._names = names

    def __call__(self, name: str, directions: int) -> SingularPair | None:
        if name not in self._names:
            self.unknown.add(name)
            return None
        left, _, right = spectra()[name]
        return left[:, :directions], right.T[:, :directions]


def flat(shift: SpectralShift) -> np.ndarray:
    return np.concatenate([change(shift, name).ravel() for name in shift])


@pytest.mark.parametrize("kernel", [True, False])
def test_a_change_is_the_sum_of_products(kernel: bool) -> None:
    shift = shift_with_terms(kernel=kernel)
    for name, terms in shift.outer.items():
        want = change(shift, name) - change(SpectralShift(shift, shift.metadata), name)
        np.testing.assert_allclose(terms.change(), want, rtol=1e-13, atol=1e-13)
        assert terms.change().dtype == np.float64
        assert terms.right.shape == (terms.rank, terms.shape[1])


def test_terms_are_read_only_copies() -> None:
    mine = ones(2, 3)
    terms, words = OuterTerms(mine, ones(2, 4)), WordVectors((1, 2), mine, "owl")
    mine[:] = 7
    assert (terms.a == 1).all()
    assert (words.vectors == 1).all()
    for array in (terms.a, terms.b, words.vectors):
        with pytest.raises(ValueError, match="read-only"):
            array[0, 0] = 1
    assert (terms.rank, terms.floats, words.floats) == (2, 14, 6)
    assert terms == OuterTerms(ones(2, 3), ones(2, 4)) != OuterTerms(ones(2, 3), ones(2, 4), ones(2, 1))
    assert words != WordVectors((2, 1), ones(2, 3), "owl")
    assert "2 of 3 x 4" in repr(terms)
    assert "'owl'" in repr(words)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: OuterTerms(ones(0, 3), ones(0, 4)), r"k and n > 0"),
        (lambda: OuterTerms(ones(3), ones(1, 4)), r"shape \[3\]"),
        (lambda: OuterTerms(ones(2, 3), ones(1, 4)), "one row for each term"),
        (lambda: OuterTerms(ones(2, 3), ones(2, 4), ones(3, 9)), r"\[2, 3\], \[2, 4\], \[3, 9\]"),
        (lambda: OuterTerms(np.ones((2, 3), int), ones(2, 4)), "expected floats"),
        (lambda: OuterTerms(np.full((2, 3), np.nan), ones(2, 4)), "a of outer terms: 6 of 6 .* not finite"),
        (lambda: OuterTerms(ones(1, 3), np.full((1, 4), 1e300)), "b of outer terms: 4 of 4 .* not finite"),
        (lambda: OuterTerms(ones(1, 3), ones(1, 4)).scaled(math.inf), "not finite"),
        (lambda: WordVectors((), ones(0, 4)), r"k and n > 0"),
        (lambda: WordVectors((1,), ones(2, 4)), "a row for each of 1 ids, got 2"),
        (lambda: WordVectors((1, 1), ones(2, 4)), "each id once"),
        (lambda: WordVectors((-1,), ones(1, 4)), "got -1"),
        (lambda: WordVectors((2**32,), ones(1, 4)), "got 4294967296"),
        (lambda: WordVectors((True,), ones(1, 4)), "got True"),
    ],
)
def test_what_is_no_term_and_no_word_is_refused(make: Any, message: str) -> None:
    with pytest.raises(ShiftFileError, match=message) as caught:
        make()
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("outer", "words", "message"),
    [
        ({"unet.other": OuterTerms(ones(1, 7), ones(1, 9))}, {}, r"unet\.other has outer terms or words but no delta"),
        ({LINEAR: OuterTerms(ones(1, 8), ones(1, 9))}, {}, "7 singular values do not fit outer terms of 8 x 9"),
        ({LINEAR: OuterTerms(ones(1, 7), ones(1, 3), ones(1, 3))}, {}, "terms with a kernel change convolutions"),
        ({NORM: OuterTerms(ones(1, 5), ones(1, 5))}, {}, "has one dimension"),
        ({}, {EMBEDDING: WordVectors((1,), ones(1, 5))}, "words of 5 floats .* 6 singular values"),
        ({}, {LINEAR: WordVectors((7,), ones(1, 9))}, "ids up to 7 do not fit a weight of 7 rows"),
        ({LINEAR: OuterTerms(ones(1, 7), ones(1, 9))}, {LINEAR: WordVectors((1,), ones(1, 8))}, "words of 8 floats"),
    ],
)
def test_parts_of_another_weight_are_refused(outer: Any, words: Any, message: str) -> None:
    shift = shift_with_terms()
    with pytest.raises(ShiftFileError, match=message):
        SpectralShift(shift, shift.metadata, outer=outer, words=words)


@pytest.mark.parametrize("kernels", [(True, True), (True, False), (False, False)])
def test_sums_are_sums_of_the_changes(kernels: tuple[bool, bool]) -> None:
    a, b = (shift_with_terms(seed, kernel=kernel) for seed, kernel in enumerate(kernels))
    for made, want in (
        (a + b, flat(a) + flat(b)),
        (0.25 * a - 3 * b, 0.25 * flat(a) - 3 * flat(b)),
        (combine([(0.5, a), (2.0, a), (1.0, b)]), 2.5 * flat(a) + flat(b)),
    ):
        np.testing.assert_allclose(flat(made), want, rtol=3e-7, atol=3e-7)
    assert (a + a).outer[CONV].rank == a.outer[CONV].rank  # equal b and kernel: one term
    assert (a + b).outer[CONV].rank == 2 * a.outer[CONV].rank
    assert (a - a).outer == {}
    assert (0 * a).outer == {}
    assert 1 * a == SpectralShift(a, (1 * a).metadata, outer=a.outer, words=a.words)


def test_words_of_different_tokens_stand_side_by_side() -> None:
    a = shift_with_terms()
    other = WordVectors((39, 5), ones(2, 6), "fox")
    b = SpectralShift(a, a.metadata, words={EMBEDDING: other})
    made = (a + 2 * b).words[EMBEDDING]
    assert (made.ids, made.text) == ((3, 39, 5), "owl, fox")
    np.testing.assert_array_equal(made.vectors[1], a.words[EMBEDDING].vectors[1] + 2)
    assert (a + a).words[EMBEDDING].text == "owl"


@pytest.mark.parametrize("kernels", [(True, True), (True, False), (False, False)])
def test_inner_products_are_those_of_the_changes(kernels: tuple[bool, bool]) -> None:
    a, b = (shift_with_terms(seed, kernel=kernel) for seed, kernel in enumerate(kernels))
    known = Known(CONV, EMBEDDING, LINEAR, PLAIN)
    assert a.dot(b, known) == pytest.approx(flat(a) @ flat(b), rel=1e-12)
    assert a.norm(known) == pytest.approx(np.linalg.norm(flat(a)), rel=1e-12)
    cosine = flat(a) @ flat(b) / np.linalg.norm(flat(a)) / np.linalg.norm(flat(b))
    assert a.cosine(b, known) == pytest.approx(cosine, rel=1e-12)
    assert (3 * a).cosine(a, known) == pytest.approx(1, abs=1e-7)
    assert known.unknown == set()


def test_a_word_meets_terms_and_a_diagonal_of_its_weight() -> None:
    shift = shift_with_terms()
    rng = np.random.default_rng(5)
    deltas = {**shift, EMBEDDING: rng.standard_normal(6)}
    terms = OuterTerms(rng.standard_normal((1, 40)).astype(np.float32), rng.standard_normal((1, 6)).astype(np.float32))
    full = SpectralShift(deltas, shift.metadata, outer={**shift.outer, EMBEDDING: terms}, words=shift.words)
    assert full.norm(Known(CONV, EMBEDDING)) == pytest.approx(np.linalg.norm(flat(full)), rel=1e-12)


def test_without_singular_vectors_the_cross_part_is_left_out_and_told() -> None:
    shift = shift_with_terms()
    unknown = Known()
    diagonals = sum(float(np.sum(delta.astype(np.float64) ** 2)) for delta in shift.values())
    terms = sum(each.dot(each) for each in (*shift.outer.values(), *shift.words.values()))
    assert shift.dot(shift, unknown) == pytest.approx(diagonals + terms, rel=1e-12)
    assert unknown.unknown == {CONV}
    assert inner_product(shift.parts(), shift.parts()) == pytest.approx(diagonals + terms, rel=1e-12)
    assert inner_product(shift, shift) == pytest.approx(diagonals, rel=1e-12)


def test_singular_vectors_come_from_the_cache(tmp_path: Path) -> None:
    parts = {name: left * sigma @ right for name, (left, sigma, right) in spectra().items()}
    weights = {
        name: torch.from_numpy(matrix.astype(np.float32).reshape(SHAPES[name])) for name, matrix in parts.items()
    }
    digits = {name: fingerprint(weight)[:8] for name, weight in weights.items()} | {NORM: "0" * 8}
    shift = shift_with_terms(fingerprints=digits)
    cache = SpectrumCache(tmp_path)
    vectors = SingularVectors(shift.metadata, cache=cache)
    without = shift.norm(vectors)
    assert vectors.unknown == {CONV}
    cache.leading({CONV: weights[CONV]}, 3)
    known = SingularVectors(shift.metadata, cache=cache)
    want = float(np.linalg.norm(flat(shift)))
    assert shift.norm(known) == pytest.approx(want, rel=1e-6)
    assert shift.norm(known) != pytest.approx(without, rel=1e-3)
    assert known.unknown == set()


def test_restricting_and_deriving_keep_what_is_given() -> None:
    shift = shift_with_terms()
    some = shift.restricted(LINEAR)
    assert (list(some), some.outer, some.words) == ([LINEAR], {LINEAR: shift.outer[LINEAR]}, {})
    assert shift.restricted(EMBEDDING).words == shift.words
    assert derive([shift], shift, None).outer == {}
    assert derive([shift], shift, None, outer=shift.outer, words=shift.words).words == shift.words


def test_equality_and_repr_count_terms_and_words() -> None:
    shift = shift_with_terms()
    assert shift == shift_with_terms()
    assert shift != SpectralShift(shift, shift.metadata, outer=shift.outer)
    assert shift != SpectralShift(shift, shift.metadata, words=shift.words)
    assert "4 outer terms, word 'owl'" in repr(shift)
    assert shift.floats == 5 + 4 + 2 * (8 + 3 + 9) + 2 * (7 + 9) + 2 * 6


def test_terms_of_another_shape_are_another_base() -> None:
    a = shift_with_terms()
    turned = OuterTerms(ones(1, 9), ones(1, 7))
    b = SpectralShift(a, a.metadata, outer={LINEAR: turned})
    for operation in (lambda: a + b, lambda: a.dot(b), lambda: a.cosine(b)):
        with pytest.raises(MismatchError, match=r"unet\.linear is changed as 7 x 9 in one and as 9 x 7 in another"):
            operation()
    ancestry = Ancestry()
    ancestry.add(a.metadata, {}, {EMBEDDING: (0, 6)})
    ancestry.add(a.metadata, {}, {EMBEDDING: (40, 0)})
    assert ancestry.shapes == {EMBEDDING: (40, 6)}
