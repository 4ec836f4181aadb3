"""Interference of the shifts of a merge, coordinate by coordinate, and what the ReLU cuts off of the result.

A shift's contribution is `c_i = weight_i * scale_i * delta_i`. Counted per block:

    opposed     coordinates where two contributions have opposite signs
    cosine      sum over pairs of c_i . c_j, as a part of sum over pairs of ||c_i|| ||c_j||: of two shifts, their cosine
    energy      ||sum c_i||^2 / sum ||c_i||^2: 1 where they do not meet, below it where they cancel, above it where they
                strengthen each other
    clipped     coordinates of weights with known sigma where sigma + delta < 0, so that the ReLU gives 0
    lost        the part of ||delta||^2 that Delta W does not get there: 1 - ||d||^2 / ||delta||^2, with
                d = ReLU(sigma + delta) - sigma
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from spectra.combine.merging.registry import Row, Rows
from spectra.naming.blocks import natural_order
from spectra.shift.singular_values import singular_value_change


class Tally:
    """Sums over some weights of a merge of `count` shifts."""

    def __init__(self, count: int) -> None:
        self.weights = self.floats = self.opposed = 0
        self.known = self.clipped = self.clipped_alone = 0
        self.energies = np.zeros(count)  # ||c_i||^2
        self.energy_of_sum = 0.0
        self.energy = 0.0  # of the result
        self.energy_known = self.energy_kept = 0.0  # of the result where sigma is known, and what ReLU leaves of it
        self.dots = np.zeros(count)  # of the result and c_i

    def add(self, contributions: Rows, delta: Row) -> None:
        """One weight: contributions `[k, n]`, result `[n]`."""
        self.weights += 1
        self.floats += delta.size
        self.opposed += int(np.count_nonzero((contributions.min(axis=0) < 0) & (contributions.max(axis=0) > 0)))
        self.energies += np.sum(np.square(contributions), axis=1)
        self.energy_of_sum += float(np.sum(np.square(np.sum(contributions, axis=0))))
        self.energy += float(np.sum(np.square(delta)))
        self.dots += np.sum(contributions * delta, axis=1)

    def add_clipping(self, alone: Rows, delta: Row, sigma: Row) -> None:
        """Counts what the ReLU cuts off of one weight: deltas of single shifts `[k, n]`, result and sigma `[n]`."""
        self.known += delta.size
        self.clipped += int(np.count_nonzero(delta < -sigma))
        self.clipped_alone += int(np.count_nonzero(alone.min(axis=0) < -sigma))
        self.energy_known += float(np.sum(np.square(delta)))
        self.energy_kept += float(np.sum(np.square(singular_value_change(sigma, delta))))

    @property
    def cosine(self) -> float | None:
        """Mean cosine between contributions, each pair by its lengths; None where fewer than two are not zero."""
        together = float(np.sum(self.energies))
        pairs = float(np.sum(np.sqrt(self.energies))) ** 2 - together
        return (self.energy_of_sum - together) / pairs if np.count_nonzero(self.energies) > 1 and pairs > 0 else None

    def as_dict(self, name: str) -> dict[str, Any]:
        """The figures as JSON values; None where there is nothing to measure."""
        parts = float(np.sum(self.energies))
        return {
            "name": name,
            "weights": self.weights,
            "floats": self.floats,
            "norm": math.sqrt(self.energy),
            "opposed": self.opposed,
            "cosine": self.cosine,
            "energy": self.energy_of_sum / parts if parts else None,
            "known": self.known,
            "clipped": self.clipped if self.known else None,
            "clipped_alone": self.clipped_alone if self.known else None,
            "lost": 1.0 - self.energy_kept / self.energy_known if self.energy_known else None,
        }


@dataclass(frozen=True)
class Prediction:
    """Interference and clipping of a merge, known before any picture is drawn.

    Attributes:
        blocks: by name of the block, numbered ones in order.
        total: all of them.
        singular_values: how many the shifted weights have, known or not.
    """

    blocks: dict[str, Tally]
    total: Tally
    singular_values: int

    def cosines(self) -> list[float | None]:
        """The cosine of the result with each contribution; None for a shift that contributes nothing."""
        lengths = np.sqrt(self.total.energies * self.total.energy)
        return [float(dot / size) if size else None for dot, size in zip(self.total.dots, lengths, strict=True)]

    def as_dict(self) -> dict[str, Any]:
        """The figures as JSON values."""
        return {
            "blocks": [tally.as_dict(name) for name, tally in self.blocks.items()],
            "total": self.total.as_dict("total"),
            "singular_values": self.singular_values,
        }


def predict(tallies: Mapping[str, Tally], count: int, singular_values: int) -> Prediction:
    """The prediction for a merge of `count` shifts, from the sums of each block."""
    total = Tally(count)
    for tally in tallies.values():
        for name, value in vars(tally).items():
            setattr(total, name, getattr(total, name) + value)
    return Prediction({block: tallies[block] for block in natural_order(tallies)}, total, singular_values)
