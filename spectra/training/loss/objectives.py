"""The terms of a training's loss, made from its settings, subjects and pictures."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

from PIL import Image

from spectra.families.known import family_of
from spectra.families.prompt_length import check_told_apart, warn_of_cut
from spectra.generation.drawing import guidance_of
from spectra.generation.prompt_words import tell_unknown_words
from spectra.progress import SILENT, Progress
from spectra.training.config import TrainConfig
from spectra.training.data.buckets import fit_pictures, warn_of_enlarged
from spectra.training.data.class_pictures import PriorKey, in_rounds, prior_pictures, prior_prompts, vocabulary
from spectra.training.data.collage import CollageSource, CollageSubject
from spectra.training.data.latents import Entry, PictureSource
from spectra.training.data.pictures import FittedPicture, Picture
from spectra.training.data.prompts import SubjectPrompt, follow_prompt, parse_prompt
from spectra.training.data.subjects import Subject, learnt_pictures, one_round, pair_prompts, special_word_of
from spectra.training.loss.denoising import DenoisingObjective
from spectra.training.loss.unmix import UnmixTerm

PRIOR_PROMPTS = 192
"""Fewest prompts over the class pictures, where some of them have random words or are to be followed."""


def build_objectives(
    pipe: Any,
    config: TrainConfig,
    subjects: Sequence[Subject],
    own_class_pictures: Sequence[Picture],
    resolution: int,
    fingerprint: str,
    *,
    draw_prior: Callable[[PriorKey], list[Image.Image]] | None = None,
    progress: Progress = SILENT,
) -> list[DenoisingObjective]:
    """The objective of the instance pictures, and that of prior preservation if it is asked for.

    Args:
        pipe: the frozen base, which draws the class pictures and encodes all pictures.
        own_class_pictures: the user's own, instead of those that the base would draw, with captions of their own.
        resolution: pixels of a picture's side.
        fingerprint: hash of the base, by which its class pictures are kept.
        draw_prior: gives the class pictures of a key; by default `pipe` draws them.
    """
    family = family_of(pipe)
    names = [parse_prompt(subject.prompt) for subject in subjects] if len(subjects) > 1 else []
    extra_terms = [UnmixTerm(config.unmix_weight, config.unmix_schedule)] if names and config.unmix_weight > 0 else []
    check_prompts(pipe, config, subjects, [each.caption for each in own_class_pictures if each.caption])
    step = family.resolution_step(pipe)
    pictures = learnt_pictures(config, subjects, resolution, step)
    rounds = [one_round(*each) for each in zip(subjects, pictures, strict=True)]
    warn_of_enlarged([picture for own in pictures for picture in own])
    source = _source(pipe, config, pictures, rounds, names, 0.0, progress)
    tokens = (resolution // family.token_pixels(pipe)) ** 2  # other sizes have about as many
    schedule = family.schedule(pipe.scheduler, tokens, config.min_snr_gamma)
    schedule = schedule.sampled(config.timestep_sampling)
    objectives = [DenoisingObjective("denoising", source, schedule, extra_terms=extra_terms)]
    if config.prior_weight > 0:
        if own_class_pictures:
            square = bool(names) or config.crop == "square"
            pictures = [fit_pictures(own_class_pictures, resolution, step, square=square)] * len(subjects)
        else:
            guidance = guidance_of(pipe, config.prior_guidance)
            drawn = config.prior_count, resolution, config.prior_steps, guidance
            keys = [PriorKey(fingerprint, each.class_prompt, config.seed, *drawn) for each in subjects]
            draw_prior = draw_prior or partial(prior_pictures, pipe, progress=progress)
            everything = [draw_prior(key) for key in keys]
            pictures = [[FittedPicture(Picture.checked(each), each.size) for each in own] for own in everything]
        rounds = _class_rounds(pipe, config, subjects, [len(own) for own in pictures])
        if own_class_pictures:
            rounds = [_captioned(rounds[0], subjects[0].class_prompt, own_class_pictures)]
        classes = [name.as_class for name in names]
        source = _source(pipe, config, pictures, rounds, classes, config.prior_unconditional, progress)
        from_base = config.prior_target == "base"
        prior = DenoisingObjective("prior", source, schedule, config.prior_weight, from_base)
        prior.base_prompts = _follow_prompts(config, subjects)
        objectives.append(prior)
    for objective in objectives:
        objective.noise_offset, objective.stratified = config.noise_offset, config.stratified_timesteps
    return objectives


def check_prompts(pipe: Any, config: TrainConfig, subjects: Sequence[Subject], of_classes: Sequence[str] = ()) -> None:
    """Name the prompts that the base does not read to their end, and the words that the embedded one has not learnt.

    Args:
        of_classes: captions of class pictures.

    Raises:
        InputError: no text encoder reads a prompt's special word, or what it reads of it is the class prompt.
    """
    family = family_of(pipe)
    for each in subjects:
        word = special_word_of(each)
        check_told_apart(pipe, family, dict.fromkeys(each.prompts, word), each.class_prompt)
    prompts = [prompt for each in subjects for prompt in (*each.prompts, each.class_prompt)]
    prompts += [*of_classes, *pair_prompts(config, subjects)]
    warn_of_cut(pipe, family, prompts)
    tell_unknown_words(pipe, prompts, special=map(special_word_of, subjects))


def _source(
    pipe: Any,
    config: TrainConfig,
    pictures: list[list[FittedPicture]],
    rounds: list[list[Entry]],
    names: Sequence[SubjectPrompt],
    unconditional: float,
    progress: Progress,
) -> PictureSource | CollageSource:
    """A source of each subject's pictures; several subjects, which `names` then tells apart, come in collages, too."""
    if not names:
        return PictureSource(pipe, pictures[0], rounds[0], cache_latents=config.cache_latents, progress=progress)
    subjects = [CollageSubject(*each) for each in zip(pictures, rounds, names, strict=True)]
    return CollageSource(
        pipe,
        subjects,
        probability=config.collage,
        fit=config.collage_fit,
        templates=config.collage_prompts,
        unconditional=unconditional,
        cache_latents=config.cache_latents,
        progress=progress,
    )


def _class_rounds(
    pipe: Any, config: TrainConfig, subjects: Sequence[Subject], counts: Sequence[int]
) -> list[list[Entry]]:
    """A round of each subject's class pictures, of which there are `counts`, with their prompts."""
    words = vocabulary(pipe.tokenizer) if config.keep_prompts else []
    follow_prompts = list(_follow_prompts(config, subjects))
    # A picture of one subject comes under several words; those of several subjects have one prompt each.
    rounds = -(-PRIOR_PROMPTS // counts[0]) if (words or follow_prompts) and len(subjects) == 1 else 1
    found = []
    for subject, count in zip(subjects, counts, strict=True):
        prompts = prior_prompts(
            subject.class_prompt,
            rounds * count,
            config.prior_unconditional,
            random_words=config.keep_prompts,
            vocabulary=words,
            follow=config.prior_follow,
            follow_prompts=follow_prompts,
            seed=config.seed,
        )
        found.append(in_rounds(prompts, count))
    return found


def _captioned(entries: Sequence[Entry], class_prompt: str, pictures: Sequence[Picture]) -> list[Entry]:
    """A round of class pictures, in which those that have captions stand under them in place of the class prompt."""
    captions = [each.caption or class_prompt for each in pictures]
    return [Entry(place, captions[place] if prompt == class_prompt else prompt) for place, prompt in entries]


def _follow_prompts(config: TrainConfig, subjects: Sequence[Subject]) -> dict[str, str]:
    """The prompts that a single subject must still follow, each with what the base is asked in its place."""
    if len(subjects) > 1:
        return {}
    (subject,) = subjects
    asked = (subject.prompt, subject.class_prompt)
    filled = [(follow_prompt(each, asked[0]), follow_prompt(each, asked[1])) for each in config.follow_prompts]
    return dict(filled)
