"""Whether a shift fits a base: its weights are there, in its lengths, and are the ones that it was trained on.

Every message that a user sees for a wrong base is written here.
"""

from __future__ import annotations

import difflib
import math
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass

from spectra.compatibility.rounded_bases import EXPECTED_ERROR, BaseMatch, Fingerprints
from spectra.errors import MismatchError
from spectra.shift.metadata import ShiftMetadata
from spectra.shift.shift import SpectralShift


def delta_length(shape: Sequence[int]) -> int:
    """Length of the delta of a weight: `min(rows, columns)` of its matrix, or the length of a 1-D weight."""
    return shape[0] if len(shape) == 1 else min(shape[0], math.prod(shape[1:]))


def check_weights(shift: SpectralShift, label: str, lengths: Mapping[str, int]) -> None:
    """Refuse a base that has not all weights that a shift names, in its lengths.

    Args:
        label: how messages call the shift.
        lengths: length of each weight's delta, by name.

    Raises:
        MismatchError: a weight is missing, or of another length.
    """
    missing = [name for name in shift if name not in lengths]
    remedy = f"load the base it was trained on ({shift.metadata.base})"
    if missing:
        near = difflib.get_close_matches(missing[0], lengths, n=1, cutoff=0.8)
        raise MismatchError(
            f"shift {label!r} does not fit this model: {len(shift) - len(missing)} of its {len(shift)} weights are "
            f"there, {len(missing)} are not, such as {missing[0]}{f' (nearest: {near[0]})' if near else ''}; {remedy}"
        )
    for name, delta in shift.items():
        if delta.size != lengths[name]:
            raise MismatchError(
                f"shift {label!r} does not fit this model: {name} takes {lengths[name]} floats, the shift has "
                f"{delta.size}; {remedy}"
            )


@dataclass(frozen=True)
class BaseCheck:
    """How the weights of a base compare with the ones that a shift was trained on.

    Attributes:
        metadata: of the shift.
        label: how messages call the shift.
        matches: what each of its weights is in this base, by name.
        dtype: of the base.
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
            raise MismatchError(
                f"this base is a copy of the one that shift {self.label!r} was trained on, {copy}: its singular "
                f"vectors are others; {remedy}"
            )

    def rounded_copy(self, other_vectors: Collection[str]) -> str:
        """What to say of a rounded copy of the shift's base, with what it costs; empty if no weight is rounded.

        For the weights `other_vectors` the original's singular vectors are not in use.
        """
        trained, matches = self.metadata.base_dtype, set(self.matches.values())
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
    def _trained_on(self) -> str:
        return f"{self.metadata.base or 'an unnamed base'} in {self.metadata.base_dtype}"


def compare(shift: SpectralShift, label: str, prints: Mapping[str, Fingerprints]) -> BaseCheck:
    """Compare the weights of a base, by name, with the ones that a shift was trained on; others are passed over."""
    matches = {name: prints[name].base_match(shift.metadata, name) for name in shift if name in prints}
    return BaseCheck(shift.metadata, label, matches, next(iter(prints.values())).dtype)
