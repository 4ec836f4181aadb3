"""Prompts as conditions: what is read of them, and that none depends on those beside it."""

from __future__ import annotations

from typing import Any

import pytest
import tiny_families
import torch
from torch import Tensor

from spectra.families.family import Condition, Family
from spectra.families.known import family_of

PROMPTS = ["a sun", "a sks sun by z" + " and a sun" * 12, "", "a sun by z"]
"""Of several lengths: Z-Image takes tokens in multiples of 32, of which the second fills more."""


def pipeline(name: str) -> tuple[Family, Any]:
    pipe = tiny_families.build(name)
    return family_of(pipe), pipe


def answers(family: Family, pipe: Any, condition: Condition, numbers: list[int]) -> Tensor:
    """The model's answers to latents and times of these numbers."""
    generator = torch.Generator().manual_seed(3)
    with torch.no_grad():
        shape = family.encode_pictures(pipe, torch.zeros(1, 3, 32, 48))[0].shape[1:]
        noisy = torch.randn(len(PROMPTS), *shape, generator=generator)[numbers]
        return family.predict(pipe, noisy, torch.tensor([100, 500, 700, 900])[numbers], condition)


@pytest.mark.parametrize("name", tiny_families.TINY)
def test_a_prompt_means_the_same_beside_longer_ones(name: str) -> None:
    family, pipe = pipeline(name)
    every = list(range(len(PROMPTS)))
    with torch.no_grad():
        alone = [family.encode(pipe, [prompt]) for prompt in PROMPTS]
        together = family.encode(pipe, list(PROMPTS))
    expected = torch.cat([answers(family, pipe, each, [number]) for number, each in enumerate(alone)])
    assert not torch.allclose(expected[:1], answers(family, pipe, alone[1], [0]), rtol=1e-3, atol=1e-4)
    for condition in (together, Condition.joined(alone)):
        torch.testing.assert_close(answers(family, pipe, condition, every), expected, rtol=1e-4, atol=1e-5)
    for order in ([0], [3, 0], [2, 1, 3]):
        picked = together.rows(torch.tensor(order))
        torch.testing.assert_close(answers(family, pipe, picked, order), expected[order], rtol=1e-4, atol=1e-5)


def test_qwen_image_reads_the_prompt_and_what_follows_it_in_its_template() -> None:
    family, pipe = pipeline("qwen-image")
    after = ["<|im_end|>", "\n", "<|im_start|>", "assistant", "\n"]
    tokens = [len(pipe.tokenizer(prompt + "".join(after)).input_ids) for prompt in PROMPTS]
    assert min(tokens) == len(after)
    with torch.no_grad():
        condition = family.encode(pipe, PROMPTS)
        assert condition.mask is not None
        assert condition.mask.sum(1).tolist() == tokens
        whole = pipe.tokenizer(pipe.prompt_template_encode.format(PROMPTS[1]), return_tensors="pt")
        states = pipe.text_encoder(**whole, output_hidden_states=True).hidden_states[-1]
    torch.testing.assert_close(condition.embeds[1], states[0, -tokens[1] :])


def test_z_image_reads_the_whole_conversation_before_the_last_layer() -> None:
    family, pipe = pipeline("z-image")
    with torch.no_grad():
        prompts = list(PROMPTS)
        condition = family.encode(pipe, prompts)
        assert prompts == PROMPTS
        for prompt, embeds in zip(PROMPTS, condition.lists(), strict=True):
            text = f"<|im_start|>user\n{prompt}<|im_end|>\n<|im_start|>assistant\n"
            ids = pipe.tokenizer(text, return_tensors="pt").input_ids
            states = pipe.text_encoder(ids, output_hidden_states=True).hidden_states
            torch.testing.assert_close(embeds, states[-2][0])
            assert not torch.allclose(embeds, states[-1][0], atol=1e-2)
