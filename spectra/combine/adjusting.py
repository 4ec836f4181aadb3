"""Editing one shift: fewer directions, a threshold, another strength for some layers or some singular values.

    adjust(shift, [Scale(0.5, "unet.up_blocks.1"), Band(0.0, 0.1, 0.5), Keep(64)]).shift

Since `Delta W = U diag(delta) V^T` (docs/algebra.md), and outer terms and words add to it, an edit of these is one of
Delta W: the energies and distances told here are those of Delta W, as long as no singular value is clipped. Where a
weight has a delta and other parts, that takes its singular vectors; where the spectrum cache lacks them, the two count
as if they stood at right angles. Deltas are computed in float64, step after step, and rounded once to float32; terms
and words are rounded by each step that scales them. What no step touches stays bit for bit.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

from spectra.combine.deriving import derive_parts
from spectra.combine.truncation import truncated
from spectra.errors import InputError, TargetError
from spectra.naming.target_subsets import matching
from spectra.shift.metadata import JSON
from spectra.shift.provenance import recipe_reference
from spectra.shift.shift import SpectralShift, combine
from spectra.shift.singular_vectors import SingularVectors
from spectra.shift.sums import Parts, Vector, inner_product, sum_terms


@dataclass(frozen=True)
class Only:
    """Leaves out every weight that the pattern does not mean."""

    pattern: str


@dataclass(frozen=True)
class Scale:
    """Multiplies all of delta, of 1-D weights too, outer terms and words; of all weights without a pattern."""

    factor: float
    pattern: str = ""

    def edit(self, parts: Parts) -> Parts:
        """The edited parts of one weight; terms and words that come to nothing are left out."""
        factor = _finite(self.factor)
        outer = sum_terms([(factor, parts.outer)]) if parts.outer else None
        words = parts.words.scaled(factor) if parts.words and factor else None
        return Parts(parts.delta * factor, outer, words)


@dataclass(frozen=True)
class Band:
    """Multiplies delta for a band of singular values: from the share `start` to the share `stop` of them, the largest
    first. Bands that meet share no singular value and leave out none.
    """

    start: float
    stop: float
    factor: float
    pattern: str = ""

    def edit(self, delta: Vector) -> Vector:
        """The edited delta of one weight, `[n]`."""
        if not 0 <= self.start < self.stop <= 1:
            raise InputError(
                f"expected a band from 0 to 1, the largest singular values first, got {self.start}:{self.stop}"
            )
        edited = delta.copy()
        edited[int(self.start * delta.size + 0.5) : int(self.stop * delta.size + 0.5)] *= _finite(self.factor)
        return edited


@dataclass(frozen=True)
class Soft:
    """Soft threshold: every |delta| becomes smaller by `threshold`, in the unit of singular values, and stops at 0."""

    threshold: float
    pattern: str = ""

    def edit(self, delta: Vector) -> Vector:
        """The edited delta of one weight, `[n]`."""
        if not 0 <= self.threshold < math.inf:
            raise InputError(f"expected a threshold of at least 0, got {self.threshold}")
        return np.copysign(np.maximum(np.abs(delta) - self.threshold, 0.0), delta)


@dataclass(frozen=True)
class Keep:
    """Keeps `count` directions of each weight: those of largest |delta|, which is the best approximation of Delta W of
    that rank, or with `first` those of the largest singular values. The others become 0.
    """

    count: int
    pattern: str = ""
    first: bool = False

    def edit(self, delta: Vector) -> Vector:
        """The edited delta of one weight, `[n]`; of equal |delta|, those of larger singular values stay."""
        if self.count < 0:
            raise InputError(f"expected at least 0 directions to keep, got {self.count}")
        order = np.arange(delta.size) if self.first else np.argsort(-np.abs(delta), kind="stable")
        edited = np.zeros_like(delta)
        edited[order[: self.count]] = delta[order[: self.count]]
        return edited


@dataclass(frozen=True)
class OuterRank:
    """Keeps `count` outer terms of each weight: the best of that number (`spectra.combine.truncation`)."""

    count: int
    pattern: str = ""

    def edit(self, parts: Parts) -> Parts:
        """The edited parts of one weight."""
        if self.count < 1:
            raise InputError(f"expected at least 1 outer term to keep, got {self.count}")
        return replace(parts, outer=truncated(parts.outer, self.count).terms if parts.outer else None)


Step: TypeAlias = Only | Scale | Band | Soft | Keep | OuterRank


@dataclass(frozen=True)
class Effect:
    """The effect of one step.

    Attributes:
        step: which.
        weights: it acted on; for `Only`, those that stay.
        changed: floats that are not what they were, those left out included.
        energy: `||Delta W||^2` of the whole shift after it, as a part of that before all steps.
    """

    step: Step
    weights: int
    changed: int
    energy: float


@dataclass(frozen=True)
class Adjusted:
    """An edited shift, with what each step did.

    Attributes:
        shift: the result, with the steps as its recipe.
        effects: of each step, in order.
        distance: `||Delta W' - Delta W|| / ||Delta W||`: the relative change.
        unknown: weights of which the singular vectors that this takes are not known.
    """

    shift: SpectralShift
    effects: tuple[Effect, ...]
    distance: float
    unknown: frozenset[str]


def adjust(shift: SpectralShift, steps: Sequence[Step]) -> Adjusted:
    """Apply steps to a shift, in order.

    `Band`, `Soft` and `Keep` act on the deltas of weights that have singular values, those of two or more dimensions,
    and leave outer terms and words alone; `OuterRank` acts on weights with outer terms. A pattern chooses among them.

    Raises:
        InputError: a number out of range, or no step.
        TargetError: a pattern that means no weight on which the step can act.
        ShiftFileError: a value that float32 cannot hold.
        CacheError: the cache's folder cannot be read.
    """
    if not steps:
        raise InputError("nothing to do: expected at least one step")
    parts = {name: replace(each, delta=each.delta.astype(np.float64)) for name, each in shift.parts().items()}
    vectors = SingularVectors(shift.metadata)
    before = inner_product(parts, parts, vectors)
    effects = []
    for step in steps:
        names = _names(step, parts, shift.metadata.ndims)
        if isinstance(step, Only):
            changed = sum(_floats(parts[name]) for name in parts.keys() - set(names))
            parts = {name: parts[name] for name in names}
        else:
            edited = {name: _edited(step, parts[name]) for name in names}
            changed = sum(_changed(parts[name], edited[name]) for name in names)
            parts |= edited
        energy = inner_product(parts, parts, vectors)
        effects.append(Effect(step, len(names), changed, energy / before if before else 1.0))
    recipe: JSON = {
        "method": "adjust",
        "shifts": [recipe_reference(shift.metadata)],
        "steps": [as_dict(step) for step in steps],
    }
    result = derive_parts([shift], parts, recipe)
    moved = combine([(1.0, result), (-1.0, shift)]).norm(vectors)
    return Adjusted(result, tuple(effects), moved / math.sqrt(before) if before else 0.0, frozenset(vectors.unknown))


def _edited(step: Scale | Band | Soft | Keep | OuterRank, parts: Parts) -> Parts:
    """The parts of one weight after a step."""
    if isinstance(step, (Scale, OuterRank)):
        return step.edit(parts)
    return replace(parts, delta=step.edit(np.asarray(parts.delta, np.float64)))


def _floats(parts: Parts) -> int:
    return sum(array.size for array in _arrays(parts).values())


def _changed(before: Parts, after: Parts) -> int:
    """How many floats of the parts before are not there as they were."""
    others, changed = _arrays(after), 0
    for name, array in _arrays(before).items():
        other = others.get(name)
        kept = other is not None and other.shape == array.shape
        changed += int(np.count_nonzero(array != other)) if kept else array.size
    return changed


def _arrays(parts: Parts) -> dict[str, npt.NDArray[np.floating]]:
    """All numbers of a weight's parts, by their place."""
    found: dict[str, npt.NDArray[np.floating]] = {"delta": parts.delta}
    if parts.outer:
        found |= {"a": parts.outer.a, "b": parts.outer.b}
        found |= {} if parts.outer.kernel is None else {"kernel": parts.outer.kernel}
    return found | ({"words": parts.words.vectors} if parts.words else {})


def as_dict(step: Step) -> dict[str, Any]:
    """A step as JSON values: its name, and its fields without the defaults."""
    fields = {key: value for key, value in vars(step).items() if value != "" and value is not False}
    return {"step": type(step).__name__.lower(), **fields}


def _names(step: Step, parts: Mapping[str, Parts], ndims: Mapping[str, int]) -> tuple[str, ...]:
    """The weights on which a step acts."""
    meant = matching(parts, step.pattern, ndims) if step.pattern else tuple(parts)
    if isinstance(step, (Only, Scale)):
        return meant
    if isinstance(step, OuterRank):
        chosen = tuple(name for name in meant if parts[name].outer)
        if not chosen:
            raise TargetError(f"none of the {len(meant)} weights that are meant has outer terms")
        return chosen
    if not ndims and not step.pattern:
        raise TargetError("this shift does not tell which of its weights have singular values; name them by a pattern")
    chosen = tuple(name for name in meant if ndims.get(name) != 1)
    if not chosen:
        raise TargetError(
            f"all {len(meant)} weights that are meant are 1-D and have no singular values; only scaling acts on them"
        )
    added = [parts[name].outer or parts[name].words for name in chosen if not parts[name].delta.any()]
    if len(added) == len(chosen) and all(added):
        raise TargetError(
            f"all {len(chosen)} weights that are meant change by outer terms or words alone, which have no singular "
            "values; scaling and a lower outer rank act on them"
        )
    return chosen


def _finite(factor: float) -> float:
    if not math.isfinite(factor):
        raise InputError(f"expected a finite factor, got {factor}")
    return factor
