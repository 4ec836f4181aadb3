"""Merges shifts: one method, weight by weight, in float64, rounded once to float32."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from spectra.combine.merging.interference_report import Interference, Prediction, shared_token
from spectra.combine.merging.one_weight import TOO_LARGE, Merger, OneWeight, joined_words
from spectra.combine.merging.recipe import Recipe
from spectra.combine.merging.registry import Method, find_method
from spectra.combine.merging.sources import OpenedShifts, ShiftOrPath
from spectra.combine.merging.stacked_terms import Row
from spectra.errors import InputError, MismatchError
from spectra.naming.blocks import block_of
from spectra.naming.target_subsets import matching
from spectra.progress import SILENT, Progress, working
from spectra.shift.checks import check_finite
from spectra.shift.outer_terms import OuterTerms
from spectra.shift.shift import Delta, SpectralShift
from spectra.shift.singular_values import Sigmas, read_sigmas
from spectra.shift.word_vectors import WordVectors


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
    if recipe.outer_rank is not None and recipe.outer_rank < 1:
        raise InputError(f"expected an outer rank of at least 1, got {recipe.outer_rank}; leave it out to keep all")
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
    merger = Merger(method, scales, parameters, recipe.seed or 0, recipe.outer_rank)
    made = _Made(len(shifts))
    shared = 0
    with working(progress, "merge", len(opened.lengths)):
        for weight in opened.weights():
            shared += bool(weight.having.all())
            weights = chosen.get(weight.name, default_weights)
            if merger.contributes(weight.having, weights):
                made.add(merger, weight, weights, sigmas.get(weight.name))
            progress.advance(1)
    if not made.deltas:
        raise InputError("nothing is left: every shift has scale or weight zero")
    done = _resolved(recipe, opened, method, default_weights, parameters)
    metadata = opened.ancestry.metadata(made.deltas, done.as_dict())
    singular_values = sum(delta.size for name, delta in made.deltas.items() if metadata.ndims.get(name) != 1)
    return Merged(
        shift=SpectralShift(made.deltas, metadata, outer=made.outer, words=made.words),
        recipe=done,
        weights=tuple(default_weights.tolist()),
        touched=tuple(touched),
        shared=shared,
        prediction=made.interference.prediction(singular_values),
    )


class _Made:
    """The merged weights so far, and what is told of them."""

    def __init__(self, count: int) -> None:
        self.deltas: dict[str, Delta] = {}
        self.outer: dict[str, OuterTerms] = {}
        self.words: dict[str, WordVectors] = {}
        self.interference = Interference(count)

    def add(self, merger: Merger, weight: OneWeight, weights: Row, sigma: Row | None) -> None:
        """One more weight, to which some shift contributes."""
        name, block = weight.name, block_of(weight.name)
        scaled = weight.deltas * merger.scales[:, None]
        delta = merger.delta(name, scaled, weights)
        tally = self.interference.of_block(block)
        tally.add(scaled * weights[:, None], delta)
        if sigma is not None and sigma.size == delta.size:
            tally.add_clipping(scaled * (weights != 0)[:, None], delta, sigma)
        with np.errstate(over="ignore"):
            self.deltas[name] = delta.astype(np.float32)
        check_finite(name, self.deltas[name], TOO_LARGE)
        terms = merger.terms(weight, weights)
        if terms is not None:
            self.interference.add_terms(name, block, weight.outer, weights * merger.scales, terms)
            if terms.terms is not None:
                self.outer[name] = terms.terms
        tokens = merger.tokens(weight, weights)
        for token in tokens:
            tally.add(token.contributions, token.vector)
            if len(token.having) > 1:
                self.interference.add_token(shared_token(name, token.token, token.having, token.contributions))
        if tokens:
            self.words[name] = joined_words(weight, tokens)


def _check_parents(recipe: Recipe, opened: OpenedShifts) -> None:
    """The files are still those that the recipe names."""
    for wanted, found in zip(recipe.parents, opened.parents, strict=True):
        if wanted.content_hash and wanted.content_hash != found.content_hash:
            raise MismatchError(
                f"{found.file or 'a shift'}: the recipe was made with content {wanted.content_hash}, this is "
                f"{found.content_hash or 'of no file'}; give the file of that content, or merge anew without --recipe"
            )


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
