"""What the training loop knows of the loss: it draws samples of each objective, predicts once, and adds the terms.

Everything random of a step is drawn per sample, on the CPU and from one generator: a step's samples are then the same
however they are cut into batches, on any device, and after a resume.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Protocol

import torch
from torch import Tensor

from spectra.families.attention import Maps, Word


class SampleSource(Protocol):
    """Latents of pictures and their prompts, which samples are made of."""

    def pick(self, remaining: list[int], generator: torch.Generator) -> int | list[int]:
        """The `index` entry of one sample: which picture, or how one is put together; takes it from `remaining`."""

    def latents(self, index: Tensor, noise: Tensor) -> Tensor:
        """Latents `[n, c, h, w]` of `n` entries of `index`, drawn from their posterior by standard normal `noise`."""

    def prompts(self, index: Tensor) -> list[str]:
        """The prompts of `n` entries of `index`."""

    def every_prompt(self) -> Sequence[str]:
        """All prompts that samples can have."""

    def words(self, index: Tensor) -> list[Word]:
        """Words of the prompts that belong to one half of the picture."""

    @property
    def latent_shape(self) -> tuple[int, int, int]:
        """`(c, h, w)` of one sample's latents."""


@dataclass(frozen=True)
class Draw:
    """Everything random of `n` samples: entries of a source, posterior noise, noise and timesteps."""

    index: Tensor
    posterior: Tensor
    noise: Tensor
    timesteps: Tensor

    def split(self, size: int) -> list[Draw]:
        """Pieces of `size` samples each."""
        pieces = zip(
            *(part.split(size) for part in (self.index, self.posterior, self.noise, self.timesteps)), strict=True
        )
        return [Draw(*piece) for piece in pieces]


@dataclass(frozen=True)
class NoisySamples:
    """What the model is given, and what it should predict.

    Attributes:
        noisy: latents `[n, c, h, w]` with noise.
        timesteps: `[n]`.
        prompts: `n` of them.
        target: what should be predicted, `[n, c, h, w]`.
        weight: of each sample in the loss, `[n]`.
        words: whose cross-attention is read too.
    """

    noisy: Tensor
    timesteps: Tensor
    prompts: Sequence[str]
    target: Tensor
    weight: Tensor
    words: Sequence[Word] = ()


@dataclass(frozen=True)
class ModelPrediction:
    """What the model returned: `output [n, c, h, w]`, and the attention maps of the words that were to be read."""

    output: Tensor
    attention_maps: Maps = field(default_factory=list)


class LossTerm(Protocol):
    """A term of the loss.

    Attributes:
        name: in logs.
    """

    name: str

    def weight_at(self, done: float) -> float:
        """The term's weight in the sum where `done` of the steps are done, a share from 0 to 1."""

    def loss(self, prediction: ModelPrediction, samples: NoisySamples) -> Tensor:
        """The loss, a scalar, not yet weighted."""


class Objective(LossTerm, Protocol):
    """A term of the loss that has samples of its own.

    Attributes:
        from_base: the target is what the frozen base predicts for the same samples, instead of the one in them.
        remaining: pictures not yet drawn in this round; the only state, saved and restored with a training.
        extra_terms: further terms, of the same samples and prediction.
    """

    from_base: bool
    remaining: list[int]
    extra_terms: Sequence[LossTerm]

    def draw(self, count: int, generator: torch.Generator) -> Draw:
        """Everything random that `count` samples need."""

    def samples(self, draw: Draw, device: torch.device) -> NoisySamples:
        """What to give the model for a draw."""
