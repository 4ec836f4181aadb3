"""A new shift from the parts of its weights."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from spectra.shift.metadata import JSON
from spectra.shift.shift import SpectralShift, derive
from spectra.shift.sums import Parts


def derive_parts(parents: Sequence[SpectralShift], parts: Mapping[str, Parts], recipe: JSON) -> SpectralShift:
    """A shift of these deltas, outer terms and words; arguments and errors otherwise as `derive`."""
    return derive(
        parents,
        {name: each.delta for name, each in parts.items()},
        recipe,
        outer={name: each.outer for name, each in parts.items() if each.outer},
        words={name: each.words for name, each in parts.items() if each.words},
    )
