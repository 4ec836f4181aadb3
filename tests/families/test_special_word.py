"""Which rows of the token embeddings the special word looks up."""

from __future__ import annotations

from typing import Any

import pytest
import tiny_base
import tiny_parts
import tiny_sdxl
import torch

from spectra.bases.pipeline import load_pipeline
from spectra.errors import BaseError, InputError
from spectra.families.special_word import special_word

CLIP = "text_encoder.embeddings.token_embedding"


@pytest.fixture(scope="module")
def embedded() -> Any:
    return load_pipeline("")


def rows(encoder: Any, tokenizer: Any, prompt: str) -> list[int]:
    """The rows of an encoder's token embedding that get a gradient when it reads a prompt, in ascending order."""
    table = encoder.get_input_embeddings().weight
    table.requires_grad_(True)
    encoder(tokenizer(prompt, return_tensors="pt").input_ids).last_hidden_state.sum().backward()
    looked_up = table.grad.abs().sum(1).nonzero().flatten().tolist()
    table.grad = None
    table.requires_grad_(False)
    return looked_up


@pytest.mark.parametrize("word", ["[V1]", "sks", "日"])
def test_the_word_s_rows_are_those_that_the_instance_prompt_looks_up_beyond_the_class_prompt(
    embedded: Any, word: str
) -> None:
    prompt, class_prompt = f"a drawing of a {word} fox", "a drawing of a fox"
    found = special_word(embedded, {prompt: word}, [class_prompt])
    assert found.text == word
    encoder, tokenizer = embedded.text_encoder, embedded.tokenizer
    beyond = set(rows(encoder, tokenizer, prompt)) - set(rows(encoder, tokenizer, class_prompt))
    assert {name: set(ids) for name, ids in found.ids.items()} == {CLIP: beyond}
    assert len(found.ids[CLIP]) == len(beyond)


def test_several_subjects_have_several_words(embedded: Any) -> None:
    prompts = {"a drawing of a [V1] fox": "[V1]", "a drawing of a [V2] wolf": "[V2]"}
    found = special_word(embedded, prompts, ["a drawing of a fox", "a drawing of a wolf"])
    assert found.text == "[V1], [V2]"
    assert embedded.tokenizer.convert_ids_to_tokens(list(found.ids[CLIP])) == ["[v1]", "[v2]"]


def test_a_token_that_occurs_twice_has_one_vector() -> None:
    pipe = tiny_base.build()
    found = special_word(pipe, {"a zzqq sun": "zzqq"}, ["a sun"])
    assert pipe.tokenizer.convert_ids_to_tokens(list(found.ids[CLIP])) == ["z", "q", "q</w>"]


def test_every_text_encoder_that_is_trained_has_its_own_rows() -> None:
    pipe = tiny_sdxl.build()
    words, class_prompts = {"a z sun": "z"}, ["a sun"]
    both = special_word(pipe, words, class_prompts).ids
    assert list(both) == [CLIP, "text_encoder_2.embeddings.token_embedding"]
    assert set(both.values()) == {tuple(pipe.tokenizer.convert_tokens_to_ids(["z</w>"]))}
    assert special_word(pipe, words, class_prompts, ["text_encoder"]).ids == {CLIP: both[CLIP]}


def test_t5_has_one_shared_table_and_no_mark_of_beginning() -> None:
    from tokenizers import Tokenizer
    from tokenizers.models import WordLevel
    from tokenizers.pre_tokenizers import Whitespace
    from tokenizers.processors import TemplateProcessing
    from transformers import PreTrainedTokenizerFast, T5Config, T5EncoderModel

    plain = Tokenizer(WordLevel({"<pad>": 0, "</s>": 1, "<unk>": 2, "a": 3, "dog": 4, "sks": 5}, unk_token="<unk>"))
    plain.pre_tokenizer = Whitespace()
    plain.post_processor = TemplateProcessing(single="$A </s>", special_tokens=[("</s>", 1)])
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=plain, eos_token="</s>", unk_token="<unk>", pad_token="<pad>", model_max_length=8
    )
    torch.manual_seed(0)
    t5 = T5EncoderModel(T5Config(vocab_size=8, d_model=16, d_kv=4, d_ff=24, num_layers=1, num_heads=2))
    pipe = {"text_encoder_2": t5, "tokenizer_2": tokenizer}
    assert special_word(pipe, {"a sks dog": "sks"}, ["a dog"]).ids == {"text_encoder_2.shared": (5,)}
    with pytest.raises(InputError, match=r"special word 'ohwx': the base's tokenizer does not know all of it"):
        special_word(pipe, {"a ohwx dog": "ohwx"}, ["a dog"])


@pytest.mark.parametrize(
    ("words", "class_prompt", "message"),
    [
        ({"a sks fox": "sks"}, "a fox s", r"special word 'sks': its token 's</w>' is in the class prompt 'a fox s'"),
        ({"a [V1]. fox": "[V1]."}, "a fox.", r"its token '\.</w>' is in the class prompt 'a fox\.', too"),
        ({"a fox " * 12 + "sks": "sks"}, "a fox", r"'sks' is not read as a word; .* encoder reads \(24 tokens"),
        ({"a xsksx fox": "sks"}, "a fox", r"prompt 'a xsksx fox': 'sks' is not read as a word; put blanks around it"),
    ],
)
def test_words_that_cannot_be_learnt_alone_are_refused(
    embedded: Any, words: dict[str, str], class_prompt: str, message: str
) -> None:
    with pytest.raises(InputError, match=message):
        special_word(embedded, words, [class_prompt])


def test_a_word_that_the_tokenizer_does_not_know_is_refused() -> None:
    with pytest.raises(InputError, match=r"special word '\[V1\]': the base's tokenizer does not know all of it"):
        special_word(tiny_base.build(), {"a [V1] sun": "[V1]"}, ["a sun"])


def test_a_base_without_text_encoder_has_no_word() -> None:
    with pytest.raises(BaseError, match="needs a text encoder with a tokenizer"):
        special_word({"unet": tiny_base.build().unet}, {"a z sun": "z"}, ["a sun"])


def byte_level_tokenizer() -> Any:
    """One of Qwen's kind: a blank belongs to the word behind it."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    letters = [*"abcdefghijklmnopqrstuvwxyz", "\u0120", "\u0120s", "\u0120a", "<|endoftext|>"]
    vocabulary = {token: number for number, token in enumerate(letters)}
    made = Tokenizer(models.BPE(vocabulary, merges=[("\u0120", "s"), ("\u0120", "a")]))
    made.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    made.decoder = decoders.ByteLevel()
    return PreTrainedTokenizerFast(tokenizer_object=made, eos_token="<|endoftext|>", model_max_length=32)


def test_a_word_behind_a_blank_is_found_where_the_blank_belongs_to_it() -> None:
    tokenizer = byte_level_tokenizer()
    parts = {"text_encoder": tiny_parts.clip(12, projected=False), "tokenizer": tokenizer}
    [behind] = special_word(parts, {"a skq fox": "skq"}, ["a fox"]).ids.values()
    assert tokenizer.convert_ids_to_tokens(list(behind)) == ["\u0120s", "k", "q"]
    [first] = special_word(parts, {"skq": "skq"}, ["a fox"]).ids.values()
    assert tokenizer.convert_ids_to_tokens(list(first)) == ["s", "k", "q"]
