"""How much of a prompt each text encoder reads: what is beyond its length is cut off, by tokens, without a word."""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Mapping
from typing import Any

from spectra.bases.tokenizers import text_tokenizer
from spectra.errors import InputError, PictureWarning
from spectra.families.family import Family

MOST_NAMED = 3
"""Prompts that a warning names; it counts the others."""


def read_parts(pipe: Any, family: Family, prompt: str) -> dict[str, str]:
    """The part of a prompt that each of the family's text encoders reads, by the encoder's component name."""
    found = {}
    for encoder in family.text_encoders:
        part = pipe.components.get(encoder.replace("text_encoder", "tokenizer"))
        if pipe.components.get(encoder) is not None and part is not None:
            text, most = family.reading(pipe, encoder, prompt)
            found[encoder] = prompt[: _end(text_tokenizer(part), text, most, prompt)]
    return found


def _end(tokenizer: Any, text: str, most: int, prompt: str) -> int:
    """Where the prompt ends that is read of `text`, of which it is a part, in `most` tokens; its length for all."""
    if len(tokenizer(text, verbose=False).input_ids) <= most:
        return len(prompt)
    offsets = tokenizer(text, truncation=True, max_length=most, return_offsets_mapping=True)["offset_mapping"]
    read = max((end for _, end in offsets), default=0) - max(text.find(prompt), 0)
    return len(prompt) if not prompt[max(read, 0) :].strip() else max(read, 0)


def warn_of_cut(pipe: Any, family: Family, prompts: Iterable[str]) -> None:
    """Name the prompts that an encoder does not read to their end, and what is cut off, by a PictureWarning."""
    told = []
    for prompt in dict.fromkeys(prompts):
        parts = read_parts(pipe, family, prompt)
        cut = {encoder: prompt[len(part) :].strip() for encoder, part in parts.items() if len(part) < len(prompt)}
        whole = [encoder for encoder in parts if encoder not in cut]
        for lost in dict.fromkeys(cut.values()):
            encoders = " and ".join(encoder for encoder, own in cut.items() if own == lost)
            others = f" ({' and '.join(whole)} reads it all)" if whole else ""
            told.append(f"{shortened(prompt)}: {encoders} does not read {shortened(lost)}{others}")
    if told:
        more = f"; and {len(told) - MOST_NAMED} more" if len(told) > MOST_NAMED else ""
        warnings.warn(
            f"prompts longer than the base reads: {'; '.join(told[:MOST_NAMED])}{more}", PictureWarning, stacklevel=2
        )


def check_told_apart(pipe: Any, family: Family, words: Mapping[str, str], class_prompt: str) -> None:
    """Check that the base can tell a subject's prompts from its class prompt, by its special word.

    Args:
        words: the special word of each prompt; empty where it has none.

    Raises:
        InputError: no text encoder reads the word, or what it reads of a prompt is the class prompt.
    """
    classes = read_parts(pipe, family, class_prompt) if class_prompt else {}
    for prompt, word in words.items():
        parts = read_parts(pipe, family, prompt)
        if parts and word and word in prompt and not any(word in part for part in parts.values()):
            raise InputError(
                f"prompt {shortened(prompt)}: the special word {word!r} lies beyond what the text encoder reads, so "
                "that nothing is learnt for it; move it to the beginning"
            )
        if classes and prompt != class_prompt and all(part == classes.get(each) for each, part in parts.items()):
            raise InputError(
                f"prompt {shortened(prompt)}: what the text encoder reads of it is what it reads of the class prompt; "
                "let the two differ at the beginning"
            )


def shortened(text: str) -> str:
    """A text in quotation marks for a message, its middle left out where it is long."""
    return repr(text if len(text) <= 90 else f"{text[:50]} ... {text[-30:]}")
