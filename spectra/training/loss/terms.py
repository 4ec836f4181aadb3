"""What a term of the loss is, and what passes between the training loop, sources of samples and terms."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Protocol

from torch import Tensor

from spectra.families.attention import Maps, Word


@dataclass(frozen=True)
class Draw:
    """Everything random of `n` samples: entries of a source, posterior noise, noise and timesteps.

    All of it is drawn sample by sample, on the CPU and from one generator: a step's samples are then the same however
    they are cut into batches, on any device, and after a resume.
    """

    index: Tensor
    posterior: Tensor
    noise: Tensor
    timesteps: Tensor

    def split(self, size: int) -> list[Draw]:
        """Pieces of `size` samples each."""
        parts = (self.index, self.posterior, self.noise, self.timesteps)
        return [Draw(*piece) for piece in zip(*(part.split(size) for part in parts), strict=True)]


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
    """A term of the loss; logs call it by its name."""

    name: str

    def weight_at(self, done: float) -> float:
        """The term's weight in the sum where `done` of the steps are done, a share from 0 to 1."""

    def loss(self, prediction: ModelPrediction, samples: NoisySamples) -> Tensor:
        """The loss, a scalar, not yet weighted."""
