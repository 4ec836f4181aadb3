"""Interference of the shifts of a merge, coordinate by coordinate, and what the ReLU cuts off of the result.

A shift's contribution is `c_i = weight_i * scale_i * delta_i`, and of the tokens of special words the same of their
vectors. Counted per block:

    opposed     coordinates where two contributions have opposite signs
    cosine      sum over pairs of c_i . c_j, as a part of sum over pairs of ||c_i|| ||c_j||: of two shifts, their cosine
    energy      ||sum c_i||^2 / sum ||c_i||^2: 1 where they do not meet, below it where they cancel, above it where they
                strengthen each other
    clipped     coordinates of weights with known sigma where sigma + delta < 0, so that the ReLU gives 0
    lost        the part of ||delta||^2 that Delta W does not get there: 1 - ||d||^2 / ||delta||^2, with
                d = ReLU(sigma + delta) - sigma

Outer terms are counted apart, cosine and energy with `c_i` the change that a shift's terms make times scale and
weight, exactly, from inner products of their vectors; per block and per weight, with the part of their change that is
lost where fewer terms are kept.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

import numpy as np

from spectra.combine.merging.stacked_terms import Row, Rows, stack_terms
from spectra.combine.truncation import Truncated
from spectra.naming.blocks import natural_order
from spectra.shift.outer_terms import OuterTerms
from spectra.shift.singular_values import singular_value_change

S = TypeVar("S")


class _Sums:
    """Sums over some weights of a merge of `count` shifts, and what follows from them."""

    def __init__(self, count: int) -> None:
        self.weights = 0
        self.energies = np.zeros(count)  # ||c_i||^2
        self.energy_of_sum = 0.0
        self.energy = 0.0  # of the result
        self.dots = np.zeros(count)  # of the result and c_i

    @property
    def cosine(self) -> float | None:
        """Mean cosine between contributions, each pair by its lengths; None where fewer than two are not zero."""
        together = float(np.sum(self.energies))
        pairs = float(np.sum(np.sqrt(self.energies))) ** 2 - together
        return (self.energy_of_sum - together) / pairs if np.count_nonzero(self.energies) > 1 and pairs > 0 else None

    @property
    def meeting(self) -> dict[str, float | None]:
        """Cosine and energy as JSON values."""
        parts = float(np.sum(self.energies))
        return {"cosine": self.cosine, "energy": self.energy_of_sum / parts if parts else None}


class Tally(_Sums):
    """Sums over the deltas and tokens of some weights."""

    def __init__(self, count: int) -> None:
        super().__init__(count)
        self.floats = self.opposed = 0
        self.known = self.clipped = self.clipped_alone = 0
        self.energy_known = self.energy_kept = 0.0  # of the result where sigma is known, and what ReLU leaves of it

    def add(self, contributions: Rows, delta: Row) -> None:
        """One weight's delta, or one token: contributions `[k, n]`, result `[n]`."""
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

    def as_dict(self, name: str) -> dict[str, Any]:
        """The figures as JSON values; None where there is nothing to measure."""
        return {
            "name": name,
            "weights": self.weights,
            "floats": self.floats,
            "norm": math.sqrt(self.energy),
            "opposed": self.opposed,
            **self.meeting,
            "known": self.known,
            "clipped": self.clipped if self.known else None,
            "clipped_alone": self.clipped_alone if self.known else None,
            "lost": 1.0 - self.energy_kept / self.energy_known if self.energy_known else None,
        }


class TermTally(_Sums):
    """Sums over the outer terms of some weights; `rank` counts those of the result."""

    def __init__(self, count: int) -> None:
        super().__init__(count)
        self.rank = 0
        self.whole = self.lost = 0.0  # ||.||^2 of all merged terms, and of what fewer of them leave out

    def add(self, shifts: Sequence[OuterTerms | None], factors: Row, result: Truncated) -> None:
        """One weight: terms of each shift, what they are multiplied with `[k]`, and the result."""
        self.weights += 1
        self.whole += result.energy
        self.lost += result.lost
        products = _products(shifts, factors)
        self.energies += np.diag(products)
        self.energy_of_sum += float(np.sum(products))
        terms = result.terms
        if terms is not None:
            self.rank += terms.rank
            self.energy += terms.dot(terms)
            self.dots += [
                factor * each.dot(terms) if each else 0.0 for factor, each in zip(factors, shifts, strict=True)
            ]

    def as_dict(self, name: str) -> dict[str, Any]:
        """The figures as JSON values; None where there is nothing to measure."""
        return {
            "name": name,
            "weights": self.weights,
            "terms": self.rank,
            "norm": math.sqrt(max(0.0, self.energy)),
            **self.meeting,
            "error": math.sqrt(self.lost / self.whole) if self.whole else 0.0,
        }


def _products(shifts: Sequence[OuterTerms | None], factors: Row) -> Rows:
    """`<c_i, c_j>` of the changes that the terms of shifts make: `[k, k]`. Figures alone follow from it, no values."""
    stacked = stack_terms(shifts, factors)
    products = stacked.a @ stacked.a.T
    products *= stacked.b @ stacked.b.T
    if stacked.kernel is not None:
        products *= stacked.kernel @ stacked.kernel.T
    return stacked.by_shift(stacked.by_shift(products).T)


@dataclass(frozen=True)
class SharedToken:
    """A token to which special words of several shifts add something: they change the same row of an embedding.

    Attributes:
        weight: the embedding's name.
        token: its id.
        shifts: which have it, by their place from 0.
        cosine: between their contributions; of more than two the mean over pairs, each by its lengths.
    """

    weight: str
    token: int
    shifts: tuple[int, ...]
    cosine: float | None


def shared_token(weight: str, token: int, shifts: tuple[int, ...], contributions: Rows) -> SharedToken:
    """The meeting of special words in one token, with contributions `[k, dim]`."""
    sums = Tally(len(contributions))
    sums.add(contributions, contributions[0])
    return SharedToken(weight, token, shifts, sums.cosine)


@dataclass(frozen=True)
class Prediction:
    """Interference and clipping of a merge, known before any picture is drawn.

    Attributes:
        blocks: by name of the block, numbered ones in order.
        total: all of them.
        terms: outer terms by name of the block; empty if no shift has any.
        all_terms: all of them.
        weights: outer terms by name of the weight.
        tokens: to which special words of several shifts add something.
        singular_values: how many the shifted weights have, known or not.
    """

    blocks: dict[str, Tally]
    total: Tally
    terms: dict[str, TermTally]
    all_terms: TermTally
    weights: dict[str, TermTally]
    tokens: tuple[SharedToken, ...]
    singular_values: int

    def cosines(self) -> list[float | None]:
        """The cosine of the result with each contribution; None for a shift that contributes nothing.

        Deltas and outer terms count as if they stood at right angles to each other: what they have in common follows
        from singular vectors alone.
        """
        parts = (self.total, self.all_terms)
        dots, energies, energy = (sum(getattr(part, name) for part in parts) for name in ("dots", "energies", "energy"))
        lengths = np.sqrt(energies * energy)
        return [float(dot / size) if size else None for dot, size in zip(dots, lengths, strict=True)]

    def as_dict(self) -> dict[str, Any]:
        """The figures as JSON values."""
        return {
            "blocks": [tally.as_dict(name) for name, tally in self.blocks.items()],
            "total": self.total.as_dict("total"),
            "outer_terms": {
                "blocks": [tally.as_dict(name) for name, tally in self.terms.items()],
                "weights": [tally.as_dict(name) for name, tally in self.weights.items()],
                "total": self.all_terms.as_dict("total"),
            }
            if self.terms
            else None,
            "shared_tokens": [{**vars(each), "shifts": list(each.shifts)} for each in self.tokens],
            "singular_values": self.singular_values,
        }


class Interference:
    """Gathers what is told of a merge of `count` shifts, weight after weight."""

    def __init__(self, count: int) -> None:
        self._count = count
        self._blocks: dict[str, Tally] = {}
        self._terms: dict[str, TermTally] = {}
        self._weights: dict[str, TermTally] = {}
        self._tokens: list[SharedToken] = []

    def of_block(self, block: str) -> Tally:
        """The sums over the deltas of a block, to be added to; one more weight of it is counted."""
        tally = self._blocks.setdefault(block, Tally(self._count))
        tally.weights += 1
        return tally

    def add_terms(
        self, weight: str, block: str, shifts: Sequence[OuterTerms | None], factors: Row, result: Truncated
    ) -> None:
        """The outer terms of a weight, as `TermTally.add`."""
        self._weights[weight] = TermTally(self._count)
        self._weights[weight].add(shifts, factors, result)
        self._terms[block] = _sum([self._weights[weight], self._terms.get(block, TermTally(self._count))])

    def add_token(self, token: SharedToken) -> None:
        """A token that several shifts have."""
        self._tokens.append(token)

    def prediction(self, singular_values: int) -> Prediction:
        """All of it, for shifted weights with so many singular values."""
        return Prediction(
            blocks={block: self._blocks[block] for block in natural_order(self._blocks)},
            total=_sum([Tally(self._count), *self._blocks.values()]),
            terms={block: self._terms[block] for block in natural_order(self._terms)},
            all_terms=_sum([TermTally(self._count), *self._terms.values()]),
            weights=self._weights,
            tokens=tuple(self._tokens),
            singular_values=singular_values,
        )


def _sum(tallies: Sequence[S]) -> S:
    """A tally of all that these counted."""
    total = copy.deepcopy(tallies[0])
    for tally in tallies[1:]:
        for name, value in vars(tally).items():
            setattr(total, name, getattr(total, name) + value)
    return total
