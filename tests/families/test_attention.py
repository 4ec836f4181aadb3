"""Maps of cross-attention: what they hold, and that reading them changes nothing."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from tiny_base import build

from spectra.errors import InputError, TargetError
from spectra.families.attention import AttentionMaps, Word, word_tokens


@pytest.fixture
def unet() -> Any:
    """Of a tiny pipeline: four heads of eight channels, in four layers."""
    return build().unet.eval().requires_grad_(False)


def asked(unet: Any, words: list[Word], **more: Any) -> tuple[torch.Tensor, list[list[torch.Tensor]]]:
    """What the model answers, and the maps."""
    torch.manual_seed(0)
    noisy, text = torch.randn(3, 4, 8, 8), torch.randn(3, 6, 24)
    maps = AttentionMaps(unet, "attn2", **more)
    try:
        maps.request(words)
        answer = unet(noisy, torch.tensor([1, 500, 999]), text).sample
        return answer, maps.collect()
    finally:
        maps.close()


def test_the_output_is_the_model_s_own_bit_for_bit(unet: Any) -> None:
    own = asked(unet, [])[0]
    processors = dict(unet.attn_processors)
    answer, maps = asked(unet, [Word(0, (1,), 0), Word(2, (3, 4), 1)])
    assert torch.equal(answer, own)
    assert unet.attn_processors == processors
    assert len(maps) > 1 and all(len(layer) == 2 for layer in maps)


def test_maps_are_those_of_the_plain_processor(unet: Any) -> None:
    """Against diffusers' own processor that computes them openly, with probabilities caught on the way out."""
    from diffusers.models.attention_processor import Attention, AttnProcessor

    words = [Word(2, (3, 4), 1), Word(0, (0,), 0), Word(0, (5,), 1)]
    _, maps = asked(unet, words)
    expected: list[torch.Tensor] = []
    scores = Attention.get_attention_scores

    def caught(self: Any, query: Any, key: Any, mask: Any = None) -> Any:
        found = scores(self, query, key, mask)
        if self.is_cross_attention:
            expected.append(found.unflatten(0, (3, -1)))
        return found

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Attention, "get_attention_scores", caught)
        unet.set_attn_processor(AttnProcessor())
        asked(unet, [])
    assert len(expected) == len(maps)
    for layer, whole in zip(maps, expected, strict=True):
        torch.testing.assert_close(whole.sum(-1), torch.ones(whole.shape[:-1]))
        for word, found in zip(words, layer, strict=True):
            torch.testing.assert_close(found, whole[word.sample][..., list(word.tokens)], rtol=1e-5, atol=1e-6)


def test_masked_tokens_are_attended_to_nowhere(unet: Any) -> None:
    maps = AttentionMaps(unet, "attn2")
    maps.request([Word(1, (0, 5), 0)])
    mask = torch.tensor([[1, 1, 1, 1, 1, 1], [1, 1, 1, 0, 0, 0]])
    unet(torch.randn(2, 4, 8, 8), 5, torch.randn(2, 6, 24), encoder_attention_mask=mask)
    for (attention,) in maps.collect():
        assert attention[..., 1].max() == 0 < attention[..., 0].min()
    maps.close()


def test_nothing_is_kept_that_nobody_asked_for(unet: Any) -> None:
    assert asked(unet, [])[1] == []
    maps = AttentionMaps(unet, "attn2")
    maps.request([Word(0, (1,), 0)])
    text = torch.randn(1, 6, 24)
    unet(torch.randn(1, 4, 8, 8), 5, text)
    kept = maps.collect()
    unet(torch.randn(1, 4, 8, 8), 5, text)  # as in a backward pass with checkpointing
    assert maps.collect() == [] != kept
    maps.close()


def test_layers_are_chosen_by_patterns(unet: Any) -> None:
    every = asked(unet, [Word(0, (1,), 0)])[1]
    up = asked(unet, [Word(0, (1,), 0)], layers="up_blocks.*, mid_block.*")[1]
    assert 0 < len(up) < len(every)
    with pytest.raises(TargetError, match=r"no cross-attention layer matches 'down\.\*'; there are"):
        AttentionMaps(unet, "attn2", "*,down.*")


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("checkpointing", [False, True])
def test_gradients_pass_through_maps(dtype: torch.dtype, checkpointing: bool) -> None:
    """Against finite differences in float64, and with checkpointing, which computes twice."""

    def gradient(kind: torch.dtype, checkpointed: bool) -> torch.Tensor:
        pipe = build()
        unet = pipe.unet.requires_grad_(False).to(kind).train()
        if checkpointed:
            unet.enable_gradient_checkpointing()
        torch.manual_seed(1)
        noisy = torch.randn(2, 4, 8, 8, dtype=torch.float64).to(kind)
        text = torch.randn(2, 6, 24, dtype=torch.float64).to(kind).requires_grad_()
        maps = AttentionMaps(unet, "attn2")
        maps.request([Word(0, (2,), 0), Word(1, (4, 5), 1)])
        answer = unet(noisy, torch.tensor([1, 500]), text).sample
        loss = sum((m.float().square().sum() for layer in maps.collect() for m in layer), answer.float().mean())
        loss.backward()
        maps.close()
        assert text.grad is not None
        return text.grad.double()

    exact = gradient(torch.float64, False)
    found = gradient(dtype, checkpointing)
    error = (found - exact).norm() / exact.norm()
    assert exact.norm() > 0.01
    assert error < {torch.float32: 1e-5, torch.bfloat16: 0.05}[dtype]


def test_a_word_is_found_among_the_tokens() -> None:
    from spectra.bases.pipeline import load_pipeline

    tokenizer = load_pipeline().tokenizer
    prompt = "a [V1] fried egg on the left and a [V2] wolf on the right"
    ids = tokenizer(prompt).input_ids
    for word in ("[V1]", "[V2]"):
        (place,) = word_tokens(tokenizer, prompt, word)
        assert [ids[place]] == tokenizer(word).input_ids[1:-1]
    with pytest.raises(InputError, match="has no word"):
        word_tokens(tokenizer, prompt, "[V3]")
    with pytest.raises(InputError, match="longer than the text encoder reads"):
        word_tokens(tokenizer, "a fox and " * 10 + "a [V1] fox", "[V1]")


def test_a_word_of_several_tokens_is_found() -> None:
    tokenizer = build().tokenizer
    tokens = word_tokens(tokenizer, "a [vx] c", "[vx]")
    assert [tokenizer("a [vx] c").input_ids[n] for n in tokens] == tokenizer("[vx]").input_ids[1:-1]
    assert len(tokens) > 1
