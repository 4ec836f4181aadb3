"""What each family's text encoders read of a long prompt, held against what the model is then conditioned on."""

from __future__ import annotations

import warnings
from typing import Any

import pytest
import tiny_families
import torch

from spectra.errors import InputError, PictureWarning
from spectra.families.family import Condition
from spectra.families.known import family_of
from spectra.families.prompt_length import check_told_apart, read_parts, warn_of_cut

WORDS = 700
"""More than any family reads."""


def same(one: Condition, other: Condition) -> bool:
    """The same conditions, up to rounding."""
    pairs = [(one.embeds, other.embeds), *((one.added[name], other.added[name]) for name in one.added)]
    return all(a.shape == b.shape and torch.allclose(a.float(), b.float(), rtol=1e-4, atol=1e-6) for a, b in pairs)


@pytest.mark.parametrize("name", tiny_families.TINY)
def test_what_is_cut_off_has_no_effect_and_what_is_read_has(name: str) -> None:
    pipe = tiny_families.build(name)
    family = family_of(pipe)
    words = ["sun"] * WORDS
    parts = read_parts(pipe, family, " ".join(words))
    assert parts and set(parts) <= set(family.text_encoders)
    read = len(max(parts.values(), key=len).split())
    assert 2 < read < WORDS

    def encoded(changed: slice) -> Condition:
        prompt = list(words)
        prompt[changed] = ["by"] * len(prompt[changed])
        with torch.no_grad():
            return family.encode(pipe, [" ".join(prompt)])

    plain = encoded(slice(0, 0))
    assert same(plain, encoded(slice(read, None)))
    assert not same(plain, encoded(slice(read - 2, read)))


@pytest.mark.parametrize("name", tiny_families.TINY)
def test_a_short_prompt_is_read_whole_and_nothing_is_said(name: str) -> None:
    pipe = tiny_families.build(name)
    family = family_of(pipe)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        warn_of_cut(pipe, family, ["a sun", ""])
    assert set(read_parts(pipe, family, "a sun").values()) == {"a sun"}


@pytest.fixture(scope="module")
def pipe() -> Any:
    """Stable Diffusion, whose tiny tokenizer reads few tokens."""
    return tiny_families.build("sd")


def test_what_is_cut_off_is_told(pipe: Any) -> None:
    prompt = "a sun " + "and " * 100 + "trees"
    lost = prompt[len(read_parts(pipe, family_of(pipe), prompt)["text_encoder"]) :].strip()
    with pytest.warns(
        PictureWarning, match="prompts longer than the base reads: 'a sun and .* text_encoder does not read"
    ) as told:
        warn_of_cut(pipe, family_of(pipe), [prompt, prompt])
    assert len(told) == 1
    assert lost.endswith("trees") and "trees'" in str(told[0].message)
    with pytest.warns(PictureWarning, match="; and 2 more$"):
        warn_of_cut(pipe, family_of(pipe), [f"{prompt} {number}" for number in range(5)])


def test_an_encoder_that_reads_all_is_named_beside_one_that_does_not() -> None:
    flux = tiny_families.build("flux-dev")
    with pytest.warns(PictureWarning, match=r"text_encoder does not read '.*' \(text_encoder_2 reads it all\)"):
        warn_of_cut(flux, family_of(flux), ["a sun " * 40])


def test_a_special_word_must_be_read_and_tell_subject_and_class_apart(pipe: Any) -> None:
    family, filler = family_of(pipe), "and " * 100
    check_told_apart(pipe, family, {"a v disc": "v"}, "a disc")
    with pytest.raises(InputError, match="the special word 'v' lies beyond what the text encoder reads"):
        check_told_apart(pipe, family, {f"a {filler} v disc": "v"}, f"a {filler} disc")
    with pytest.raises(InputError, match="what it reads of the class prompt"):
        check_told_apart(pipe, family, {f"a {filler} disc by day": ""}, f"a {filler} disc")
