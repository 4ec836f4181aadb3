"""A small byte-pair tokenizer in CLIP's form, trained on the captions' words."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Iterable
from pathlib import Path

from tokenizers import AddedToken, Tokenizer, normalizers, pre_tokenizers
from tokenizers.models import BPE
from tokenizers.trainers import BpeTrainer
from transformers import CLIPTokenizer

LENGTH = 24


def train_tokenizer(texts: Iterable[str], spare: Iterable[str], size: int = 1600) -> CLIPTokenizer:
    """Trains the merges; `spare` tokens, one id each, are matched whatever their case."""
    tokenizer = Tokenizer(BPE(end_of_word_suffix="</w>", unk_token="<|endoftext|>"))
    tokenizer.normalizer = normalizers.Sequence([normalizers.NFC(), normalizers.Lowercase()])
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.WhitespaceSplit(),
            pre_tokenizers.Punctuation(),
            pre_tokenizers.ByteLevel(add_prefix_space=False),
        ]
    )
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    trainer = BpeTrainer(
        vocab_size=size,
        initial_alphabet=alphabet,
        end_of_word_suffix="</w>",
        min_frequency=1,
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts, trainer)
    model = json.loads(tokenizer.to_str())["model"]
    merges = [tuple(pair) for pair in model["merges"]]
    # CLIP's order: the bytes, the bytes that end a word, the merges, then the two special tokens.
    tokens = alphabet + [f"{byte}</w>" for byte in alphabet] + ["".join(pair) for pair in merges]
    tokens = list(dict.fromkeys(tokens)) + ["<|startoftext|>", "<|endoftext|>"]
    vocab = {token: i for i, token in enumerate(tokens)}
    clip = CLIPTokenizer(vocab=vocab, merges=merges, model_max_length=LENGTH)
    clip.add_tokens([AddedToken(token, normalized=True) for token in spare])
    return clip


def check_tokenizer(tokenizer: CLIPTokenizer) -> None:
    """Saves and loads, and checks that spare tokens stay whole: raises ValueError otherwise."""
    with tempfile.TemporaryDirectory() as folder:
        tokenizer.save_pretrained(folder)
        loaded = CLIPTokenizer.from_pretrained(folder)
        names = {path.name for path in Path(folder).iterdir()}
    for text in ("a drawing of a [V1] fox", "a drawing of a [v1] fox"):
        ids = loaded(text).input_ids
        if len(ids) != 8 or ids != tokenizer(text).input_ids:
            raise ValueError(f"{text!r} should be 8 tokens, got {loaded.convert_ids_to_tokens(ids)} ({names})")
