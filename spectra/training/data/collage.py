"""Cut-Mix: pictures of several subjects, alone or two in one, each on its half (SVDiff, section 3.3).

Each half is encoded by itself, and the halves meet in the latents: any two can be put together without another pass of
the VAE, and nothing of one leaks across the cut.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate, permutations
from typing import Any

import numpy as np
import torch
from PIL import Image, ImageOps
from torch import Tensor

from spectra.errors import BaseError
from spectra.families.attention import Word, word_tokens
from spectra.families.known import family_of
from spectra.progress import SILENT, Progress
from spectra.training.data.latents import Entry, PictureSource, Shape, SizedPicture
from spectra.training.data.pictures import Size
from spectra.training.data.prompts import SubjectPrompt, pair_prompt

ALONE = -1
"""Stands for the picture on the right where there is one picture only."""

_Prompt = tuple[str, tuple[tuple[int, ...], ...]]
"""A collage's prompt, and the tokens of its special words: of the left subject, then of the right one."""


@dataclass(frozen=True)
class CollageSubject:
    """A subject's pictures, squares of one size, the entries of its rounds, and the prompt that collages name it by."""

    pictures: Sequence[SizedPicture]
    entries: Sequence[Entry]
    name: SubjectPrompt


@dataclass(frozen=True)
class HalvedPicture:
    """A square picture as a half of a collage, see `halved`."""

    whole: SizedPicture
    fit: str

    @property
    def size(self) -> Size:
        """Half as wide as high."""
        return self.whole.size[0] // 2, self.whole.size[1]

    def pixels(self) -> Image.Image:
        """The half in RGB."""
        return halved(self.whole.pixels(), self.fit)

    def weights(self) -> None:
        """All of it counts."""


def halved(picture: Image.Image, fit: str) -> Image.Image:
    """A square picture as the half of one of its size, half as wide as high.

    `fit` is "crop", which keeps the middle of the picture, or "shrink": all of it, on the mean colour of its edge.
    """
    size = picture.width // 2, picture.height
    if fit == "crop":
        return ImageOps.fit(picture, size, Image.Resampling.LANCZOS)
    array = np.asarray(picture, dtype=np.float64)
    edge = np.concatenate([array[0], array[-1], array[:, 0], array[:, -1]]).mean(0)
    return ImageOps.pad(picture, size, Image.Resampling.LANCZOS, tuple(round(value) for value in edge.tolist()))


class CollageSource:
    """Pictures of several subjects, from which a denoising objective draws its samples; methods as `PictureSource`'s.

    An entry of `index` is `(left, right or ALONE, prompt)`: left and right are entries of subjects, which are numbered
    through all of them, and the prompt is numbered through the templates and one that is empty.
    """

    def __init__(
        self,
        pipe: Any,
        subjects: Sequence[CollageSubject],
        *,
        probability: float,
        fit: str,
        templates: Sequence[str],
        unconditional: float = 0.0,
        cache_latents: bool = True,
        progress: Progress = SILENT,
    ) -> None:
        """Encode every picture whole and as a half: now with `cache_latents`, or else whenever it is used.

        Args:
            probability: share of collages among the samples.
            fit: how a picture fills its half, see `halved`.
            templates: of the prompts of collages (`prompts.pair_prompt`), each as likely as another.
            unconditional: share of collages with the empty prompt.

        Raises:
            BaseError: latents of an odd width, which have no halves.
            InputError: a prompt that is too long for the text encoder to read its special words.
        """
        pictures = [picture for each in subjects for picture in each.pictures]
        before = accumulate((len(each.pictures) for each in subjects), initial=0)
        entries = [
            Entry(first + own.picture, own.prompt)
            for first, each in zip(before, subjects, strict=False)
            for own in each.entries
        ]
        halves = [HalvedPicture(picture, fit) for picture in pictures]
        self._whole, self._halves = (
            PictureSource(pipe, each, entries, cache_latents=cache_latents, progress=progress)
            for each in (pictures, halves)
        )
        self.latent_shape = self._whole.latent_shape
        if 2 * self._halves.latent_shape[2] != self.latent_shape[2]:
            raise BaseError(f"latents of {self.latent_shape[2]} columns have no halves for collages")
        self._subject = [number for number, each in enumerate(subjects) for _ in each.entries]  # of each entry
        self._probability, self._unconditional, self._templates = probability, unconditional, len(templates)
        self._prompts = _prompts(pipe, [each.name for each in subjects], templates)

    def shape(self, entry: Any) -> Shape:
        """The shape of an entry's latents: all are squares."""
        return self.latent_shape

    def pick(self, remaining: list[int], generator: torch.Generator, beside: Any = None) -> list[int]:
        """One subject alone, or two in a collage, whatever lies `beside` it in the batch.

        Each subject's pictures come in shuffled rounds of its own.
        """
        subjects = torch.randperm(self._subject[-1] + 1, generator=generator).tolist()
        chance, empty = torch.rand(2, generator=generator).tolist()
        if chance >= self._probability:
            return [self._next_picture(subjects[0], remaining, generator), ALONE, 0]
        left, right = (self._next_picture(subject, remaining, generator) for subject in subjects[:2])
        prompt = int(torch.randint(self._templates, (), generator=generator))
        return [left, right, self._templates if empty < self._unconditional else prompt]

    def latents(self, index: Tensor, noise: Tensor) -> Tensor:
        """Latents `[n, c, h, w]` of the entries `index [n, 3]`, with `noise` for their posterior."""
        alone = index[:, 1] == ALONE
        here = alone.to(noise.device)
        parts = []
        if alone.any():
            parts.append((here, self._whole.latents(index[alone, 0], noise[here])))
        if not alone.all():
            cut = noise[~here].chunk(2, dim=-1)
            sides = [self._halves.latents(index[~alone, side], cut[side]) for side in (0, 1)]
            parts.append((~here, torch.cat(sides, dim=-1)))
        latents = torch.empty_like(noise, dtype=parts[0][1].dtype)
        for rows, part in parts:
            latents[rows] = part
        return latents

    def masks(self, index: Tensor) -> None:
        """All of a collage counts."""

    def prompts(self, index: Tensor) -> list[str]:
        """The prompts of the entries `index [n, 3]`."""
        return [self._whole.prompts(entry[:1])[0] if entry[1] == ALONE else self._prompt(entry)[0] for entry in index]

    def words(self, index: Tensor) -> list[Word]:
        """The special words of the collages' subjects, each with the half that is its own."""
        return [
            Word(sample, tokens, side)
            for sample, entry in enumerate(index)
            if entry[1] != ALONE
            for side, tokens in enumerate(self._prompt(entry)[1])
        ]

    def every_prompt(self) -> list[str]:
        """All prompts that samples can have."""
        return [*self._whole.every_prompt(), *(prompt for prompt, _ in self._prompts.values())]

    def _prompt(self, entry: Tensor) -> _Prompt:
        """The prompt of a collage, and the tokens of its special words."""
        left, right, template = entry.tolist()
        return self._prompts[self._subject[left], self._subject[right], template]

    def _next_picture(self, subject: int, remaining: list[int], generator: torch.Generator) -> int:
        """The next picture of a subject, taken from `remaining`."""
        if not any(self._subject[number] == subject for number in remaining):
            order = torch.randperm(self._subject.count(subject), generator=generator) + self._subject.index(subject)
            remaining += order.tolist()
        number: int = [number for number in remaining if self._subject[number] == subject][-1]
        remaining.remove(number)
        return number


def _prompts(
    pipe: Any, names: Sequence[SubjectPrompt], templates: Sequence[str]
) -> dict[tuple[int, int, int], _Prompt]:
    """Prompts by left subject, right subject and template; the last template is the empty prompt."""
    found: dict[tuple[int, int, int], _Prompt] = {}
    mapped = family_of(pipe).cross_attention  # only then is attention to words read
    for left, right in permutations(range(len(names)), 2):
        for number, template in enumerate(templates):
            prompt = pair_prompt(template, names[left], names[right])
            words = [names[subject].word for subject in (left, right)]
            tokens = tuple(word_tokens(pipe.tokenizer, prompt, word) for word in words if word and mapped)
            found[left, right, number] = prompt, tokens
        found[left, right, len(templates)] = "", ()
    return found
