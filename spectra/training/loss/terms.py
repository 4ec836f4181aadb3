"""What a term of the loss is, and what passes between the training loop, sources of samples and terms."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Protocol

from torch import Tensor

from spectra.families.attention import Maps, Word


@dataclass(frozen=True)
class Draw:
    """Everything random of `n` samples of one shape: entries of a source, posterior noise, noise and timesteps.

    All of a step is drawn at once, on the CPU and from one generator: its samples are then the same on any device,
    after a resume, and, where all pictures have one shape, however they are cut into batches.
    """

    index: Tensor
    posterior: Tensor
    noise: Tensor
    timesteps: Tensor


@dataclass(frozen=True)
class NoisySamples:
    """What the model is given for `n` samples, and what it should predict.

    `noisy` latents and their `target` are `[n, c, h, w]`, `weight [n]` is each sample's in the loss, and `words` are
    those whose cross-attention is read too. `mask [n, 1, h, w]` is how much each place counts; None where all do.
    """

    noisy: Tensor
    timesteps: Tensor
    prompts: Sequence[str]
    target: Tensor
    weight: Tensor
    words: Sequence[Word] = ()
    mask: Tensor | None = None


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
