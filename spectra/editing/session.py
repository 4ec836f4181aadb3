"""A base, a picture, and the shift that has learnt it: what every edit of the picture is drawn with."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from PIL import Image
from torch import Tensor

from spectra.adapters.loaded_shifts import activate
from spectra.adapters.loading import load
from spectra.editing.base_fitness import BaseFitness, explained_share, psnr
from spectra.editing.edit_mask import find_mask, measure_change, put_back
from spectra.editing.inversion import ddim_sample, ddim_scheduler, invert, slerp
from spectra.editing.settings import EditSettings, Variant
from spectra.families.execution_device import execution_device
from spectra.families.family import Condition
from spectra.families.known import family_of
from spectra.families.prompt_length import warn_of_cut
from spectra.generation.drawing import Request, draw
from spectra.generation.settings import Sampling
from spectra.progress import SILENT, Progress
from spectra.shift.shift import SpectralShift
from spectra.training.data.pictures import to_tensor

SHIFT_NAME = "picture"
"""Name of the shift while it is loaded."""

FRESH_SEED = 2**32
"""Added to a seed for the noise that is mixed in: the noise of the steps comes from the seed itself."""


@dataclass(frozen=True)
class Inversion:
    """How well one prompt's inversion leads back to the picture.

    Attributes:
        prompt: an edit, or the caption.
        scale: of the shift.
        error: distance of the latents drawn from it, at guidance 1, to the picture's, relative to their norm.
        psnr: of what is drawn from it against the picture, in dB.
        picture: what is drawn from it.
    """

    prompt: str
    scale: float
    error: float
    psnr: float
    picture: Image.Image

    def as_dict(self) -> dict[str, Any]:
        """The figures, as JSON values."""
        return {name: getattr(self, name) for name in ("prompt", "scale", "error", "psnr")}


@dataclass(frozen=True)
class Edited:
    """One picture, how it was drawn, and the share of it that shows the unedited picture."""

    variant: Variant
    request: Request
    sampling: Sampling
    picture: Image.Image
    kept: float = 0.0


class EditSession:
    """A base with one picture.

    Attributes:
        pipe, family: the base, and how it is called. Its scheduler is DDIM from here on.
        picture: a square as the base takes it.
        latents: of the picture, `[1, c, h, w]`.
        reconstruction: what the VAE makes of the picture.
    """

    def __init__(self, pipe: Any, picture: Image.Image) -> None:
        """Encode the picture.

        Raises:
            BaseError: the base is none that can be trained and inverted here.
        """
        self.pipe, self.picture = pipe, picture
        self.family = family_of(pipe)
        self.family.require("edit")
        if getattr(pipe, "safety_checker", None) is not None:
            pipe.register_modules(safety_checker=None)  # it would blacken pictures at random
        pipe.register_modules(scheduler=ddim_scheduler(pipe.scheduler))
        with torch.no_grad():
            pixels = to_tensor([picture]).to(execution_device(pipe.vae), pipe.vae.dtype)
            self.latents = self.family.encode_pictures(pipe, pixels)[0]
        (self.reconstruction,) = self.family.decode_latents(pipe, self.latents)

    def measure_fitness(self, caption: str) -> BaseFitness:
        """How well the base can show the picture with its caption, before a shift is loaded."""
        explained = explained_share(self.pipe, self.family, self.picture, caption)
        return BaseFitness(round(psnr(self.picture, self.reconstruction), 2), round(explained, 4))

    def draw(
        self, settings: EditSettings, shift: SpectralShift, progress: Progress = SILENT
    ) -> tuple[list[Inversion], list[Edited]]:
        """Every edit in every variant, with the picture's shift; what inversions lead to comes with them.

        A prompt is inverted once for each scale, the caption always.

        Raises:
            MismatchError: the shift was trained on another base.
        """
        warn_of_cut(self.pipe, self.family, [settings.caption, *settings.edits])
        load(self.pipe, shift, name=SHIFT_NAME, activate=False, progress=progress)
        inverted = settings.edits if settings.anchor == "edit" and min(settings.noise_mixes) < 1 else ()
        prompts = list(dict.fromkeys((settings.caption, *inverted)))
        inversions: list[Inversion] = []
        edited: list[Edited] = []
        for scale in dict.fromkeys(settings.scales):
            activate(self.pipe, {SHIFT_NAME: scale})
            noise, found = self._invert(prompts, settings, scale, progress)
            inversions += found
            variants = [variant for variant in settings.variants if variant.scale == scale]
            drawn = self._draw(settings, list(dict.fromkeys(replace(v, keep=0.0) for v in variants)), noise, progress)
            edited += self._keep(settings, variants, drawn, noise[settings.caption], found[0].picture)
        return inversions, sorted(edited, key=lambda each: settings.edits.index(each.request.prompt))

    def _encode(self, prompts: Sequence[str]) -> Condition:
        with torch.no_grad():
            return self.family.encode(self.pipe, list(prompts))

    def _invert(
        self, prompts: Sequence[str], settings: EditSettings, scale: float, progress: Progress
    ) -> tuple[dict[str, Tensor], list[Inversion]]:
        """The picture's noise `[1, c, h, w]` by prompt, and how well each leads back to the picture."""
        found: dict[str, Tensor] = {}
        inversions = []
        for first in range(0, len(prompts), settings.batch):
            chunk = prompts[first : first + settings.batch]
            condition = self._encode(chunk)
            latents = self.latents.expand(len(chunk), -1, -1, -1)
            noise = invert(self.pipe, self.family, latents, condition, settings.steps, progress)
            back = ddim_sample(self.pipe, self.family, noise, condition, settings.steps)
            for prompt, own, latents in zip(chunk, noise.split(1), back.split(1), strict=True):
                found[prompt] = own
                (picture,) = self.family.decode_latents(self.pipe, latents)
                error = round(float((latents - self.latents).norm() / self.latents.norm()), 6)
                inversions.append(Inversion(prompt, scale, error, round(psnr(self.picture, picture), 2), picture))
        return found, inversions

    def _draw(
        self, settings: EditSettings, variants: Sequence[Variant], noise: dict[str, Tensor], progress: Progress
    ) -> list[Edited]:
        """Draw the variants of one scale, those that share guidance and eta together."""
        edited = []
        for guidance, eta in dict.fromkeys((variant.guidance, variant.eta) for variant in variants):
            same = [variant for variant in variants if (variant.guidance, variant.eta) == (guidance, eta)]
            chosen = [(edit, variant) for edit in settings.edits for variant in same]
            at_caption = settings.anchor == "caption"
            negative = settings.caption if at_caption and guidance > 1 else ""
            requests = [Request(edit, variant.seed, negative) for edit, variant in chosen]
            starts = [self._start(noise.get(settings.caption if at_caption else edit), v) for edit, v in chosen]
            side = self.picture.width
            sampling = Sampling(settings.steps, guidance, side, side, settings.batch, eta)
            pictures = draw(
                self.pipe, requests, sampling, start=torch.cat(starts), progress=progress, label="drawing edits"
            )
            edited += [
                Edited(variant, request, sampling, picture)
                for (_, variant), request, picture in zip(chosen, requests, pictures, strict=True)
            ]
        return edited

    def _keep(
        self,
        settings: EditSettings,
        variants: Sequence[Variant],
        drawn: Sequence[Edited],
        noise: Tensor,
        unedited: Image.Image,
    ) -> list[Edited]:
        """`drawn`, in every variant that differs in nothing but what it keeps of the unedited picture."""
        shares = {variant.keep for variant in variants} - {0.0}
        change = self._changes(settings, noise) if shares else {}
        masks = {(edit, keep): find_mask(change[edit], keep, unedited) for edit in change for keep in shares}
        edited = []
        for each in drawn:
            for variant in (v for v in variants if replace(v, keep=0.0) == each.variant):
                if not variant.keep:
                    edited.append(each)
                    continue
                mask = masks[each.request.prompt, variant.keep]
                picture = put_back(each.picture, unedited, mask, each.picture.width // noise.shape[-1])
                kept = round(1 - float(mask.mean()), 4)
                edited.append(replace(each, variant=variant, picture=picture, kept=kept))
        return edited

    def _changes(self, settings: EditSettings, noise: Tensor) -> dict[str, Tensor]:
        """How much each edit asks to change, along the picture's way from its noise; the caption is in each batch."""
        found: list[Tensor] = []
        caption, size = self._encode([settings.caption]), max(1, settings.batch - 1)
        for first in range(0, len(settings.edits), size):
            edits = self._encode(settings.edits[first : first + size])
            found += measure_change(self.pipe, self.family, noise, caption, edits, settings.steps).split(1)
        return dict(zip(settings.edits, found, strict=True))

    def _start(self, noise: Tensor | None, variant: Variant) -> Tensor:
        """The picture's noise `[1, c, h, w]`, with as much fresh noise of the variant's seed as it asks for."""
        if noise is not None and not variant.noise_mix:
            return noise
        generator = torch.Generator("cpu").manual_seed(variant.seed + FRESH_SEED)
        fresh = torch.randn(self.latents.shape, generator=generator).to(self.latents)
        return fresh if noise is None or variant.noise_mix == 1 else slerp(variant.noise_mix, noise, fresh)
