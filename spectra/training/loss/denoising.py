"""The mean squared error of the model's prediction: the main term of the loss, and prior preservation."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor

from spectra.families.noise_schedule import Schedule
from spectra.training.data.collage import CollageSource
from spectra.training.data.latents import PictureSource
from spectra.training.loss.terms import Draw, LossTerm, ModelPrediction, NoisySamples


@dataclass
class DenoisingObjective:
    """`E w(t) ||prediction - target||^2` over the pictures of a source (SVDiff, equation 4).

    The instance pictures give the main term. The class pictures of the frozen base give prior preservation, with the
    same formula and its own weight.

    Attributes:
        from_base: the target is what the frozen base predicts for the same samples, instead of the noise in them. That
            has not the noise's variance, and nothing pulls where nothing has changed.
        noise_offset: spread of what is added to each channel of the noise as a whole, so that pictures may become
            darker or brighter than the base draws them; 0 for none.
        base_prompts: what the frozen base is asked where that is not what the model is asked, by the model's prompt.
        stratified: the times of samples that are drawn together lie in equal parts of all times, one in each.
        remaining: pictures not yet drawn in this round; the only state, saved and restored with a training.
        extra_terms: further terms, of the same samples and prediction.
    """

    name: str
    source: PictureSource | CollageSource
    schedule: Schedule
    weight: float = 1.0
    from_base: bool = False
    noise_offset: float = 0.0
    base_prompts: Mapping[str, str] = field(default_factory=dict)
    stratified: bool = False
    remaining: list[int] = field(default_factory=list)
    extra_terms: Sequence[LossTerm] = ()

    @property
    def terms(self) -> tuple[LossTerm, ...]:
        """Every term of the loss that judges these samples: itself, and the extra ones."""
        return (self, *self.extra_terms)

    def every_prompt(self) -> list[str]:
        """All prompts that the model or the base can be asked."""
        return [*self.source.every_prompt(), *self.base_prompts.values()]

    def weight_at(self, done: float) -> float:
        """The weight, which is the same at every step."""
        return self.weight

    def draw(self, count: int, size: int, generator: torch.Generator) -> list[Draw]:
        """Everything random that `count` samples need, in batches of `size` at most, each of pictures of one shape."""
        index: list[Any] = []
        normals, timesteps = [], []
        for number in range(count):
            first = number - number % size
            index.append(self.source.pick(self.remaining, generator, index[first] if number > first else None))
            shape = self.source.shape(index[number])
            own = torch.randn((2, *shape), generator=generator)
            if self.noise_offset:
                own[1] += self.noise_offset * torch.randn((shape[0], 1, 1), generator=generator)
            normals.append(own)
            timesteps.append(self.schedule.draw(generator))
        if self.stratified:
            parts = torch.randperm(count, generator=generator) + torch.rand(count, generator=generator)
            timesteps = [*self.schedule.at(parts / count)]
        draws = []
        for batch in (slice(first, first + size) for first in range(0, count, size)):
            posterior, noise = torch.stack(normals[batch], dim=1)
            draws.append(Draw(torch.tensor(index[batch]), posterior, noise, torch.stack(timesteps[batch])))
        return draws

    def samples(self, draw: Draw, device: torch.device) -> NoisySamples:
        """What to give the model for a draw, and what it should predict."""
        latents = self.source.latents(draw.index, draw.posterior.to(device))
        timesteps = draw.timesteps.to(device)
        noisy, target = self.schedule.noisy_and_target(latents, draw.noise.to(device), timesteps)
        weight = self.schedule.weights(draw.timesteps).to(device)
        prompts, words = self.source.prompts(draw.index), self.source.words(draw.index)
        mask = self.source.masks(draw.index)
        return NoisySamples(
            noisy,
            timesteps,
            prompts,
            target,
            weight,
            words if self.extra_terms else (),
            None if mask is None else mask.to(device),
        )

    def asked_of_base(self, samples: NoisySamples) -> NoisySamples:
        """The same samples with the prompts that the frozen base is asked."""
        return replace(samples, prompts=[self.base_prompts.get(prompt, prompt) for prompt in samples.prompts])

    def loss(self, prediction: ModelPrediction, samples: NoisySamples) -> Tensor:
        """The weighted mean squared error, in float32; of a sample with a mask over what that shows alone."""
        error = (prediction.output.float() - samples.target.float()).square()
        if samples.mask is not None:
            error = error * (samples.mask / samples.mask.mean(dim=(1, 2, 3), keepdim=True))
        return (error.mean(dim=(1, 2, 3)) * samples.weight).mean()
