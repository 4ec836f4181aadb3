"""Whether the weights of a base are there, and take what a shift adds to them."""

from __future__ import annotations

import numpy as np
import pytest

from spectra.compatibility.base_check import check_weights
from spectra.errors import MismatchError
from spectra.shift.metadata import ShiftMetadata
from spectra.shift.outer_terms import OuterTerms
from spectra.shift.shift import SpectralShift
from spectra.shift.word_vectors import WordVectors

TOKENS, CONV, LINEAR, NORM = "text_encoder.tokens", "unet.conv", "unet.linear", "unet.norm"
SHAPES = {TOKENS: (40, 6), CONV: (8, 3, 3, 3), LINEAR: (7, 9), NORM: (5,)}


def terms(*sizes: int) -> OuterTerms:
    return OuterTerms(*(np.ones((2, size)) for size in sizes))


def shift_of(outer: dict[str, OuterTerms], word: WordVectors | None = None) -> SpectralShift:
    deltas = {TOKENS: np.zeros(6), CONV: np.ones(8), LINEAR: np.zeros(7), NORM: np.ones(5)}
    metadata = ShiftMetadata("a base", dict.fromkeys(deltas, "0" * 8))
    return SpectralShift(deltas, metadata, outer=outer, words={TOKENS: word} if word else {})


@pytest.mark.parametrize("conv", [terms(8, 3, 9), terms(8, 27)])
def test_what_fits_passes(conv: OuterTerms) -> None:
    word = WordVectors((0, 39), np.ones((2, 6)), "owl")
    check_weights(shift_of({CONV: conv, LINEAR: terms(7, 9), TOKENS: terms(40, 6)}, word), "owl", SHAPES)


@pytest.mark.parametrize(
    ("outer", "word", "said"),
    [
        ({LINEAR: terms(7, 10)}, None, r"unet.linear is of shape \[7, 9\], its outer terms in the shift are of 7 x 10"),
        ({LINEAR: terms(9, 7)}, None, "7, 9.*9 x 7"),
        ({CONV: terms(8, 9, 3)}, None, r"\[8, 3, 3, 3\].*8 x 9 x 3"),  # as many columns, of another kernel
        ({CONV: terms(8, 9)}, None, "8 x 9;"),
        (
            {},
            WordVectors((2, 40), np.ones((2, 6)), "owl"),
            "has 40 tokens, the word 'owl' .* changes token 40",
        ),
        ({}, WordVectors((2,), np.ones((1, 7)), "owl"), "the word 'owl' in the shift has vectors of 7 floats"),
    ],
)
def test_what_does_not_fit_is_told(outer: dict[str, OuterTerms], word: WordVectors | None, said: str) -> None:
    with pytest.raises(MismatchError, match=f"^shift 'owl' does not fit this model: .*{said}.*load the base.*a base"):
        check_weights(shift_of(outer, word), "owl", SHAPES)


def test_a_missing_weight_and_another_length_are_told() -> None:
    with pytest.raises(MismatchError, match=r"3 of its 4 weights are there, 1 are not.*nearest: unet.linears"):
        check_weights(shift_of({}), "owl", {**{n: s for n, s in SHAPES.items() if n != LINEAR}, "unet.linears": (7, 9)})
    with pytest.raises(MismatchError, match=r"unet.conv takes 4 floats, the shift has 8"):
        check_weights(shift_of({}), "owl", SHAPES | {CONV: (4, 3, 3, 3)})
