"""Pictures and prompts as the model takes them, encoded once ahead of the steps or anew at each of them."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterable, Sequence
from typing import Any, TypeVar

import torch
from PIL import Image
from torch import Tensor

from spectra.families.attention import Word
from spectra.families.denoise import Condition, encode_pictures
from spectra.progress import SILENT, Progress
from spectra.training.data.pictures import to_tensor

Key = TypeVar("Key", bound=Hashable)

CHUNK = 8
"""Pictures that go through the VAE at once while caching."""


class Conditions:
    """The conditions of a training's prompts: encoded once and kept, or anew at each use, with gradients."""

    def __init__(
        self, encode: Callable[[list[str]], Condition], prompts: Iterable[str], *, keep: bool, trained: bool
    ) -> None:
        """Encode right away if they are kept.

        Args:
            encode: prompts to a row each.
            prompts: all that will be asked for; equal ones are encoded once.
            keep: hold what the frozen base makes of them, which is in force now.
            trained: whether the text encoder learns; then only the base's own answers can use what is kept.
        """
        self.encode = encode
        self.trained = trained
        self._row = {prompt: row for row, prompt in enumerate(dict.fromkeys(prompts))}
        self._known: Condition | None = None
        if keep:
            with torch.no_grad():
                self._known = encode(list(self._row))

    def frozen(self, prompts: Sequence[str]) -> Condition:
        """What the base makes of `prompts`, a row each; if nothing is kept, the model must be the base now."""
        if self._known is None:
            return encoded(self.encode, prompts)
        return self._known.rows(torch.tensor([self._row[p] for p in prompts], device=self._known.embeds.device))


def encoded(encode: Callable[[list[Key]], Condition], keys: Sequence[Key]) -> Condition:
    """A row for each of `keys`, equal ones encoded once."""
    row = {key: number for number, key in enumerate(dict.fromkeys(keys))}
    fresh = encode(list(row))
    return fresh.rows(torch.tensor([row[key] for key in keys], device=fresh.embeds.device))


class PictureSource:
    """Pictures of one size with a prompt each: what a denoising objective draws from (`terms.SampleSource`)."""

    def __init__(
        self,
        pipe: Any,
        pictures: Sequence[Image.Image],
        prompts: Sequence[str],
        *,
        cache_latents: bool = True,
        progress: Progress = SILENT,
    ) -> None:
        """Encode what is to be cached.

        Args:
            pipe: the base.
            pictures: RGB squares of one size.
            prompts: one for each picture, or several rounds of that: as many times a picture is an entry of `index`.
            cache_latents: encode the pictures now; otherwise whenever they are used.
            progress: told of each picture encoded.
        """
        self._pipe = pipe
        self._pixels = to_tensor(pictures)
        self._prompts = list(prompts)
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

    def pick(self, remaining: list[int], generator: torch.Generator) -> int:
        """The number of a prompt with its picture, in shuffled rounds: each comes once before any comes again."""
        if not remaining:
            remaining[:] = torch.randperm(len(self._prompts), generator=generator).tolist()
        return remaining.pop()

    @property
    def latent_shape(self) -> tuple[int, int, int]:
        """`(c, h, w)` of one picture's latents."""
        return self._shape

    def latents(self, index: Tensor, noise: Tensor) -> Tensor:
        """Latents `[n, c, h, w]` of the entries `index [n]`: mean plus spread times `noise`, in the model's scale."""
        index = (index + index // len(self._pixels)) % len(self._pixels)  # each round moves on by one picture
        if self._cached is None:
            mean, spread = self._posterior(self._pixels[index])
        else:
            mean, spread = (part[index.to(part.device)] for part in self._cached)
        return mean + spread * noise.to(mean.dtype)

    def prompts(self, index: Tensor) -> list[str]:
        """Their prompts."""
        return [self._prompts[number] for number in index.tolist()]

    def every_prompt(self) -> list[str]:
        """All prompts that samples can have."""
        return self._prompts

    def words(self, index: Tensor) -> list[Word]:
        """None: a picture is one piece."""
        return []

    def _posterior(self, pixels: Tensor) -> tuple[Tensor, Tensor]:
        vae = self._pipe.vae
        with torch.no_grad():
            return encode_pictures(self._pipe, pixels.to(vae.device, vae.dtype))
