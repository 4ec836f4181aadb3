"""Validation pictures: the same prompts and seeds before, during and after a training, and the sheet of them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from PIL import Image, ImageOps

from spectra.bases.embedded.subjects import ASKED_COLOURS, has_border
from spectra.generation.contact_sheet import Section, contact_sheet
from spectra.generation.drawing import draw, requests_for
from spectra.generation.settings import Sampling
from spectra.progress import SILENT, Progress
from spectra.training.config import TrainConfig
from spectra.training.data.class_pictures import PICTURES_AT_ONCE
from spectra.training.data.pictures import FittedPicture
from spectra.training.data.subjects import Subject, pair_prompts

SHOWN = 8
"""Pictures of a subject that a sheet shows."""

PicturesByPrompt = dict[str, list[Image.Image]]

Drawings = Sequence[PicturesByPrompt]
"""The pictures of each concept."""

ROW = 256
"""Largest side of a picture in the sheet that grows with the training."""


class Validation:
    """What is drawn to see how far a training has come."""

    def __init__(self, config: TrainConfig, subjects: Sequence[Subject], *, at_once: int = PICTURES_AT_ONCE) -> None:
        """Take the prompts that were asked for; or each subject's and the class prompt, or those of two subjects.

        Args:
            at_once: pictures that are drawn at once.
        """
        by_default = [subject.prompt for subject in subjects]
        by_default += pair_prompts(config, subjects) or filter(None, [config.class_prompt])
        self.prompts = tuple(dict.fromkeys(config.validation_prompts or by_default))
        self.seeds = range(config.seed, config.seed + config.validation_count)
        size = config.resolution  # 0 is the base's own
        self.sampling = Sampling(config.validation_steps, config.validation_guidance, size, size, at_once)

    def draw(self, pipe: Any, label: str, progress: Progress = SILENT) -> PicturesByPrompt:
        """The pictures that `pipe` draws now."""
        pictures = draw(pipe, requests_for(self.prompts, self.seeds), self.sampling, progress=progress, label=label)
        count = len(self.seeds)
        return {prompt: pictures[n * count : (n + 1) * count] for n, prompt in enumerate(self.prompts)}

    def row(self, drawn: PicturesByPrompt, heading: str) -> Image.Image:
        """One stage of the training as a row of a sheet: all prompts and seeds, the pictures small."""
        small = [ImageOps.contain(picture, (ROW, ROW)) for prompt in self.prompts for picture in drawn[prompt]]
        captions = [f"{prompt}, seed {seed}" for prompt in self.prompts for seed in self.seeds]
        return contact_sheet([Section(heading, small, captions)], columns=len(small))

    def backgrounds_followed(self, pipe: Any, prompt: str, progress: Progress = SILENT) -> float:
        """The share of four backgrounds, asked for behind a prompt, that the embedded base draws now."""
        asked = [f"{prompt} on a {colour} background" for colour in ASKED_COLOURS]
        requests = requests_for(asked, self.seeds[:2])
        pictures = draw(pipe, requests, self.sampling, progress=progress, label="drawing backgrounds")
        colours = [colour for colour in ASKED_COLOURS for _ in self.seeds[:2]]
        came = [has_border(picture, colour) for picture, colour in zip(pictures, colours, strict=True)]
        return sum(came) / len(came)

    def before_after(
        self,
        fitted: Sequence[Sequence[FittedPicture]],
        before: PicturesByPrompt,
        after: PicturesByPrompt,
        steps: int,
    ) -> Image.Image:
        """Instance pictures of each subject, then for each prompt what the base drew and what it draws with the shift.

        Of many pictures the first are shown.
        """
        shown = [[each for each in own if not each.mirrored][:SHOWN] for own in fitted]
        fewer = any(len(some) < sum(not each.mirrored for each in own) for some, own in zip(shown, fitted, strict=True))
        heading = f"The first {SHOWN} of the subject's pictures" if fewer else "The subject's pictures"
        sections = [Section(heading, [each.pixels() for some in shown for each in some])]
        for prompt in self.prompts if self.seeds else ():
            sections += [
                self._section("Before", prompt, before),
                self._section(f"After {steps} steps", prompt, after),
            ]
        return contact_sheet(sections)

    def _section(self, heading: str, prompt: str, drawn: PicturesByPrompt) -> Section:
        return Section(f"{heading}: {prompt}", drawn[prompt], [f"seed {seed}" for seed in self.seeds])
