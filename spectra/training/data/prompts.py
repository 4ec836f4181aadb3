"""Prompts of subjects: their special words, their class prompts, and two subjects in one picture.

The special word of a prompt is the one in brackets, as the paper writes it: "photo of a [V1] fox". The brackets are
part of the word; the text encoder reads the prompt as it stands. A single subject may do without brackets: "a sks dog"
beside its class prompt "a dog".
"""

from __future__ import annotations

import re
import string
from dataclasses import dataclass

from spectra.errors import InputError

_WORD = re.compile(r"(?<!\S)\[[^\s\[\]]+\](?!\S)")
_NOUN = re.compile(r"(?:\b(?:an?|the|my)\s+)?\S+$", re.IGNORECASE)
_PLACES = ("before", "left", "right")
_ARTICLES = ("a", "an", "the")  # they change with the word that follows: "a sks owl", "an owl"


@dataclass(frozen=True)
class SubjectPrompt:
    """A prompt taken apart: "photo of " before, and "a [V1] fox", which names the subject by its special word."""

    before: str
    noun: str
    word: str

    @property
    def prompt(self) -> str:
        """The whole prompt."""
        return self.before + self.noun

    @property
    def as_class(self) -> SubjectPrompt:
        """The class alone: without the special word, and with the article that then fits."""
        noun = " ".join(self.noun.replace(self.word, " ", 1).split())
        noun = re.sub(r"^a(?= [aeio])", "an", noun)  # "hour" and "unicorn" keep what they have
        return SubjectPrompt(self.before, re.sub(r"^an(?= [^aeiouh])", "a", noun), "")


def has_special_word(prompt: str) -> bool:
    """Whether just one word of a prompt is in brackets."""
    return len(_WORD.findall(prompt)) == 1


def parse_prompt(prompt: str) -> SubjectPrompt:
    """Take a subject's prompt apart.

    Raises:
        InputError: not one word in brackets.
    """
    words = _WORD.findall(prompt)
    if len(words) != 1:
        raise InputError(
            f'prompt {prompt!r}: expected one word in brackets that names the subject, as in "photo of a [V1] fox", '
            f"got {len(words)}"
        )
    start = prompt.index(words[0])
    noun = _NOUN.search(prompt[: start + len(words[0])])
    first = noun.start() if noun else start
    return SubjectPrompt(prompt[:first], prompt[first:], words[0])


def rare_word(prompt: str, class_prompt: str) -> str:
    """The special word of a prompt: the one in brackets, or else the one that its class prompt has not.

    Raises:
        InputError: there is none, or more than one.
    """
    words: list[str] = _WORD.findall(prompt)
    if not words and class_prompt:
        known = {*_ARTICLES, *(_bare(word).lower() for word in class_prompt.split())}
        words = list(dict.fromkeys(_bare(word) for word in prompt.split() if _bare(word).lower() not in known))
    if len(words) != 1:
        raise InputError(
            f"prompt {prompt!r}: expected one special word, which the class prompt {class_prompt!r} has not, got "
            f"{' and '.join(map(repr, words)) or 'none'}; let the two differ in it alone, or put it in brackets, as in "
            '"a photo of a [V1] dog"'
        )
    return words[0]


def _bare(word: str) -> str:
    """A word without the punctuation around it; brackets stay."""
    return word.strip(".,;:!?\"'")


def follow_prompt(template: str, prompt: str) -> str:
    """A prompt that a subject must still follow, by a template with the place {prompt}.

    Raises:
        InputError: the template lacks that place, or has others.
    """
    try:
        filled = _filled(template, prompt=prompt)
    except (AttributeError, KeyError, ValueError, IndexError):
        filled = ""
    if "{prompt}" not in template or not filled:
        raise InputError(
            f'follow prompt {template!r}: expected the place {{prompt}} and no other, as in "{{prompt}} on a beach"'
        )
    return filled


def pair_prompt(template: str, left: SubjectPrompt, right: SubjectPrompt) -> str:
    """The prompt of a picture of two subjects, by a template with places {before}, {left} and {right}."""
    return _filled(template, before=left.before, left=left.noun, right=right.noun)


def _filled(template: str, **places: str) -> str:
    """A template with its places filled, as they are: a width such as {left:>999999999} takes all memory.

    Raises:
        ValueError: a place with a format or an attribute, or braces that do not match.
        KeyError: a place that is not known.
    """
    if any(
        form or kind or (field and not field.isalpha()) for _, field, form, kind in string.Formatter().parse(template)
    ):
        raise ValueError("a place with a format")
    return template.format(**places)


def check_template(template: str) -> None:
    """Check that a template names both subjects.

    Raises:
        InputError: it lacks one, or has places that are not known.
    """
    try:
        filled = _filled(template, **dict.fromkeys(_PLACES, "x"))
    except (AttributeError, KeyError, ValueError, IndexError):
        filled = ""
    if not filled or not all(f"{{{place}}}" in template for place in ("left", "right")):
        raise InputError(
            f"collage prompt {template!r}: expected places {{left}} and {{right}}, and perhaps {{before}}, as in "
            '"{before}{left} on the left and {right} on the right"'
        )
