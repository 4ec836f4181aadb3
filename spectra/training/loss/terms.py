"""The terms of a training's loss, made from what it was given."""

from __future__ import annotations

from typing import Any

from PIL import Image

from spectra.progress import SILENT, Progress
from spectra.training.data.class_pictures import PriorKey, prior_pictures, prior_prompts, vocabulary
from spectra.training.data.collage import Collages, CollageSource, Shown
from spectra.training.data.latents import PictureSource
from spectra.training.data.pictures import fit
from spectra.training.data.wording import take_apart
from spectra.training.loss.objectives import Denoising, Schedule, Term
from spectra.training.loss.unmix import Unmix
from spectra.training.run.checks import Checked

PRIOR_PROMPTS = 192
"""At least so many prompts stand over class pictures, where some of them have other words."""


def objectives(
    pipe: Any, checked: Checked, resolution: int, fingerprint: str, *, progress: Progress = SILENT
) -> list[Denoising]:
    """What a training's loss is made of: the instance pictures' term, and prior preservation if it is asked for.

    Args:
        pipe: the frozen base, which draws the class pictures and encodes all pictures.
        checked: subjects and settings.
        resolution: pixels of a picture's side.
        fingerprint: of the base.
        progress: told of what is drawn and encoded.
    """
    config, subjects = checked.config, checked.subjects
    schedule = Schedule.of(pipe.scheduler, config.min_snr_gamma)
    pictures = [subject.at(resolution) for subject in subjects]
    prompts = [[subject.prompt] * len(own) for subject, own in zip(subjects, pictures, strict=True)]
    also: list[Term] = []
    if len(subjects) > 1 and config.unmix_weight > 0:
        also.append(Unmix(config.unmix_weight, config.unmix_schedule))
    instance = _source(pipe, checked, pictures, prompts, progress)
    found = [Denoising("denoising", instance, schedule, also=also)]
    if config.prior_weight > 0:
        drawn = [_class_pictures(pipe, checked, s.class_prompt, resolution, fingerprint, progress) for s in subjects]
        words = vocabulary(pipe.tokenizer) if config.prior_words else []
        # A picture of one subject comes under several words; those of several subjects have one prompt each.
        rounds = -(-PRIOR_PROMPTS // len(drawn[0])) if words and len(subjects) == 1 else 1
        prompts = [
            prior_prompts(
                subject.class_prompt,
                rounds * len(own),
                config.prior_unconditional,
                words=config.prior_words,
                vocabulary=words,
                seed=config.seed,
            )
            for subject, own in zip(subjects, drawn, strict=True)
        ]
        prior = _source(pipe, checked, drawn, prompts, progress, bare=True)
        found.append(Denoising("prior", prior, schedule, config.prior_weight, config.prior_target == "base"))
    return found


def _source(
    pipe: Any,
    checked: Checked,
    pictures: list[list[Image.Image]],
    prompts: list[list[str]],
    progress: Progress,
    *,
    bare: bool = False,
) -> PictureSource | CollageSource:
    """Pictures and prompts of each subject, or of its class if `bare`; several subjects come in collages, too."""
    config = checked.config
    if len(pictures) == 1:
        return PictureSource(pipe, pictures[0], prompts[0], cache_latents=config.cache_latents, progress=progress)
    wordings = [take_apart(subject.prompt) for subject in checked.subjects]
    shown = [
        Shown(own, said, wording.bare if bare else wording)
        for own, said, wording in zip(pictures, prompts, wordings, strict=True)
    ]
    unconditional = config.prior_unconditional if bare else 0.0
    collages = Collages(config.collage, config.collage_fit, config.collage_prompts, unconditional)
    return CollageSource(pipe, shown, collages, cache_latents=config.cache_latents, progress=progress)


def _class_pictures(
    pipe: Any, checked: Checked, prompt: str, resolution: int, fingerprint: str, progress: Progress
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
