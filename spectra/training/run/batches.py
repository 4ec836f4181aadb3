"""What concepts draw for a step, in batches, and which of it each process computes."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import NamedTuple

import torch

from spectra.errors import ProcessError
from spectra.training.loss.denoising import DenoisingObjective
from spectra.training.loss.terms import Draw
from spectra.training.processes.group import Processes


@dataclass
class Concept:
    """What one concept brings to a training: the objectives of its loss, a seed for all that is drawn, and a history.

    The name is for messages. The history has a record of each step.
    """

    name: str
    objectives: Sequence[DenoisingObjective]
    seed: int
    history: list[dict[str, float]] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.generator = torch.Generator("cpu").manual_seed(self.seed)


class Minibatch(NamedTuple):
    """What was drawn for one objective of the concept with this number, or a process's samples of it.

    `part` is the share of the samples that these are, by which their mean counts.
    """

    concept: int
    objective: DenoisingObjective
    draw: Draw
    part: float = 1.0


def by_shape(batch: Sequence[Minibatch]) -> list[list[Minibatch]]:
    """The parts of a batch in groups of one shape, which one call of the model can take."""
    shapes = dict.fromkeys(part.draw.noise.shape[1:] for part in batch)
    return [[part for part in batch if part.draw.noise.shape[1:] == shape] for shape in shapes]


def of_process(batch: Sequence[Minibatch], number: int, processes: Processes) -> list[Minibatch]:
    """The samples of the `number`-th batch of a step that are a process's; without parts of which it has none.

    Where all processes must call the model as often, it has one sample at least, which counts for nothing then.
    """
    if processes.count == 1:
        return list(batch)
    found = []
    for each in batch:
        count = len(each.draw.index)
        rows = processes.rows(count, number * count)
        part = len(rows) / count
        if not rows and processes.lockstep:
            rows = [0]
        if rows:
            draw = Draw(*(getattr(each.draw, name)[rows] for name in ("index", "posterior", "noise", "timesteps")))
            found.append(each._replace(draw=draw, part=each.part * part))
    return found


@contextmanager
def undrawn_if_lost(concepts: Sequence[Concept]) -> Iterator[None]:
    """If another process ends within the block, nothing has been drawn in it, so that a saved state is exact."""
    before = [(each.generator.get_state(), [list(own.remaining) for own in each.objectives]) for each in concepts]
    try:
        yield
    except ProcessError:
        for each, (generator, remaining) in zip(concepts, before, strict=True):
            each.generator.set_state(generator)
            for own, rest in zip(each.objectives, remaining, strict=True):
                own.remaining = rest
        raise
