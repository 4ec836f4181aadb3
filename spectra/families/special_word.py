"""The special word of instance prompts, such as "[V1]" or "sks": which rows of the token embeddings it looks up."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from spectra.bases.tokenizers import text_tokenizer
from spectra.errors import BaseError, InputError
from spectra.families.target_modules import targets
from spectra.naming.target_subsets import TEXT_ENCODERS


@dataclass(frozen=True)
class SpecialWord:
    """The special word of one subject, or those of several.

    Attributes:
        text: as it stands in prompts; several words have commas between them.
        ids: by the name of each token embedding's weight, the tokens that the text is read as, each once.
    """

    text: str
    ids: Mapping[str, tuple[int, ...]]


def special_word(
    pipe: Any, words: Mapping[str, str], class_prompts: Iterable[str], encoders: Iterable[str] = TEXT_ENCODERS
) -> SpecialWord:
    """The special words of a training's prompts, as each text encoder's tokenizer reads them.

        special_word(pipe, {"a photo of a sks dog": "sks"}, ["a photo of a dog"]).ids
        # {"text_encoder.embeddings.token_embedding": (48136,)}

    Args:
        pipe: a pipeline, or a mapping of its components, tokenizers included.
        words: the special word of each instance prompt (`training.data.prompts.rare_word` finds it).
        class_prompts: which must not be read by a token of these words.
        encoders: components that may learn a vector, such as `DenoiseFamily.text_encoders`; others are left out.

    Raises:
        InputError: a token of a word that the tokenizer does not know, or that a class prompt is read by as well; a
            prompt of which the word is not read.
        BaseError: none of the encoders is there with a tokenizer.
    """
    class_prompts = list(class_prompts)
    ids: dict[str, tuple[int, ...]] = {}
    for name, tokenizer in token_embeddings(pipe, encoders):
        of_class = {token: prompt for prompt in class_prompts for token in _read(tokenizer, prompt)}
        own: list[int] = []
        for prompt, word in words.items():
            read = _read(tokenizer, prompt)
            # Byte-pair tokenizers such as Qwen's read a word behind a blank by other tokens than at the beginning.
            readings = [word_tokens(tokenizer, text) for text in (word, f" {word}")]
            tokens = next((each for each in readings if _within(each, read)), None)
            if tokens is None:
                raise InputError(
                    f"prompt {prompt!r}: {word!r} is not read as a word; put blanks around it, and no more before it "
                    f"than the text encoder reads ({tokenizer.model_max_length} tokens)"
                )
            # T5's may put a token that only marks the beginning before a word: any word has it.
            tokens = [token for token in tokens if tokenizer.decode([token]).strip()]
            shared = [token for token in tokens if token in of_class]
            if shared:
                raise InputError(
                    f"special word {word!r}: its token {tokenizer.convert_ids_to_tokens(shared[0])!r} is in the class "
                    f"prompt {of_class[shared[0]]!r}, too, which would change with it; choose a rarer word"
                )
            own += tokens
        ids[name] = tuple(dict.fromkeys(own))
    if not ids:
        raise BaseError("a vector for the special word needs a text encoder with a tokenizer, and this base has none")
    return SpecialWord(", ".join(dict.fromkeys(words.values())), ids)


def word_tokens(tokenizer: Any, word: str) -> list[int]:
    """The tokens that a word is read as, at least one.

    Raises:
        InputError: the tokenizer does not know a part of it.
    """
    tokens: list[int] = tokenizer(word, add_special_tokens=False).input_ids
    if not tokens or tokenizer.unk_token_id in tokens:
        raise InputError(f"special word {word!r}: the base's tokenizer does not know all of it; choose another word")
    return tokens


def token_embeddings(pipe: Any, encoders: Iterable[str] = TEXT_ENCODERS) -> Iterator[tuple[str, Any]]:
    """The name of each token embedding's weight, and the tokenizer of its text encoder."""
    parts: Mapping[str, Any] = pipe if isinstance(pipe, Mapping) else pipe.components
    for encoder in encoders:
        model, tokenizer = parts.get(encoder), parts.get(encoder.replace("text_encoder", "tokenizer"))
        if model is not None and tokenizer is not None:
            table = model.get_input_embeddings()
            [name] = [each.name for each in targets({encoder: model}, f"{encoder}.*") if table in each.modules]
            yield name, text_tokenizer(tokenizer)


def _within(tokens: list[int], read: list[int]) -> bool:
    """Whether the tokens stand in a prompt, one after another."""
    return any(read[start : start + len(tokens)] == tokens for start in range(len(read)))


def _read(tokenizer: Any, prompt: str) -> list[int]:
    """The tokens of a prompt that the text encoder reads, without the marks of beginning and end."""
    tokens: list[int] = tokenizer(prompt, truncation=True, max_length=tokenizer.model_max_length).input_ids
    return [token for token in tokens if token not in (tokenizer.bos_token_id, tokenizer.eos_token_id)]
