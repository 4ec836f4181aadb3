"""Pictures as latents, encoded once ahead of the steps or anew at each of them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from PIL import Image
from torch import Tensor

from spectra.families.attention import Word
from spectra.families.known import family_of
from spectra.progress import SILENT, Progress, working
from spectra.training.data.pictures import to_tensor

CHUNK = 8
"""Pictures that go through the VAE at once while caching."""


class PictureSource:
    """Pictures of one size with a prompt each, from which a denoising objective draws its samples."""

    def __init__(
        self,
        pipe: Any,
        pictures: Sequence[Image.Image],
        prompts: Sequence[str],
        *,
        cache_latents: bool = True,
        progress: Progress = SILENT,
    ) -> None:
        """Encode the pictures now with `cache_latents`, or else whenever they are used.

        Args:
            pipe: the base.
            pictures: RGB squares of one size.
            prompts: one for each picture, or several rounds of that: as many times a picture is an entry of `index`.
        """
        self._pipe, self._family = pipe, family_of(pipe)
        self._pixels = to_tensor(pictures)
        self._prompts = list(prompts)
        self._cached: tuple[Tensor, Tensor] | None = None
        self.latent_shape = self._posterior(self._pixels[:1])[0].shape[1:]
        if cache_latents:
            with working(progress, "encoding pictures", len(pictures)):
                chunks = []
                for chunk in self._pixels.split(CHUNK):
                    chunks.append(self._posterior(chunk))
                    progress.advance(len(chunk))
                means, spreads = zip(*chunks, strict=True)
                self._cached = torch.cat(means), torch.cat(spreads)

    def pick(self, remaining: list[int], generator: torch.Generator) -> int:
        """The number of a prompt with its picture, in shuffled rounds: each comes once before any comes again."""
        if not remaining:
            remaining[:] = torch.randperm(len(self._prompts), generator=generator).tolist()
        return remaining.pop()

    def latents(self, index: Tensor, noise: Tensor) -> Tensor:
        """Latents `[n, c, h, w]` of the entries `index [n]`: mean plus spread times `noise`, in the model's scale."""
        index = (index + index // len(self._pixels)) % len(self._pixels)  # each round moves on by one picture
        if self._cached is None:
            mean, spread = self._posterior(self._pixels[index])
        else:
            mean, spread = (part[index.to(part.device)] for part in self._cached)
        return mean + spread * noise.to(mean.dtype)

    def prompts(self, index: Tensor) -> list[str]:
        """The prompts of the entries `index [n]`."""
        return [self._prompts[number] for number in index.tolist()]

    def every_prompt(self) -> list[str]:
        """All prompts that samples can have."""
        return self._prompts

    def words(self, index: Tensor) -> list[Word]:
        """No words: a picture has no halves."""
        return []

    def _posterior(self, pixels: Tensor) -> tuple[Tensor, Tensor]:
        vae = self._pipe.vae
        with torch.no_grad():
            mean, std = self._family.encode_pictures(self._pipe, pixels.to(vae.device, vae.dtype))
        return mean.float(), std.float()
