"""Pictures as latents, encoded once ahead of the steps or anew at each of them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple, Protocol

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from spectra.families.attention import Word
from spectra.families.execution_device import execution_device
from spectra.families.known import family_of
from spectra.progress import SILENT, Progress, working
from spectra.training.data.pictures import Size, to_tensor

CHUNK = 8
"""Pictures that are read and go through the VAE at once."""

Shape = tuple[int, int, int]
"""Channels, rows and columns of latents."""


class SizedPicture(Protocol):
    """A picture of a size that a model can learn, read whenever it is asked for."""

    @property
    def size(self) -> Size:
        """Width and height in pixels."""

    def pixels(self) -> Image.Image:
        """The picture in RGB."""

    def weights(self) -> Image.Image | None:
        """How much each of the pixels counts in the loss, in 8-bit grey; None where all count."""


class Entry(NamedTuple):
    """One of the samples that a round consists of: the number of a picture, and the prompt that it has there."""

    picture: int
    prompt: str


class PictureSource:
    """Pictures with prompts, from which a denoising objective draws its samples."""

    def __init__(
        self,
        pipe: Any,
        pictures: Sequence[SizedPicture],
        entries: Sequence[Entry],
        *,
        cache_latents: bool = True,
        progress: Progress = SILENT,
    ) -> None:
        """Encode the pictures now with `cache_latents`, or else read and encode them whenever they are used.

        Args:
            pipe: the base.
            pictures: of any sizes that the base can take.
            entries: what one round of samples consists of; a picture that repeats is in several.

        Raises:
            PictureError: a picture that can no longer be read, or a mask of which nothing is left once it is cut.
        """
        self._pipe, self._family = pipe, family_of(pipe)
        self._pictures, self._entries = list(pictures), list(entries)
        self._cached: list[tuple[Tensor, Tensor]] = []
        sizes = dict.fromkeys(each.size for each in pictures)
        if cache_latents:
            found: dict[int, tuple[Tensor, Tensor]] = {}
            with working(progress, "encoding pictures", len(pictures)):
                for size in sizes:
                    same = [number for number, each in enumerate(pictures) if each.size == size]
                    for first in range(0, len(same), CHUNK):
                        chunk = same[first : first + CHUNK]
                        found.update(zip(chunk, self._posteriors(chunk), strict=True))
                        progress.advance(len(chunk))
            self._cached = [found[number] for number in range(len(pictures))]
        examples = {each.size: number for number, each in reversed(list(enumerate(pictures)))}
        shapes = {size: _shape(self._posterior(examples[size])[0]) for size in sizes}
        self._shapes = [shapes[each.size] for each in pictures]
        self._masks = [self._mask(number) for number in range(len(pictures))]

    @property
    def latent_shape(self) -> Shape:
        """The shape of the largest latents."""
        return max(self._shapes, key=lambda shape: shape[1] * shape[2])

    def shape(self, entry: int) -> Shape:
        """The shape of an entry's latents."""
        return self._shapes[self._entries[entry].picture]

    def pick(self, remaining: list[int], generator: torch.Generator, beside: int | None = None) -> int:
        """The number of an entry, in shuffled rounds: each comes once before any comes again.

        Args:
            remaining: of the rounds that have begun, the last one first.
            beside: an entry of the same batch, which this one must have the shape of. What a round has no more of is
                taken from those that follow.
        """
        while True:
            for place in range(len(remaining) - 1, -1, -1):
                if beside is None or self.shape(remaining[place]) == self.shape(beside):
                    return remaining.pop(place)
            remaining[:0] = torch.randperm(len(self._entries), generator=generator).tolist()

    def latents(self, index: Tensor, noise: Tensor) -> Tensor:
        """Latents `[n, c, h, w]` of the entries `index [n]`, all of one shape: mean plus spread times `noise`."""
        mean, spread = (torch.stack(parts) for parts in zip(*map(self._posterior, self._numbers(index)), strict=True))
        return mean + spread * noise.to(mean.dtype)

    def masks(self, index: Tensor) -> Tensor | None:
        """How much each place of the latents counts, `[n, 1, h, w]` from 0 to 1; None where all of all pictures do."""
        if all(each is None for each in self._masks):
            return None
        masks = [(self._masks[number], self._shapes[number][1:]) for number in self._numbers(index)]
        return torch.stack([torch.ones(1, *sides) if mask is None else mask for mask, sides in masks])

    def prompts(self, index: Tensor) -> list[str]:
        """The prompts of the entries `index [n]`."""
        return [self._entries[number].prompt for number in index.tolist()]

    def every_prompt(self) -> list[str]:
        """All prompts that samples can have."""
        return [each.prompt for each in self._entries]

    def words(self, index: Tensor) -> list[Word]:
        """No words: a picture has no halves."""
        return []

    def _numbers(self, index: Tensor) -> list[int]:
        """The numbers of the entries' pictures."""
        return [self._entries[number].picture for number in index.tolist()]

    def _posterior(self, number: int) -> tuple[Tensor, Tensor]:
        """Mean and spread `[c, h, w]` of a picture's latents."""
        return self._cached[number] if self._cached else self._posteriors([number])[0]

    def _posteriors(self, numbers: Sequence[int]) -> list[tuple[Tensor, Tensor]]:
        """Mean and spread of the latents of pictures of one size, which are read for it."""
        vae, pixels = self._pipe.vae, to_tensor([self._pictures[number].pixels() for number in numbers])
        with torch.no_grad():
            mean, std = self._family.encode_pictures(self._pipe, pixels.to(execution_device(vae), vae.dtype))
        return list(zip(mean.float(), std.float(), strict=True))

    def _mask(self, number: int) -> Tensor | None:
        """A picture's mask on the grid of its latents, `[1, h, w]`; None where all of it counts."""
        weights = self._pictures[number].weights()
        if weights is None:
            return None
        _, rows, columns = self._shapes[number]
        grid = weights.convert("F").resize((columns, rows), Image.Resampling.BOX)
        return torch.from_numpy(np.array(grid) / 255)[None]


def _shape(latents: Tensor) -> Shape:
    channels, rows, columns = latents.shape
    return channels, rows, columns
