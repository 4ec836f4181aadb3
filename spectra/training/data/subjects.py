"""What a training learns: instance pictures and prompts, from a folder or from the embedded subjects."""

from __future__ import annotations

import hashlib
import warnings
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import combinations
from pathlib import Path
from typing import Any

from spectra.bases.embedded.subjects import DEFAULT_SUBJECT, find_subject, instance_pictures
from spectra.errors import InputError, PictureWarning
from spectra.generation.prompt_words import has_word
from spectra.training.config import TrainConfig
from spectra.training.data.buckets import fit_pictures
from spectra.training.data.captions import PLACE, fill_prompt
from spectra.training.data.folders import listed, read_folder
from spectra.training.data.latents import Entry
from spectra.training.data.pictures import FittedPicture, Picture
from spectra.training.data.prompts import has_special_word, pair_prompt, parse_prompt, rare_word

INSTANCE_COUNT = 5
"""Instance pictures of an embedded subject."""


@dataclass(frozen=True)
class Subject:
    """Instance pictures, and how prompts name what they show.

    Attributes:
        prompts: of each picture: the prompt, or its caption.
        prompt: by which the subject is drawn; without a picture's caption.
        passed_over: files beside the pictures of which nothing was read.
    """

    name: str
    pictures: tuple[Picture, ...]
    prompts: tuple[str, ...]
    prompt: str
    class_prompt: str
    passed_over: tuple[str, ...] = ()


def pictures_digest(subjects: Sequence[Subject]) -> str:
    """Hash of all pictures, masks, prompts and repeats, 16 hex digits, by which a resumed training knows them again."""
    seen = [
        (picture.digest, picture.repeats, prompt)
        for subject in subjects
        for picture, prompt in zip(subject.pictures, subject.prompts, strict=True)
    ]
    return hashlib.sha256(repr(seen).encode()).hexdigest()[:16]


def learnt_pictures(
    config: TrainConfig, subjects: Sequence[Subject], resolution: int, step: int
) -> list[list[FittedPicture]]:
    """Each subject's pictures in the sizes that they are learnt in, see `fit_pictures`; several have squares."""
    square = len(subjects) > 1 or config.crop == "square"  # a collage is cut into halves
    return [fit_pictures(each.pictures, resolution, step, square=square, flip=config.flip) for each in subjects]


def one_round(subject: Subject, fitted: Sequence[FittedPicture]) -> list[Entry]:
    """A round of a subject's pictures, of which those that are mirrored come after all others."""
    own = len(subject.pictures)
    return [
        Entry(number, subject.prompts[number % own])
        for number in range(len(fitted))
        for _ in range(subject.pictures[number % own].repeats)
    ]


def count_pictures(subjects: Sequence[Subject], fitted: Sequence[Sequence[FittedPicture]]) -> dict[str, Any]:
    """What is learnt of the subjects' pictures, as JSON values; `sizes` count pictures without mirrored ones."""
    pictures = [picture for subject in subjects for picture in subject.pictures]
    sizes = Counter(f"{each.size[0]} x {each.size[1]}" for own in fitted for each in own if not each.mirrored)
    return {
        "used": len(pictures),
        "captions": sum(bool(each.caption) for each in pictures),
        "masks": sum(bool(each.mask) for each in pictures),
        "round": sum(len(one_round(*each)) for each in zip(subjects, fitted, strict=True)),
        "sizes": dict(sizes),
        "passed_over": [name for subject in subjects for name in subject.passed_over],
    }


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
            return replace(config, class_prompt=parse_prompt(fill_prompt(config.prompt, "")).as_class.prompt)
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
    parts = [split_subject(each) for each in config.subjects]
    return tuple(_read(config, place, prompt, parse_prompt(prompt).as_class.prompt) for place, prompt in parts)


def pair_prompts(config: TrainConfig, subjects: Sequence[Subject]) -> list[str]:
    """A prompt for every two of several subjects, by the first template of collages."""
    parsed = [parse_prompt(subject.prompt) for subject in subjects] if len(subjects) > 1 else []
    return [pair_prompt(config.collage_prompts[0], left, right) for left, right in combinations(parsed, 2)]


def _read(config: TrainConfig, place: str, prompt: str, class_prompt: str) -> Subject:
    """The subject whose pictures lie in the folder `place`, or the embedded one of that name."""
    if _is_embedded(config, place):
        known = find_subject(place)
        drawn = instance_pictures(known, count=INSTANCE_COUNT, size=config.resolution or 64, seed=config.seed)
        pictures = tuple(map(Picture.checked, drawn))
        return Subject(known.concept, pictures, (prompt,) * len(pictures), prompt, class_prompt)
    path = Path(place).resolve()
    name = path.stem if path.is_file() else path.name
    found = read_folder(Path(place), captions=config.captions, repeats=config.repeats, mask=config.mask)
    prompts = tuple(fill_prompt(prompt, each.caption) for each in found.pictures)
    for picture, own in zip(found.pictures, prompts, strict=True):
        if not own:
            raise InputError(f"{picture.name}: has no caption, and prompt {prompt!r} is nothing without one; add words")
    drawn_by = fill_prompt(prompt, "") or prompts[0]
    _check_words(prompts, prompt, drawn_by, class_prompt, trained=config.word)
    return Subject(name, found.pictures, prompts, drawn_by, class_prompt, found.passed_over)


def _check_words(prompts: Sequence[str], given: str, prompt: str, class_prompt: str, *, trained: bool) -> None:
    """Check that captions have the special word of the prompt, which is learnt from them or not at all.

    Raises:
        InputError: none of the pictures' prompts has it.
    """
    if trained:
        rare_word(prompt, class_prompt)
    word = special_word_of(Subject("", (), (), prompt, class_prompt))
    if not word:
        return
    without = [own for own in prompts if not has_word(own, word)]
    advice = (
        f'put it into captions, or captions into the prompt: --prompt "{given.replace(PLACE, "").strip(" ,")}, {PLACE}"'
    )
    if len(without) == len(prompts):
        raise InputError(f"no caption has the special word {word!r}, so that nothing is learnt for it; {advice}")
    if without:
        warnings.warn(
            f"{len(without)} of {len(prompts)} captions have not the special word {word!r}: "
            f"{listed([repr(own) for own in without])}; {advice}",
            PictureWarning,
            stacklevel=2,
        )


def is_there(path: Path) -> bool:
    """Whether there is a file or a folder; a text that can be no path is none."""
    try:
        return path.exists()
    except (OSError, ValueError):  # a name that is too long, or with a NUL
        return False


def special_word_of(subject: Subject) -> str:
    """The special word of a subject's prompt; empty where it has none, or more than one."""
    try:
        return rare_word(subject.prompt, subject.class_prompt)
    except InputError:
        return ""


def split_subject(subject: str) -> tuple[str, str]:
    """Place and prompt of a subject given as "DIR=PROMPT"; the prompt is empty where there is none.

    Both may have the sign in them: the longest place that is there counts, or else what stands before the first sign.
    """
    splits = [(subject[:at].strip(), subject[at + 1 :].strip()) for at, sign in enumerate(subject) if sign == "="]
    there = [each for each in [(subject.strip(), ""), *reversed(splits)] if each[0] and is_there(Path(each[0]))]
    return (there or splits or [(subject.strip(), "")])[0]


def _is_embedded(config: TrainConfig, place: str) -> bool:
    """Whether a subject is an embedded one and no folder or picture; one of several may be either."""
    return not (config.base or is_there(Path(place))) if config.subjects else not config.images


def _with_prompts(config: TrainConfig) -> tuple[str, ...]:
    """The subjects, with a prompt each and a special word of its own in it."""
    filled: list[str] = []
    words: list[str] = []
    for number, (place, prompt) in enumerate(map(split_subject, config.subjects), 1):
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
