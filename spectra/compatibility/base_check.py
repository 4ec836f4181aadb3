"""Whether a shift fits a base: its weights are there, in its sizes, and are the ones that it was trained on.

Every message that a user sees for a wrong base is written here.
"""

from __future__ import annotations

import difflib
import math
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass

from spectra.compatibility.rounded_bases import (
    EXPECTED_ERROR,
    BaseMatch,
    Fingerprints,
    base_dtype,
    expected_error,
    is_quantised_kind,
)
from spectra.errors import MismatchError
from spectra.shift.metadata import ShiftMetadata
from spectra.shift.outer_terms import OuterTerms
from spectra.shift.shift import SpectralShift
from spectra.shift.word_vectors import WordVectors


def delta_length(shape: Sequence[int]) -> int:
    """Length of the delta of a weight: `min(rows, columns)` of its matrix, or the length of a 1-D weight."""
    return shape[0] if len(shape) == 1 else min(shape[0], math.prod(shape[1:]))


def check_weights(shift: SpectralShift, label: str, shapes: Mapping[str, Sequence[int]]) -> None:
    """Refuse a base that has not all weights that a shift names, in its sizes.

    Args:
        shift: deltas as long as their weights take, outer terms of their dimensions, words of their tokens.
        label: how messages call the shift.
        shapes: of each weight, by name.

    Raises:
        MismatchError: a weight is missing, or of another size.
    """
    missing = [name for name in shift if name not in shapes]
    remedy = f"load the base it was trained on ({shift.metadata.base})"
    if missing:
        near = difflib.get_close_matches(missing[0], shapes, n=1, cutoff=0.8)
        raise MismatchError(
            f"shift {label!r} does not fit this model: {len(shift) - len(missing)} of its {len(shift)} weights are "
            f"there, {len(missing)} are not, such as {missing[0]}{f' (nearest: {near[0]})' if near else ''}; {remedy}"
        )
    for name, delta in shift.items():
        shape = tuple(shapes[name])
        misfit = ""
        if delta.size != delta_length(shape):
            misfit = f"{name} takes {delta_length(shape)} floats, the shift has {delta.size}"
        elif name in shift.outer:
            misfit = _terms_misfit(name, shift.outer[name], shape)
        if not misfit and name in shift.words:
            misfit = _word_misfit(name, shift.words[name], shape)
        if misfit:
            raise MismatchError(f"shift {label!r} does not fit this model: {misfit}; {remedy}")


def _terms_misfit(name: str, terms: OuterTerms, shape: tuple[int, ...]) -> str:
    """Why outer terms do not fit a weight; empty if they do."""
    sizes = tuple(side.shape[1] for side in (terms.a, terms.b, terms.kernel) if side is not None)
    wanted = (shape[0], math.prod(shape[1:])) if terms.kernel is None else (*shape[:2], math.prod(shape[2:]))
    if len(shape) > 1 and sizes == wanted:
        return ""
    return f"{name} is of shape {list(shape)}, its outer terms in the shift are of {' x '.join(map(str, sizes))}"


def _word_misfit(name: str, word: WordVectors, shape: tuple[int, ...]) -> str:
    """Why a word does not fit a token embedding; empty if it does."""
    dim, last = word.vectors.shape[1], max(word.ids)
    if len(shape) != 2 or dim != shape[1]:
        return f"{name} is of shape {list(shape)}, the word {word.text!r} in the shift has vectors of {dim} floats"
    if last >= shape[0]:
        return f"{name} has {shape[0]:,} tokens, the word {word.text!r} in the shift changes token {last:,}"
    return ""


@dataclass(frozen=True)
class BaseCheck:
    """How the weights of a base compare with the ones that a shift was trained on.

    Attributes:
        metadata: of the shift.
        label: how messages call the shift.
        matches: what each of its weights is in this base, by name.
        dtype: of the base, or the kind of its quantised weights.
    """

    metadata: ShiftMetadata
    label: str
    matches: Mapping[str, BaseMatch]
    dtype: str

    @property
    def wrong_base(self) -> str:
        """What to say of a base with other weights than the shift's, rounding aside; empty if it has none."""
        other = [name for name, match in self.matches.items() if match == "other"]
        if not other:
            return ""
        return (
            f"shift {self.label!r} was trained on another base: {len(other)} of its {len(self.matches)} weights "
            f"differ, such as {other[0]}; it was trained on {self._trained_on}, this model is in {self.dtype}"
        )

    def require_base(self, remedy: str) -> None:
        """Raise a MismatchError, with what to do, for another base; a rounded copy of the shift's passes."""
        if self.wrong_base:
            raise MismatchError(f"{self.wrong_base}; {remedy}")

    def require_original(self, remedy: str) -> None:
        """Raise a MismatchError, with what to do, for a rounded copy of the base that the shift was trained on."""
        rounded = next((match for match in self.matches.values() if match != "same"), "")
        if rounded:
            copy = "cast from another precision" if rounded == "cast" else f"rounded to {rounded}"
            if rounded in ("quantised", "unknown"):
                copy = f"one of the two in {self.quantised}"
            raise MismatchError(
                f"this base is a copy of the one that shift {self.label!r} was trained on, {copy}: its singular "
                f"vectors are others; {remedy}"
            )

    def rounded_copy(self, other_vectors: Collection[str]) -> str:
        """What to say of a rounded copy of the shift's base, with what it costs; empty if no weight is rounded.

        For the weights `other_vectors` the original's singular vectors are not in use.
        """
        trained, matches = self.metadata.base_dtype, set(self.matches.values())
        if self.quantised and matches & {"quantised", "unknown"}:
            return self._quantised_copy(other_vectors)
        copy = f"shift {self.label!r} was trained on {self._trained_on}, of which this model is a copy in {self.dtype}"
        if other_vectors:
            coarse = "bfloat16" if "bfloat16" in {*matches, trained, self.dtype} else "float16"
            return (
                f"{copy}: for {len(other_vectors)} of its weights the original's singular vectors are not in use, "
                f"which changes Delta W by about {EXPECTED_ERROR[coarse]}; take the base in {trained}, or decompose it "
                f"(spectra decompose BASE --dtype {trained}) and try again, with this shift alone"
            )
        if matches & {"cast", *EXPECTED_ERROR}:
            return f"{copy}; with the original's singular vectors, only the rounding of the weights themselves is left"
        return ""

    @property
    def quantised(self) -> str:
        """The kind of the base's quantised weights, or of those that the shift was trained on; empty for neither."""
        return next((each for each in (self.dtype, self.metadata.base_dtype) if is_quantised_kind(each)), "")

    def _quantised_copy(self, other_vectors: Collection[str]) -> str:
        known = "unknown" not in self.matches.values()
        copy = f"shift {self.label!r} was trained on {self._trained_on}, of which this model in {self.dtype} "
        copy += "is a copy" if known else "may be a copy: no weight says so where one of the two is quantised"
        remedy = "give the full-precision base (--spectra-from FOLDER, or spectra.spectra_from)"
        if not is_quantised_kind(self.dtype):
            remedy = f"take the base in {self.quantised}"
        if other_vectors:
            return (
                f"{copy}; for {len(other_vectors)} of its weights the original's singular vectors are not in use, "
                f"which changes Delta W by about {expected_error(self.quantised)}; {remedy}"
            )
        return copy if known else f"{copy}; to have it held against the original, {remedy}"

    @property
    def _trained_on(self) -> str:
        return f"{self.metadata.base or 'an unnamed base'} in {self.metadata.base_dtype}"


def compare(shift: SpectralShift, label: str, prints: Mapping[str, Fingerprints]) -> BaseCheck:
    """Compare the weights of a base, by name, with the ones that a shift was trained on; others are passed over."""
    matches = {name: prints[name].base_match(shift.metadata, name) for name in shift if name in prints}
    return BaseCheck(shift.metadata, label, matches, base_dtype(prints.values()))
