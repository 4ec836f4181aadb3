"""The memory of a training on an accelerator, phase by phase, and what of it is estimated.

encoding  one of text encoders and VAE at a time
training  a step
drawing   the shift, and one of text encoders, denoiser and VAE at a time
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
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
    """Bytes of one training step by part, and of what comes before and after.

    Attributes:
        weights: frozen, by component, in a step.
        spectra: singular vectors and remade weights that layers keep.
        trained: the shift's parameters, and a copy of their values.
        gradients, optimizer: of these parameters.
        activations: kept from forward to backward, without gradient checkpointing.
        checkpointed: with it.
        encoding: by component, its weights and what it holds beside them at most.
        drawing: likewise; empty where nothing is drawn.
        standing: what a training keeps there while it draws: the shift, the optimizer, spectra and changed weights.
        base: the whole base, in main memory.
    """

    weights: Mapping[str, int]
    spectra: int
    trained: int
    gradients: int
    optimizer: int
    activations: int
    checkpointed: int
    encoding: Mapping[str, int] = field(default_factory=dict)
    drawing: Mapping[str, int] = field(default_factory=dict)
    standing: int = 0
    base: int = 0

    def counted(self, *, checkpointing: bool) -> int:
        """Everything of a step that is counted."""
        kept = self.checkpointed if checkpointing else self.activations
        return sum(self.weights.values()) + self.spectra + self.trained + self.gradients + self.optimizer + kept

    def other(self, *, checkpointing: bool) -> int:
        """What is estimated beside that: `CONTEXT` and `SPARE`."""
        return _with_other(self.counted(checkpointing=checkpointing)) - self.counted(checkpointing=checkpointing)

    def step(self, *, checkpointing: bool) -> int:
        """Both."""
        return _with_other(self.counted(checkpointing=checkpointing))

    def phases(self, *, checkpointing: bool) -> dict[str, int]:
        """The most of each phase, with what is estimated; those that there are."""
        found = {"training": self.step(checkpointing=checkpointing)}
        if self.encoding:
            found = {"encoding": _with_other(max(self.encoding.values())), **found}
        if self.drawing:
            found["drawing"] = _with_other(self.standing + max(self.drawing.values()))
        return found

    def largest(self, *, checkpointing: bool) -> str:
        """The phase that takes the most."""
        found = self.phases(checkpointing=checkpointing)
        return max(found, key=found.__getitem__)

    def total(self, *, checkpointing: bool) -> int:
        """What that phase takes."""
        return max(self.phases(checkpointing=checkpointing).values())


def _with_other(counted: int) -> int:
    return counted + CONTEXT + round(SPARE * counted)


def checkpoints(request: PlanRequest, memory: Memory) -> bool:
    """Whether blocks are computed once more in the backward pass: as was asked for, or as a training decides."""
    if request.config.gradient_checkpointing is not None:
        return request.config.gradient_checkpointing
    denoiser = sum(size for name, size in memory.weights.items() if name in DENOISERS)
    return memory.activations > denoiser >= SMALL
