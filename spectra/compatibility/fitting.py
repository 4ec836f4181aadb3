"""Whether a shift fits a base: its weights are there, of its lengths, and the ones that it was trained on."""

from __future__ import annotations

import difflib
import math
from collections.abc import Mapping, Sequence

from spectra.compatibility.rounded_bases import Kinship
from spectra.errors import MismatchError
from spectra.shift.shift import SpectralShift


def floats_of(shape: Sequence[int]) -> int:
    """Length of the delta of a weight: `min(rows, columns)` of its matrix, or the length of a 1-D weight."""
    return shape[0] if len(shape) == 1 else min(shape[0], math.prod(shape[1:]))


def check_weights(shift: SpectralShift, called: str, floats: Mapping[str, int]) -> None:
    """That a model has all weights that a shift names, in its lengths.

    Args:
        called: how messages call the shift.
        floats: length of each weight's delta, by name.

    Raises:
        MismatchError: it has not.
    """
    missing = [key for key in shift if key not in floats]
    remedy = f"load the base it was trained on ({shift.metadata.base})"
    if missing:
        near = difflib.get_close_matches(missing[0], floats, n=1, cutoff=0.8)
        raise MismatchError(
            f"shift {called!r} does not fit this model: {len(shift) - len(missing)} of its {len(shift)} weights are "
            f"there, {len(missing)} are not, such as {missing[0]}{f' (nearest: {near[0]})' if near else ''}; {remedy}"
        )
    for key, delta in shift.items():
        if delta.size != floats[key]:
            raise MismatchError(
                f"shift {called!r} does not fit this model: {key} takes {floats[key]} floats, the shift has "
                f"{delta.size}; {remedy}"
            )


def other_base(shift: SpectralShift, called: str, kinships: Mapping[str, Kinship], dtype: str) -> str:
    """What is to be said of a model whose weights are not those that a shift was trained on; empty if they are.

    A shift means nothing in another basis: every weight must be the one that it was trained on, but for rounding.

    Args:
        called: how messages call the shift.
        kinships: of the model's weights to the shift's, by name.
        dtype: of the model.
    """
    metadata = shift.metadata
    other = [key for key in shift if kinships[key] == "other"]
    if not other:
        return ""
    return (
        f"shift {called!r} was trained on another base: {len(other)} of its {len(shift)} weights differ, such as "
        f"{other[0]}; it was trained on {metadata.base or 'an unnamed base'} in {metadata.base_dtype}, "
        f"this model is in {dtype}"
    )
