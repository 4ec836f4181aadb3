"""Special words in use: together, at a scale, and another one for each picture of a batch."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import tiny_base
import torch
from small_models import random_shift

import spectra
from spectra.families.special_word import special_word
from spectra.shift.shift import SpectralShift
from spectra.shift.word_vectors import WordVectors

CLIP = "text_encoder.embeddings.token_embedding"


@pytest.fixture(scope="module")
def plain() -> Any:
    return tiny_base.build()


@pytest.fixture(scope="module")
def shifts(plain: Any) -> dict[str, SpectralShift]:
    """Two of vectors alone, by their words, which have a token in common."""
    found = {}
    for seed, word in enumerate(("zqx", "qxv")):
        ids = special_word(plain, {f"a {word} sun": word}, ["a sun"]).ids[CLIP]
        vectors = np.random.default_rng(seed).normal(0, 0.5, (len(ids), 24)).astype(np.float32)
        shift = random_shift(plain, CLIP, seed, size=0.0)
        found[word] = SpectralShift(dict(shift), shift.metadata, words={CLIP: WordVectors(ids, vectors, word)})
    assert set(found["zqx"].words[CLIP].ids) & set(found["qxv"].words[CLIP].ids)
    return found


@pytest.fixture(scope="module")
def pipe(plain: Any, shifts: dict[str, SpectralShift]) -> Any:
    """The pipeline with both loaded."""
    for name, shift in shifts.items():
        spectra.load(plain, shift, name=name, activate=False)
    return plain


def encoded(pipe: Any, *prompts: str) -> torch.Tensor:
    """What the text encoder makes of prompts, `[prompts, tokens, dim]`."""
    embeds: torch.Tensor = pipe.encode_prompt(list(prompts), "cpu", 1, False)[0]
    return embeds.detach()


def test_several_words_at_scales_add_up(pipe: Any, shifts: dict[str, SpectralShift]) -> None:
    table = pipe.text_encoder.get_input_embeddings()
    base = table.weight.detach().clone()
    expected = base.to(torch.float64)
    scales = {"zqx": 0.5, "qxv": -2.0}
    for name, scale in scales.items():
        word = shifts[name].words[CLIP]
        expected[list(word.ids)] += scale * torch.tensor(word.vectors, dtype=torch.float64)
    spectra.activate(pipe, scales)
    assert (table.weight - expected).abs().max() < 1e-6
    spectra.activate(pipe, {})
    assert torch.equal(table.weight, base)


def test_each_picture_of_a_batch_has_its_own_word(pipe: Any) -> None:
    prompts, wanted = ("a zqx sun", "a qxv sun", "a zqx sun"), ("zqx", {"qxv": 0.5}, {})
    alone = []
    for prompt, each in zip(prompts, wanted, strict=True):
        spectra.activate(pipe, each)
        alone.append(encoded(pipe, prompt))
    spectra.activate(pipe, {})
    with spectra.per_sample(pipe, list(wanted)):
        together = encoded(pipe, *prompts)
    assert torch.allclose(together, torch.cat(alone), rtol=0, atol=1e-5)
    assert (alone[0] - alone[2]).abs().max() > 0.1
