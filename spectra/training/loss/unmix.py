"""Unmix: keeps the special word of one subject from attending to the half of another (SVDiff, section 3.3).

The paper leaves weight, layers and schedule open; here they are settings. Beware of large weights: the term is smallest
where a special word is attended to nowhere, on its own half either. On the embedded base it comes to that from a weight
of .1 on (fox and wolf, 300 steps).
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from spectra.training.loss.terms import ModelPrediction, NoisySamples


@dataclass
class UnmixTerm:
    """The mean square of a special word's attention over the other subject's half.

    The mean is over heads, places, the word's tokens, the collage's two words, layers and samples. A sample that is
    no collage counts as zero, so that it does not matter how samples are cut into batches.

    `schedule` is "constant"; "falling" linearly to zero over the steps, or "rising" from zero to `weight`.
    """

    weight: float
    schedule: str = "constant"
    name: str = "unmix"

    def weight_at(self, done: float) -> float:
        """The weight by the schedule, where `done` of the steps are done."""
        return self.weight * {"constant": 1.0, "falling": 1 - done, "rising": done}[self.schedule]

    def loss(self, prediction: ModelPrediction, samples: NoisySamples) -> Tensor:
        """The loss, in float32."""
        height, width = samples.noisy.shape[-2:]
        total = prediction.output.new_zeros((), dtype=torch.float32)
        for layer in prediction.attention_maps:
            for word, attention in zip(samples.words, layer, strict=True):
                mask = other_half_mask(height, width, attention.shape[1], word.side).to(attention.device)
                squares = attention.float().square().mean(dim=(0, 2))
                total = total + (squares * mask).sum() / mask.sum()
        return total / (2 * len(samples.timesteps) * max(1, len(prediction.attention_maps)))


def other_half_mask(height: int, width: int, places: int, side: int) -> Tensor:
    """How much of each place of a map lies in the half that is not `side`'s, `[places]` from 0 to 1.

    The map has `places` places for latents `[height, width]`.
    """
    across = round(math.sqrt(places * width / height))
    left = (across / 2 - torch.arange(across)).clamp(0, 1)
    return (1 - left if side == 0 else left).repeat(places // across)
