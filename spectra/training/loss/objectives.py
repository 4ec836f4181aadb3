"""Terms of the training loss. The loop draws samples for each, predicts once for all of them, and adds the terms.

Everything random of a step is drawn here, per sample, on the CPU and from one generator: a step's samples are then
the same however they are cut into batches, on any device, and after a resume.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

import torch
from torch import Tensor

from spectra.errors import BaseError
from spectra.families.attention import Maps, Word


class Source(Protocol):
    """Where samples come from: latents of pictures, and their prompts."""

    def pick(self, remaining: list[int], generator: torch.Generator) -> int | list[int]:
        """One sample's entry of `index`: which picture, or how one is put together; takes it from `remaining`."""

    def latents(self, index: Tensor, noise: Tensor) -> Tensor:
        """Latents `[n, c, h, w]` of `n` entries of `index`, drawn from their posterior by standard normal `noise`."""

    def prompts(self, index: Tensor) -> list[str]:
        """Their prompts."""

    def every_prompt(self) -> Sequence[str]:
        """All prompts that samples can have."""

    def words(self, index: Tensor) -> list[Word]:
        """Words of theirs that belong to one half of the picture."""

    @property
    def latent_shape(self) -> tuple[int, int, int]:
        """`(c, h, w)`."""


@dataclass(frozen=True)
class Draw:
    """What was drawn for `n` samples: a source's entries, posterior noise, noise and timesteps."""

    index: Tensor
    posterior: Tensor
    noise: Tensor
    timesteps: Tensor

    def split(self, size: int) -> list[Draw]:
        """The same in pieces of `size` samples."""
        pieces = zip(
            *(part.split(size) for part in (self.index, self.posterior, self.noise, self.timesteps)), strict=True
        )
        return [Draw(*piece) for piece in pieces]


@dataclass(frozen=True)
class Samples:
    """What the model is asked: `noisy [n, c, h, w]` at `timesteps [n]` with `n` prompts; and what it should answer.

    `words` are those whose cross-attention is asked for too.
    """

    noisy: Tensor
    timesteps: Tensor
    prompts: Sequence[str]
    target: Tensor
    weight: Tensor
    words: Sequence[Word] = ()


@dataclass(frozen=True)
class Answer:
    """What the model answered: `prediction [n, c, h, w]`, and the maps of the words that were asked for."""

    prediction: Tensor
    maps: Maps = field(default_factory=list)


class Term(Protocol):
    """A term of the loss.

    Attributes:
        name: in logs.
    """

    name: str

    def weight_at(self, done: float) -> float:
        """Its weight in the sum of the terms, where `done` of the steps are done, a share from 0 to 1."""

    def term(self, answer: Answer, samples: Samples) -> Tensor:
        """The loss, a scalar, not yet weighted."""


class Objective(Term, Protocol):
    """A term of the loss that asks the model for samples of its own.

    Attributes:
        from_base: the target is what the frozen base answers to the same question, instead of the one in `samples`.
        remaining: pictures not yet drawn in this round; the only state, saved and restored with a training.
        also: further terms of the same samples and answer.
    """

    from_base: bool
    remaining: list[int]
    also: Sequence[Term]

    def draw(self, count: int, generator: torch.Generator) -> Draw:
        """Everything random that `count` samples need."""

    def samples(self, draw: Draw, device: torch.device) -> Samples:
        """What to ask the model."""


@dataclass(frozen=True)
class Schedule:
    """A noise schedule: `alphas_cumprod [T]` (float64), what the model predicts, and the min-SNR clip (0: none)."""

    alphas_cumprod: Tensor
    prediction: str
    min_snr_gamma: float = 0.0

    @classmethod
    def of(cls, scheduler: Any, min_snr_gamma: float) -> Schedule:
        """That of a diffusers scheduler.

        Raises:
            BaseError: it predicts something that is not known here.
        """
        prediction = scheduler.config.prediction_type
        if prediction not in ("epsilon", "v_prediction", "sample"):
            raise BaseError(f"prediction type {prediction!r} is not known; expected epsilon, v_prediction or sample")
        return cls(scheduler.alphas_cumprod.to("cpu", torch.float64), prediction, min_snr_gamma)

    def noisy_and_target(self, latents: Tensor, noise: Tensor, timesteps: Tensor) -> tuple[Tensor, Tensor]:
        """`z_t = sqrt(a) z + sqrt(1 - a) eps`, and what the model should predict from it."""
        alpha = self.alphas_cumprod[timesteps.cpu()].to(latents.device).view(-1, 1, 1, 1)
        signal, spread = alpha.sqrt().to(latents.dtype), (1 - alpha).sqrt().to(latents.dtype)
        noisy = signal * latents + spread * noise
        if self.prediction == "epsilon":
            return noisy, noise
        if self.prediction == "sample":
            return noisy, latents
        return noisy, signal * noise - spread * latents

    def velocity(self, noisy: Tensor, prediction: Tensor, timesteps: Tensor) -> Tensor:
        """`v = sqrt(a) eps - sqrt(1 - a) z` as a prediction for `noisy [n, c, h, w]` implies it, of whatever kind."""
        if self.prediction == "v_prediction":
            return prediction
        alpha = self.alphas_cumprod[timesteps.cpu()].to(noisy.device).view(-1, 1, 1, 1)
        signal, spread = alpha.sqrt().to(noisy.dtype), (1 - alpha).sqrt().to(noisy.dtype)
        if self.prediction == "epsilon":
            return (prediction - spread * noisy) / signal
        return (signal * noisy - prediction) / spread

    def weights(self, timesteps: Tensor) -> Tensor:
        """Min-SNR weights `[n]` (arXiv:2303.09556, equation 4, for each kind of prediction); ones without a clip."""
        if self.min_snr_gamma == 0:
            return torch.ones(timesteps.shape[0])
        alpha = self.alphas_cumprod[timesteps.cpu()]
        snr = alpha / (1 - alpha)
        clipped = snr.clamp_max(self.min_snr_gamma)
        if self.prediction == "sample":
            weights = clipped
        elif self.prediction == "v_prediction":
            weights = clipped / (snr + 1)
        else:
            weights = torch.where(snr > 0, clipped / snr.clamp_min(1e-30), 1.0)  # its limit where there is no signal
        return weights.to(torch.float32)


@dataclass
class Denoising:
    """`E w(t) ||prediction - target||^2` over the pictures of a source (SVDiff, equation 4).

    The instance pictures give the main term. The class pictures of the frozen base give prior preservation, with the
    same formula and its own weight. `from_base` makes that a distillation: the base's answer has not the variance of
    the noise, and nothing pulls where nothing has changed.
    """

    name: str
    source: Source
    schedule: Schedule
    weight: float = 1.0
    from_base: bool = False
    remaining: list[int] = field(default_factory=list)
    also: Sequence[Term] = ()

    def weight_at(self, done: float) -> float:
        """The same at every step."""
        return self.weight

    def draw(self, count: int, generator: torch.Generator) -> Draw:
        """What the source picks, and noise, sample by sample."""
        shape = self.source.latent_shape
        index, normals, timesteps = [], [], []
        for _ in range(count):
            index.append(self.source.pick(self.remaining, generator))
            normals.append(torch.randn((2, *shape), generator=generator))
            timesteps.append(torch.randint(len(self.schedule.alphas_cumprod), (), generator=generator))
        posterior, noise = torch.stack(normals, dim=1)
        return Draw(torch.tensor(index), posterior, noise, torch.stack(timesteps))

    def samples(self, draw: Draw, device: torch.device) -> Samples:
        """Noisy latents of the drawn pictures, and the target."""
        latents = self.source.latents(draw.index, draw.posterior.to(device))
        timesteps = draw.timesteps.to(device)
        noisy, target = self.schedule.noisy_and_target(latents, draw.noise.to(device), timesteps)
        weight = self.schedule.weights(draw.timesteps).to(device)
        prompts, words = self.source.prompts(draw.index), self.source.words(draw.index)
        return Samples(noisy, timesteps, prompts, target, weight, words if self.also else ())

    def term(self, answer: Answer, samples: Samples) -> Tensor:
        """The weighted mean squared error, in float32."""
        error = (answer.prediction.float() - samples.target.float()).square().mean(dim=(1, 2, 3))
        return (error * samples.weight).mean()
