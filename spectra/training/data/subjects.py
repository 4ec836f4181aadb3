"""What a training learns: instance pictures and prompts, from a folder or from the embedded subjects."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import combinations
from pathlib import Path

from PIL import Image

from spectra.bases.embedded.subjects import DEFAULT_SUBJECT, find_subject, instance_pictures
from spectra.errors import InputError
from spectra.training.config import TrainConfig
from spectra.training.data.pictures import fit, read_pictures
from spectra.training.data.prompts import has_special_word, pair_prompt, parse_prompt

INSTANCE_COUNT = 5
"""Instance pictures of an embedded subject."""


@dataclass(frozen=True)
class Subject:
    """Instance pictures as they were read, and how prompts name what they show."""

    name: str
    pictures: tuple[Image.Image, ...]
    prompt: str
    class_prompt: str

    def at(self, size: int) -> list[Image.Image]:
        """The pictures as squares of `size` pixels."""
        return [fit(picture, size) for picture in self.pictures]


def pictures_digest(subjects: Sequence[Subject]) -> str:
    """Content hash of all pictures, 16 hex digits, by which a resumed training knows them again."""
    digest = hashlib.sha256()
    for subject in subjects:
        for picture in subject.pictures:
            digest.update(repr(picture.size).encode() + picture.tobytes())
    return digest.hexdigest()[:16]


def fill_in_subjects(config: TrainConfig) -> TrainConfig:
    """The configuration with its prompts filled in: nothing at all means the embedded fox.

    Raises:
        InputError: an unknown embedded subject, no class prompt for prior preservation, prompts that do not tell
            subjects apart, or no pictures for a base that has no subjects of its own.
    """
    if config.subjects:
        return replace(config, subjects=_with_prompts(config))
    if config.images:
        if config.class_prompt:
            return config
        if has_special_word(config.prompt):
            return replace(config, class_prompt=parse_prompt(config.prompt).as_class.prompt)
        if config.prior_weight > 0:
            raise InputError(
                'prior preservation needs --class-prompt, such as "a dog", where the special word of --prompt has no '
                'brackets, as in "a [V1] dog" (or switch it off with --prior-weight 0)'
            )
        return config
    if config.base:
        raise InputError("--base needs --images DIR and --prompt: the embedded subjects are for the embedded base")
    known = find_subject(config.subject or DEFAULT_SUBJECT)
    return replace(
        config,
        subject=known.name,
        prompt=config.prompt or known.prompt,
        class_prompt=config.class_prompt or known.class_prompt,
    )


def read_subjects(config: TrainConfig) -> tuple[Subject, ...]:
    """The subjects of a configuration whose prompts are filled in, every picture readable.

    Raises:
        PictureError: no pictures, or one that cannot be read.
    """
    if not config.subjects:
        return (_read(config, config.images or config.subject, config.prompt, config.class_prompt),)
    parts = [_split(each) for each in config.subjects]
    return tuple(_read(config, place, prompt, parse_prompt(prompt).as_class.prompt) for place, prompt in parts)


def pair_prompts(config: TrainConfig, subjects: Sequence[Subject]) -> list[str]:
    """A prompt for every two of several subjects, by the first template of collages."""
    parsed = [parse_prompt(subject.prompt) for subject in subjects] if len(subjects) > 1 else []
    return [pair_prompt(config.collage_prompts[0], left, right) for left, right in combinations(parsed, 2)]


def _read(config: TrainConfig, place: str, prompt: str, class_prompt: str) -> Subject:
    """The subject whose pictures lie in the folder `place`, or the embedded one of that name."""
    if _is_embedded(config, place):
        known = find_subject(place)
        pictures = instance_pictures(known, count=INSTANCE_COUNT, size=config.resolution or 64, seed=config.seed)
        return Subject(known.concept, tuple(pictures), prompt, class_prompt)
    path = Path(place).resolve()
    name = path.stem if path.is_file() else path.name
    return Subject(name, tuple(read_pictures(Path(place))), prompt, class_prompt)


def _split(subject: str) -> tuple[str, str]:
    """Place and prompt of a subject given as "DIR=PROMPT"; the prompt is empty where there is none."""
    place, _, prompt = subject.partition("=")
    return place.strip(), prompt.strip()


def _is_embedded(config: TrainConfig, place: str) -> bool:
    """Whether a subject is an embedded one and no folder or picture; one of several may be either."""
    return not (config.base or Path(place).exists()) if config.subjects else not config.images


def _with_prompts(config: TrainConfig) -> tuple[str, ...]:
    """The subjects, with a prompt each and a special word of its own in it."""
    filled: list[str] = []
    words: list[str] = []
    for number, (place, prompt) in enumerate(map(_split, config.subjects), 1):
        if _is_embedded(config, place):
            known = find_subject(place)
            place, prompt = known.name, prompt or known.prompt.replace("[V1]", f"[V{number}]")
        if not prompt:
            raise InputError(f'subject {place}: needs a prompt, as in {place}="a photo of a [V{number}] dog"')
        word = parse_prompt(prompt).word
        if word in words:
            raise InputError(f"subjects: {word} is the special word of two of them; give each its own")
        words.append(word)
        filled.append(f"{place}={prompt}")
    return tuple(filled)
