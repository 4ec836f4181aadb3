"""Merges shifts: one method, weight by weight, in float64, rounded once to float32."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from spectra.combine.merging.interference_report import Prediction, Tally, predict
from spectra.combine.merging.recipe import Recipe
from spectra.combine.merging.registry import Method, Row, Rows, find_method
from spectra.combine.merging.sources import OpenedShifts, ShiftOrPath
from spectra.errors import InputError, MismatchError, SpectraError
from spectra.naming.blocks import block_of
from spectra.naming.target_subsets import matching
from spectra.progress import SILENT, Progress, working
from spectra.shift.checks import check_finite
from spectra.shift.shift import Delta, SpectralShift
from spectra.shift.singular_values import Sigmas, read_sigmas


@dataclass(frozen=True)
class PatternWeights:
    """A pattern of the block weights, the weights of the shifts there, and how many weights and floats it means."""

    pattern: str
    given: tuple[float, ...]
    weights: int
    floats: int


@dataclass(frozen=True)
class Merged:
    """A merge and what is known of it.

    Attributes:
        shift: the result, with the recipe in its metadata.
        recipe: the same with the files' names.
        weights: of each shift, where no block has its own.
        touched: by each pattern of the block weights.
        shared: how many of the weights all shifts have.
        prediction: interference and clipping.
    """

    shift: SpectralShift
    recipe: Recipe
    weights: tuple[float, ...]
    touched: tuple[PatternWeights, ...]
    shared: int
    prediction: Prediction


def replay(
    shifts: Sequence[ShiftOrPath], recipe: Recipe, *, sigmas: Sigmas | None = None, progress: Progress = SILENT
) -> Merged:
    """Merge shifts of one base by a recipe.

    A weight that a shift lacks has delta zero in it. A weight to which no shift contributes (all that have it count
    zero there) is left out of the result.

    Args:
        shifts: those of the recipe's parents, in order; files are read once, piece by piece, and checked.
        recipe: what to do. Parents with a content hash must be these.
        sigmas: singular values by weight name, for predicting what is clipped; from the spectrum cache by default.

    Raises:
        InputError: a method, parameter or weight that there is not, a pattern that means nothing, or nothing left.
        MismatchError: shifts of different bases, or another file than the recipe names.
        ShiftFileError: a file that is not a whole shift, or a result that float32 cannot hold.
    """
    method = find_method(recipe.method)
    parameters = method.complete(recipe.parameters)
    if len(shifts) != len(recipe.parents) or not shifts:
        raise InputError(f"expected the {len(recipe.parents)} shifts of the recipe, got {len(shifts)}")
    default_weights = method.weights(recipe.weights, len(shifts))
    opened = OpenedShifts(shifts)
    _check_parents(recipe, opened)
    chosen: dict[str, Row] = {}
    touched = []
    for pattern, given in recipe.blocks:
        names = matching(opened.lengths, pattern, opened.ancestry.ndims)
        chosen |= dict.fromkeys(names, method.weights(given, len(shifts)))
        touched.append(PatternWeights(pattern, given, len(names), sum(opened.lengths[name] for name in names)))
    if sigmas is None:
        sigmas = read_sigmas(opened.ancestry.metadata(opened.lengths, None))

    scales = np.array([parent.scale for parent in recipe.parents])
    tallies: dict[str, Tally] = {}
    deltas: dict[str, Delta] = {}
    shared = 0
    with working(progress, "merge", len(opened.lengths)):
        for name, rows, having in opened.deltas():
            shared += bool(having.all())
            weights = chosen.get(name, default_weights)
            if np.any(having & (weights != 0) & (scales != 0)):
                scaled = rows * scales[:, None]
                delta = _apply(method, name, scaled, weights, parameters, recipe.seed or 0)
                tally = tallies.setdefault(block_of(name), Tally(len(shifts)))
                tally.add(scaled * weights[:, None], delta)
                sigma = sigmas.get(name)
                if sigma is not None and sigma.size == delta.size:
                    tally.add_clipping(scaled * (weights != 0)[:, None], delta, sigma)
                with np.errstate(over="ignore"):
                    deltas[name] = delta.astype(np.float32)
                check_finite(name, deltas[name], "float32 cannot hold what was merged; lower the scales or weights")
            progress.advance(1)
    if not deltas:
        raise InputError("nothing is left: every shift has scale or weight zero")
    done = _resolved(recipe, opened, method, default_weights, parameters)
    metadata = opened.ancestry.metadata(deltas, done.as_dict())
    singular_values = sum(delta.size for name, delta in deltas.items() if metadata.ndims.get(name) != 1)
    return Merged(
        shift=SpectralShift(deltas, metadata),
        recipe=done,
        weights=tuple(default_weights.tolist()),
        touched=tuple(touched),
        shared=shared,
        prediction=predict(tallies, len(shifts), singular_values),
    )


def _check_parents(recipe: Recipe, opened: OpenedShifts) -> None:
    """The files are still those that the recipe names."""
    for wanted, found in zip(recipe.parents, opened.parents, strict=True):
        if wanted.content_hash and wanted.content_hash != found.content_hash:
            raise MismatchError(
                f"{found.file or 'a shift'}: the recipe was made with content {wanted.content_hash}, this is "
                f"{found.content_hash or 'of no file'}; give the file of that content, or merge anew without --recipe"
            )


def _apply(method: Method, name: str, deltas: Rows, weights: Row, parameters: Mapping[str, float], seed: int) -> Row:
    """The method on one weight."""
    drawn = {"random": _random(seed, name, deltas.shape)} if method.random else {}
    try:
        return method.function(deltas, weights, **parameters, **drawn)
    except SpectraError as error:
        raise type(error)(f"{name}: {error}") from error


def _random(seed: int, name: str, shape: tuple[int, ...]) -> Rows:
    """Numbers in [0, 1) that depend on seed, weight and shape alone, not on the machine or on numpy's version."""
    key = int.from_bytes(hashlib.sha256(f"{seed}\0{name}".encode()).digest()[:16], "little")
    raw = np.random.Philox(key=key).random_raw(shape[0] * shape[1])
    return (np.asarray(raw, np.uint64) >> np.uint64(11)).reshape(shape).astype(np.float64) * 2.0**-53


def _resolved(
    recipe: Recipe, opened: OpenedShifts, method: Method, default_weights: Row, parameters: Mapping[str, float]
) -> Recipe:
    """The recipe with nothing left to defaults, nothing in it that the method does not use, and all numbers floats."""
    parents = tuple(
        replace(found, scale=float(wanted.scale)) for wanted, found in zip(recipe.parents, opened.parents, strict=True)
    )
    given = {"alpha": default_weights[:1], "each": default_weights, "none": default_weights[:0]}[method.shares]
    return replace(
        recipe,
        parents=parents,
        weights=tuple(given.tolist()),
        blocks=tuple((pattern, tuple(map(float, each))) for pattern, each in recipe.blocks),
        parameters={name: float(value) for name, value in parameters.items()},
        seed=(recipe.seed or 0) if method.random else None,
    )
