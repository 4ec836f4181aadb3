"""Whether a base can show a picture at all: measured before anything is learnt of it.

What the VAE cannot encode, no shift brings back. And an edit's surroundings come from the base: where it cannot tell
the picture, with its caption, from noise any better than a constant guess, it does not know such pictures.
"""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import torch
from PIL import Image

from spectra.families.family import Family
from spectra.families.noise_schedule import DiffusionSchedule
from spectra.training.data.latents import Entry, PictureSource
from spectra.training.data.pictures import FittedPicture, Picture
from spectra.training.loss.denoising import DenoisingObjective

LEAST_PSNR = 20.0
"""A VAE's reconstruction with less, in dB, is visibly another picture."""

LEAST_EXPLAINED = 0.15
"""Held-out drawings, which the embedded base was made for, come to .20 and more."""

SAMPLES = 32


@dataclass(frozen=True)
class BaseFitness:
    """How well a base can show a picture.

    Attributes:
        vae_psnr: of the VAE's reconstruction, in dB.
        explained: share of the picture behind the noise that the base predicts from its caption. 1 is all of it, 0 as
            much as the constant guess of zero latents.
    """

    vae_psnr: float
    explained: float

    @property
    def warnings(self) -> list[str]:
        """A sentence for each bound that the picture misses."""
        found = []
        if self.vae_psnr < LEAST_PSNR:
            found.append(
                f"the base does not suit this picture: its VAE keeps {self.vae_psnr:.1f} dB of it, and no edit can "
                f"be nearer to it (expected {LEAST_PSNR:g} or more)"
            )
        if self.explained < LEAST_EXPLAINED:
            found.append(
                f"the base does not suit this picture: with this caption it explains {self.explained:.0%} of it "
                f"(expected {LEAST_EXPLAINED:.0%} or more); edits will show what it does know"
            )
        return found

    def as_dict(self) -> dict[str, Any]:
        """The figures and warnings, as JSON values."""
        return {**asdict(self), "warnings": self.warnings}


@torch.no_grad()
def explained_share(pipe: Any, family: Family, picture: Image.Image, caption: str) -> float:
    """`BaseFitness.explained` of a square picture: `1 - E||v_hat - v||^2 / E||v||^2` over fixed noise and timesteps.

    `v = signal * noise - spread * latents` (arXiv:2202.00512) weighs an error in the latents by `1 / spread`, whatever
    the base itself predicts: noise where the picture is clean, the picture where it is noise.
    """
    schedule = DiffusionSchedule.of(pipe.scheduler)
    source = PictureSource(pipe, [FittedPicture(Picture.checked(picture), picture.size)], [Entry(0, caption)])
    objective = DenoisingObjective("fitness", source, schedule)
    condition = family.encode(pipe, [caption])
    error = size = 0.0
    for piece in objective.draw(SAMPLES, 8, torch.Generator("cpu").manual_seed(0)):
        samples = objective.samples(piece, getattr(pipe, family.model).device)
        rows = condition.rows(torch.zeros(len(samples.prompts), dtype=torch.long, device=condition.embeds.device))
        prediction = family.predict(pipe, samples.noisy, samples.timesteps, rows)
        right = schedule.velocity(samples.noisy, samples.target, samples.timesteps)
        guess = schedule.velocity(samples.noisy, prediction, samples.timesteps)
        error += float((guess - right).square().sum())
        size += float(right.square().sum())
    return 1 - error / size


def psnr(one: Image.Image, other: Image.Image) -> float:
    """Peak signal-to-noise ratio of two RGB pictures of one size, in dB; 99 where they are equal."""
    error = np.square(np.asarray(one, np.float64) - np.asarray(other, np.float64)).mean()
    return 99.0 if error == 0 else min(99.0, 10 * math.log10(255**2 / float(error)))
