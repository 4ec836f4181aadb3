"""What a training learns: instance pictures and prompts, from a folder or from the embedded subjects."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import combinations
from pathlib import Path

from PIL import Image

from spectra.bases.embedded.subjects import DEFAULT_SUBJECT, find_subject
from spectra.errors import InputError
from spectra.training.config import TrainConfig
from spectra.training.data.pictures import find_pictures, fit, read_picture
from spectra.training.data.prompts import pair_prompt, parse_prompt

INSTANCE_COUNT = 5


@dataclass(frozen=True)
class Subject:
    """Instance pictures as they were read, with where each came from and what the subject is called."""

    name: str
    pictures: tuple[Image.Image, ...]
    sources: tuple[str, ...]
    prompt: str
    class_prompt: str

    def at(self, size: int) -> list[Image.Image]:
        """The pictures as squares of `size` pixels."""
        return [fit(picture, size) for picture in self.pictures]


def pictures_digest(subjects: Sequence[Subject]) -> str:
    """Content hash of all pictures, 16 hex digits, by which a resumed training knows them again."""
    whole = hashlib.sha256()
    for subject in subjects:
        for picture in subject.pictures:
            whole.update(repr(picture.size).encode() + picture.tobytes())
    return whole.hexdigest()[:16]


def fill_in_subjects(config: TrainConfig) -> TrainConfig:
    """The configuration with its prompts filled in: nothing at all means the embedded fox.

    Raises:
        InputError: an unknown embedded subject, no class prompt for prior preservation, prompts that do not tell
            subjects apart, or no pictures for a base that has no subjects of its own.
    """
    if config.subjects:
        return replace(config, subjects=_told_apart(config))
    if config.images:
        if config.prior_weight > 0 and not config.class_prompt:
            raise InputError(
                'prior preservation needs --class-prompt, such as "a dog" (or switch it off with --prior-weight 0)'
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
    """The subjects that a settled configuration names, every picture readable.

    Raises:
        PictureError: no pictures, or one that cannot be read.
    """
    if not config.subjects:
        return (_read(config, config.images, config.subject, config.prompt, config.class_prompt),)
    found = []
    for place, prompt in map(_split, config.subjects):
        embedded = _is_embedded(config, place)
        class_prompt = parse_prompt(prompt).as_class.prompt
        found.append(_read(config, "" if embedded else place, place, prompt, class_prompt))
    return tuple(found)


def default_name(config: TrainConfig) -> str:
    """What the output folder of a settled configuration is called where none is given: "fox", "fox-and-wolf"."""

    def name(place: str, embedded: bool) -> str:
        return (find_subject(place).concept if embedded else _called(place)).replace(" ", "-")

    if not config.subjects:
        return name(config.images or config.subject, not config.images) or "subject"
    places = [_split(each)[0] for each in config.subjects]
    return "-and-".join(name(place, _is_embedded(config, place)) for place in places)


def pair_prompts(config: TrainConfig, subjects: Sequence[Subject]) -> list[str]:
    """A prompt for every two of several subjects, in the first wording that collages have."""
    wordings = [parse_prompt(subject.prompt) for subject in subjects] if len(subjects) > 1 else []
    return [pair_prompt(config.collage_prompts[0], left, right) for left, right in combinations(wordings, 2)]


def _read(config: TrainConfig, images: str, embedded: str, prompt: str, class_prompt: str) -> Subject:
    """One subject, from a folder of images, or else an embedded one."""
    if images:
        paths = find_pictures(Path(images))
        pictures = tuple(map(read_picture, paths))
        return Subject(_called(images), pictures, tuple(map(str, paths)), prompt, class_prompt)
    from spectra.bases.embedded.subjects import instance_pictures

    known = find_subject(embedded)
    drawn = instance_pictures(known, count=INSTANCE_COUNT, size=config.resolution or 64, seed=config.seed)
    sources = tuple(f"{known.name}-{i}" for i in range(len(drawn)))
    return Subject(known.concept, tuple(drawn), sources, prompt, class_prompt)


def _called(images: str) -> str:
    """What a folder of pictures, or one picture, is called."""
    path = Path(images).resolve()
    return path.stem if path.is_file() else path.name


def _split(subject: str) -> tuple[str, str]:
    """What was given as "DIR=PROMPT", taken apart; the prompt is empty where there is none."""
    place, _, prompt = subject.partition("=")
    return place.strip(), prompt.strip()


def _is_embedded(config: TrainConfig, place: str) -> bool:
    """Whether one of several subjects is an embedded one and not a folder."""
    return not config.base and not Path(place).is_dir()


def _told_apart(config: TrainConfig) -> tuple[str, ...]:
    """The subjects, with a prompt each and a special word of its own in it."""
    settled: list[str] = []
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
        settled.append(f"{place}={prompt}")
    return tuple(settled)
