"""A shift is held against its base before anything slow begins."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import plain_base
import pytest

from spectra.convert.baking import bake
from spectra.convert.full_difference import write_difference
from spectra.convert.lora.writing import write_lora
from spectra.convert.svdiff.conversion import export_svdiff
from spectra.errors import MismatchError
from spectra.shift.outer_terms import OuterTerms
from spectra.shift.shift import SpectralShift
from spectra.shift.word_vectors import WordVectors
from spectra.spectrum.cache.spectrum_cache import SpectrumCache


def test_of_another_base_nothing_is_decomposed(tmp_path: Path) -> None:
    base = plain_base.write(tmp_path, plain_base.tensors())
    other = plain_base.random_shift(plain_base.tensors(seed=5))
    cache, out = SpectrumCache(tmp_path / "cache"), tmp_path / "out"
    with pytest.raises(MismatchError, match="another base: .* carry the shift over"):
        write_lora(other, out, base=base, rank=1, cache=cache)
    for write in (write_difference, export_svdiff):
        with pytest.raises(MismatchError, match="another base: .* carry the shift over"):
            write(other, out, base=base, cache=cache)
    assert not cache.entries()


def test_terms_and_words_of_another_shape_are_refused(tmp_path: Path) -> None:
    weights = plain_base.tensors({"unet.to_k": (12, 20), "unet.token_embedding": (20, 8)})
    base = plain_base.write(tmp_path, weights)
    good = plain_base.mixed_shift(weights, 2, 1, ["unet.token_embedding"])
    terms = {"unet.to_k": OuterTerms(np.ones((1, 12)), np.ones((1, 21)))}
    words = {"unet.token_embedding": WordVectors((3, 20), np.ones((2, 8)), "sks")}
    for outer, word, says in (
        (terms, {}, r"unet.to_k is of shape \[12, 20\], its outer terms in the shift are of 12 x 21; load the base"),
        ({}, words, r"unet.token_embedding has 20 tokens, the word 'sks' in the shift changes token 20"),
    ):
        bad = SpectralShift(dict(good), good.metadata, outer=outer, words=word)
        for write in (write_lora, write_difference):
            with pytest.raises(MismatchError, match=says):
                write(bad, tmp_path / "out", base=base)
        with pytest.raises(MismatchError, match=says):
            bake(base, bad, tmp_path / "out.safetensors")
    assert not (tmp_path / "out").exists()


def test_an_option_of_a_lora_that_there_is_none_of_is_refused(tmp_path: Path) -> None:
    shift = plain_base.random_shift(plain_base.tensors())
    with pytest.raises(TypeError, match="no option 'ranks'; it has rank, error, layout, dtype"):
        write_lora(shift, tmp_path / "out", ranks=1)  # type: ignore[call-arg]
