"""The memory of a training step by part, and what of it is estimated."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from spectra.naming.target_subsets import DENOISERS
from spectra.training.run.memory import SMALL

if TYPE_CHECKING:
    from spectra.planning.request import PlanRequest

CONTEXT = 600_000_000
"""Bytes that CUDA and its libraries take for themselves; estimated."""

SPARE = 0.05
"""Of everything else, for buffers that live as long as one operation and for fragments; estimated."""


@dataclass(frozen=True)
class Memory:
    """Bytes of one training step by part.

    Attributes:
        weights: frozen, by component.
        spectra: singular vectors and remade weights that layers keep.
        trained: the shift's parameters, and a copy of their values.
        gradients, optimizer: of these parameters.
        activations: kept from forward to backward, without gradient checkpointing.
        checkpointed: with it.
    """

    weights: Mapping[str, int]
    spectra: int
    trained: int
    gradients: int
    optimizer: int
    activations: int
    checkpointed: int

    def counted(self, *, checkpointing: bool) -> int:
        """Everything that is counted."""
        kept = self.checkpointed if checkpointing else self.activations
        return sum(self.weights.values()) + self.spectra + self.trained + self.gradients + self.optimizer + kept

    def other(self, *, checkpointing: bool) -> int:
        """What is estimated beside that: `CONTEXT` and `SPARE`."""
        return CONTEXT + round(SPARE * self.counted(checkpointing=checkpointing))

    def total(self, *, checkpointing: bool) -> int:
        """Both."""
        return self.counted(checkpointing=checkpointing) + self.other(checkpointing=checkpointing)


def checkpoints(request: PlanRequest, memory: Memory) -> bool:
    """Whether blocks are computed once more in the backward pass: as was asked for, or as a training decides."""
    if request.config.gradient_checkpointing is not None:
        return request.config.gradient_checkpointing
    denoiser = sum(size for name, size in memory.weights.items() if name in DENOISERS)
    return memory.activations > denoiser >= SMALL
