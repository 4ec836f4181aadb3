"""Words of prompts that a shift or the base does not know, and special words of shifts that no prompt has."""

from __future__ import annotations

import re
import warnings
from collections.abc import Iterable, Sequence
from typing import Any

from spectra.bases.embedded import is_embedded
from spectra.errors import PictureWarning
from spectra.shift.shift import SpectralShift

_BRACKETS = re.compile(r"\[[^\s\[\]]+\]")


def special_words(shift: SpectralShift) -> list[str]:
    """The special words of a shift: those that have vectors, and those in brackets of the prompts it learnt by."""
    words = {word for each in shift.words.values() for word in each.text.split(", ") if word}
    settings = shift.metadata.settings
    subjects = settings.get("subjects")
    for prompt in (settings.get("prompt"), *(subjects if isinstance(subjects, list) else ())):
        words.update(_BRACKETS.findall(prompt) if isinstance(prompt, str) else ())
    return sorted(words)


def tell_unused_words(name: str, shift: SpectralShift, prompts: Sequence[str]) -> None:
    """Warn of special words of a shift that no prompt has, and of those in prompts that may stand there in error."""
    known = special_words(shift)
    unused = [word for word in known if not any(has_word(prompt, word) for prompt in prompts)]
    others = {word for prompt in prompts for word in _BRACKETS.findall(prompt)} - set(known)
    instead = f"; {' and '.join(sorted(others))} in them is no word of it" if others else ""
    for word in unused:
        warnings.warn(
            f"the shift {name} has learnt {word!r}, and no prompt has it{instead}", PictureWarning, stacklevel=3
        )


def has_word(prompt: str, word: str) -> bool:
    """Whether a word stands in a prompt by itself, in capitals or not."""
    return re.search(rf"(?<!\w){re.escape(word)}(?!\w)", prompt, re.IGNORECASE) is not None


def unknown_words(tokenizer: Any, prompts: Iterable[str]) -> list[str]:
    """The words of prompts that a tokenizer knows only in pieces, without special words in brackets."""
    words = {word.lower() for prompt in prompts for word in re.findall(r"[^\W\d_]{2,}", _BRACKETS.sub(" ", prompt))}
    return sorted(word for word in words if len(tokenizer.tokenize(word)) > 1)


def tell_unknown_words(pipe: Any, prompts: Iterable[str], special: Iterable[str] = ()) -> None:
    """Warn of words that the embedded base has not learnt, but for special ones; a larger base has a use for all."""
    if not is_embedded(pipe):
        return
    left_out = {word.lower() for word in special}
    if unknown := [word for word in unknown_words(pipe.tokenizer, prompts) if word not in left_out]:
        warnings.warn(
            f"the embedded base has not learnt {', '.join(unknown)}, and reads letters: see spectra subjects for what "
            "it can draw",
            PictureWarning,
            stacklevel=3,
        )
