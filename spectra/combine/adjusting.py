"""Editing one shift: fewer directions, a threshold, another strength for some layers or some singular values.

    adjust(shift, [Scale(0.5, "unet.up_blocks.1"), Band(0.0, 0.1, 0.5), Keep(64)]).shift

Since `Delta W = U diag(delta) V^T` (docs/algebra.md), an edit of delta is one of Delta W: the energies and distances
told here are those of Delta W, as long as no singular value is clipped. The steps are computed in float64, one after
the other, and rounded once to float32; what no step touches stays bit for bit.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np

from spectra.errors import InputError, TargetError
from spectra.naming.target_subsets import matching
from spectra.shift.metadata import JSON
from spectra.shift.provenance import recipe_reference
from spectra.shift.shift import SpectralShift, derive
from spectra.shift.sums import Vector, inner_product, scaled_sum


@dataclass(frozen=True)
class Only:
    """Leaves out every weight that the pattern does not mean."""

    pattern: str


@dataclass(frozen=True)
class Scale:
    """Multiplies all of delta, of 1-D weights too; of all weights without a pattern."""

    factor: float
    pattern: str = ""

    def edit(self, delta: Vector) -> Vector:
        """The edited delta of one weight, `[n]`."""
        return delta * _finite(self.factor)


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


Step: TypeAlias = Only | Scale | Band | Soft | Keep


@dataclass(frozen=True)
class Effect:
    """The effect of one step.

    Attributes:
        step: which.
        weights: it acted on; for `Only`, those that stay.
        changed: floats that are not what they were, those left out included.
        energy: `||delta||^2` of the whole shift after it, as a part of that before all steps.
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
        distance: `||delta' - delta|| / ||delta||`: the relative change of Delta W.
    """

    shift: SpectralShift
    effects: tuple[Effect, ...]
    distance: float


def adjust(shift: SpectralShift, steps: Sequence[Step]) -> Adjusted:
    """Apply steps to a shift, in order.

    `Band`, `Soft` and `Keep` act on weights that have singular values, those of two or more dimensions; a pattern
    chooses among them.

    Raises:
        InputError: a number out of range, or no step.
        TargetError: a pattern that means no weight on which the step can act.
        ShiftFileError: a value that float32 cannot hold.
    """
    if not steps:
        raise InputError("nothing to do: expected at least one step")
    deltas: dict[str, Vector] = {name: delta.astype(np.float64) for name, delta in shift.items()}
    before = inner_product(deltas, deltas)
    effects = []
    for step in steps:
        names = _names(step, deltas, shift.metadata.ndims)
        if isinstance(step, Only):
            changed = sum(delta.size for delta in deltas.values()) - sum(deltas[name].size for name in names)
            deltas = {name: deltas[name] for name in names}
        else:
            edited = {name: step.edit(deltas[name]) for name in names}
            changed = sum(int(np.count_nonzero(edited[name] != deltas[name])) for name in names)
            deltas |= edited
        effects.append(Effect(step, len(names), changed, inner_product(deltas, deltas) / before if before else 1.0))
    recipe: JSON = {
        "method": "adjust",
        "shifts": [recipe_reference(shift.metadata)],
        "steps": [as_dict(step) for step in steps],
    }
    result = derive([shift], deltas, recipe)
    change = scaled_sum([(1.0, result), (-1.0, shift)])
    moved = math.sqrt(inner_product(change, change) / before) if before else 0.0
    return Adjusted(result, tuple(effects), moved)


def as_dict(step: Step) -> dict[str, Any]:
    """A step as JSON values: its name, and its fields without the defaults."""
    fields = {key: value for key, value in vars(step).items() if value != "" and value is not False}
    return {"step": type(step).__name__.lower(), **fields}


def _names(step: Step, deltas: Mapping[str, Vector], ndims: Mapping[str, int]) -> tuple[str, ...]:
    """The weights on which a step acts."""
    meant = matching(deltas, step.pattern, ndims) if step.pattern else tuple(deltas)
    if isinstance(step, (Only, Scale)):
        return meant
    if not ndims and not step.pattern:
        raise TargetError("this shift does not tell which of its weights have singular values; name them by a pattern")
    chosen = tuple(name for name in meant if ndims.get(name) != 1)
    if not chosen:
        raise TargetError(
            f"all {len(meant)} weights that are meant are 1-D and have no singular values; only scaling acts on them"
        )
    return chosen


def _finite(factor: float) -> float:
    if not math.isfinite(factor):
        raise InputError(f"expected a finite factor, got {factor}")
    return factor
