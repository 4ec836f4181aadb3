"""Pictures and prompts as the model takes them, encoded once ahead of the steps or anew at each of them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from PIL import Image
from torch import Tensor

from spectra.families.denoise import Condition, DenoiseFamily, encode_pictures
from spectra.progress import SILENT, Progress
from spectra.training.pictures import to_tensor

CHUNK = 8
"""Pictures that go through the VAE at once while caching."""


class Conditions:
    """The conditions of a fixed list of prompts: encoded once (`cached`), or at each use, with gradients."""

    def __init__(self, encode: Callable[[list[str]], Condition], prompts: Sequence[str], *, cached: bool) -> None:
        """Encode right away if `cached`; equal prompts are encoded once."""
        self._encode = encode
        self._prompts = list(dict.fromkeys(prompts))
        self._row = torch.tensor([self._prompts.index(prompt) for prompt in prompts])
        self._known: Condition | None = None
        if cached:
            with torch.no_grad():
                self._known = encode(self._prompts)

    def rows(self, index: Tensor) -> Condition:
        """The conditions of the prompts `index [n]`."""
        rows = self._row[index]
        if self._known is not None:
            return self._known.rows(rows.to(self._known.embeds.device))
        used, back = rows.unique(return_inverse=True)
        fresh = self._encode([self._prompts[row] for row in used.tolist()])
        return fresh.rows(back.to(fresh.embeds.device))


class PictureSource:
    """Pictures of one size with a prompt each: what a denoising objective draws from (`objectives.Source`)."""

    def __init__(
        self,
        pipe: Any,
        family: DenoiseFamily,
        pictures: Sequence[Image.Image],
        prompts: Sequence[str],
        *,
        cache_latents: bool = True,
        cache_prompts: bool = True,
        progress: Progress = SILENT,
    ) -> None:
        """Encode what is to be cached.

        Args:
            pipe: the base.
            family: its family.
            pictures: RGB squares of one size.
            prompts: one for each picture.
            cache_latents: encode the pictures now; otherwise whenever they are used.
            cache_prompts: likewise for the prompts; must be off while the text encoder trains.
            progress: told of each picture encoded.
        """
        self._pipe = pipe
        self._pixels = to_tensor(pictures)
        size = self._pixels.shape[-1]
        self._conditions = Conditions(lambda prompts: family.encode(pipe, prompts, size), prompts, cached=cache_prompts)
        self._cached: tuple[Tensor, Tensor] | None = None
        channels, height, width = self._posterior(self._pixels[:1])[0].shape[1:]
        self._shape = (channels, height, width)
        if cache_latents:
            progress.start("encoding pictures", len(pictures))
            try:
                chunks = []
                for chunk in self._pixels.split(CHUNK):
                    chunks.append(self._posterior(chunk))
                    progress.advance(len(chunk))
                means, spreads = zip(*chunks, strict=True)
                self._cached = torch.cat(means), torch.cat(spreads)
            finally:
                progress.finish()

    def __len__(self) -> int:
        """Number of pictures."""
        return len(self._pixels)

    @property
    def latent_shape(self) -> tuple[int, int, int]:
        """`(c, h, w)` of one picture's latents."""
        return self._shape

    def latents(self, index: Tensor, noise: Tensor) -> Tensor:
        """Latents `[n, c, h, w]` of the pictures `index [n]`: mean plus spread times `noise`, in the model's scale."""
        if self._cached is None:
            mean, spread = self._posterior(self._pixels[index])
        else:
            mean, spread = (part[index.to(part.device)] for part in self._cached)
        return mean + spread * noise.to(mean.dtype)

    def condition(self, index: Tensor) -> Condition:
        """The conditions of their prompts."""
        return self._conditions.rows(index)

    def _posterior(self, pixels: Tensor) -> tuple[Tensor, Tensor]:
        vae = self._pipe.vae
        with torch.no_grad():
            return encode_pictures(self._pipe, pixels.to(vae.device, vae.dtype))
