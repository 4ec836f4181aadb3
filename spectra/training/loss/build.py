"""The terms of a training's loss, made from what it was given."""

from __future__ import annotations

from typing import Any

from PIL import Image

from spectra.progress import SILENT, Progress
from spectra.training.data.class_pictures import PriorKey, prior_pictures, prior_prompts, vocabulary
from spectra.training.data.collage import Collages, CollageSource, CollageSubject
from spectra.training.data.latents import PictureSource
from spectra.training.data.pictures import fit
from spectra.training.data.prompts import parse_prompt
from spectra.training.loss.denoising import DenoisingObjective
from spectra.training.loss.noise_schedule import NoiseSchedule
from spectra.training.loss.terms import LossTerm
from spectra.training.loss.unmix import UnmixTerm
from spectra.training.run.inputs import ValidatedInputs

PRIOR_PROMPTS = 192
"""At least so many prompts stand over class pictures, where some of them have other words."""


def build_objectives(
    pipe: Any, checked: ValidatedInputs, resolution: int, fingerprint: str, *, progress: Progress = SILENT
) -> list[DenoisingObjective]:
    """What a training's loss is made of: the instance pictures' term, and prior preservation if it is asked for.

    Args:
        pipe: the frozen base, which draws the class pictures and encodes all pictures.
        checked: subjects and settings.
        resolution: pixels of a picture's side.
        fingerprint: of the base.
        progress: told of what is drawn and encoded.
    """
    config, subjects = checked.config, checked.subjects
    schedule = NoiseSchedule.of(pipe.scheduler, config.min_snr_gamma)
    pictures = [subject.at(resolution) for subject in subjects]
    prompts = [[subject.prompt] * len(own) for subject, own in zip(subjects, pictures, strict=True)]
    extra_terms: list[LossTerm] = []
    if len(subjects) > 1 and config.unmix_weight > 0:
        extra_terms.append(UnmixTerm(config.unmix_weight, config.unmix_schedule))
    instance = _source(pipe, checked, pictures, prompts, progress)
    found = [DenoisingObjective("denoising", instance, schedule, extra_terms=extra_terms)]
    if config.prior_weight > 0:
        drawn = [_class_pictures(pipe, checked, s.class_prompt, resolution, fingerprint, progress) for s in subjects]
        words = vocabulary(pipe.tokenizer) if config.prior_random_words else []
        # A picture of one subject comes under several words; those of several subjects have one prompt each.
        rounds = -(-PRIOR_PROMPTS // len(drawn[0])) if words and len(subjects) == 1 else 1
        prompts = [
            prior_prompts(
                subject.class_prompt,
                rounds * len(own),
                config.prior_unconditional,
                words=config.prior_random_words,
                vocabulary=words,
                seed=config.seed,
            )
            for subject, own in zip(subjects, drawn, strict=True)
        ]
        prior = _source(pipe, checked, drawn, prompts, progress, of_class=True)
        found.append(DenoisingObjective("prior", prior, schedule, config.prior_weight, config.prior_target == "base"))
    return found


def _source(
    pipe: Any,
    checked: ValidatedInputs,
    pictures: list[list[Image.Image]],
    prompts: list[list[str]],
    progress: Progress,
    *,
    of_class: bool = False,
) -> PictureSource | CollageSource:
    """Pictures and prompts of each subject, or of its class if `of_class`; several subjects come in collages, too."""
    config = checked.config
    if len(pictures) == 1:
        return PictureSource(pipe, pictures[0], prompts[0], cache_latents=config.cache_latents, progress=progress)
    wordings = [parse_prompt(subject.prompt) for subject in checked.subjects]
    shown = [
        CollageSubject(own, said, wording.as_class if of_class else wording)
        for own, said, wording in zip(pictures, prompts, wordings, strict=True)
    ]
    unconditional = config.prior_unconditional if of_class else 0.0
    collages = Collages(config.collage, config.collage_fit, config.collage_prompts, unconditional)
    return CollageSource(pipe, shown, collages, cache_latents=config.cache_latents, progress=progress)


def _class_pictures(
    pipe: Any, checked: ValidatedInputs, prompt: str, resolution: int, fingerprint: str, progress: Progress
) -> list[Image.Image]:
    """A subject's class, drawn by the base; or the user's own pictures of it."""
    config = checked.config
    if checked.class_pictures:
        return [fit(picture, resolution) for picture in checked.class_pictures]
    key = PriorKey(
        base=fingerprint,
        prompt=prompt,
        seed=config.seed,
        count=config.prior_count,
        size=resolution,
        steps=config.prior_steps,
        guidance=config.prior_guidance,
    )
    return prior_pictures(pipe, key, progress=progress)
