"""What a shift says about itself that was made from others: what it fits, its parents, and how it was made."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import numpy.typing as npt

from spectra.errors import MismatchError
from spectra.metadata import JSON, ShiftMetadata
from spectra.shift import SpectralShift


def derive(
    parents: Sequence[SpectralShift], deltas: Mapping[str, npt.NDArray[np.floating]], recipe: JSON
) -> SpectralShift:
    """A new shift with deltas that were computed from those of others.

    It fits what its parents fit; it keeps what they agree on (base, subset, licence), and of their training settings
    nothing, since it was not trained. A parent that was never in a file hands on its own parents.

    Args:
        parents: at least one.
        deltas: by weight name; each name is one of some parent.
        recipe: how it was made.

    Raises:
        MismatchError: two parents were trained on different bases.
        ShiftFileError: a delta that is none (see `SpectralShift`).
    """
    check_same_base(parents)
    fingerprints: dict[str, str] = {}
    ndims: dict[str, int] = {}
    for parent in parents:
        fingerprints |= parent.metadata.fingerprints
        ndims |= parent.metadata.ndims
    told = all(name in ndims for name in deltas)
    metadata = ShiftMetadata(
        base=_agreed([parent.metadata.base for parent in parents]) or parents[0].metadata.base,
        fingerprints={name: fingerprints[name] for name in deltas},
        base_dtype=parents[0].metadata.base_dtype,
        reshape=parents[0].metadata.reshape,
        ndims={name: ndims[name] for name in deltas} if told else {},
        subset=_agreed([parent.metadata.subset for parent in parents]),
        licence=_agreed([parent.metadata.licence for parent in parents]),
        parents=lineage(parents),
        recipe=recipe,
    )
    return SpectralShift(deltas, metadata)


def check_same_base(shifts: Sequence[SpectralShift]) -> None:
    """Shifts add up only in the same singular vectors: where two of them share a weight, it must be the same.

    Raises:
        MismatchError: it is not, or their bases are of different precision.
    """
    first = shifts[0]
    seen: dict[str, tuple[str, SpectralShift]] = {}
    for shift in shifts:
        for field in ("base_dtype", "reshape"):
            mine, other = getattr(shift.metadata, field), getattr(first.metadata, field)
            if mine != other:
                raise MismatchError(
                    f"these shifts belong to different bases: {_called(first)} in {other}, {_called(shift)} in {mine}; "
                    "carry one over to the other's base first (spectra transplant)"
                )
        for name, digits in shift.metadata.fingerprints.items():
            known, whose = seen.setdefault(name, (digits, shift))
            if known != digits:
                raise MismatchError(
                    f"these shifts belong to different bases: {name} is another weight in {_called(whose)} than in "
                    f"{_called(shift)}; carry one over to the other's base first (spectra transplant)"
                )


def lineage(parents: Sequence[SpectralShift]) -> tuple[str, ...]:
    """Content hashes of the parents, each once, in order."""
    found: dict[str, None] = {}
    for parent in parents:
        own = (parent.metadata.content_hash,) if parent.metadata.content_hash else parent.metadata.parents
        found |= dict.fromkeys(own)
    return tuple(found)


def _agreed(values: Sequence[str]) -> str:
    return values[0] if len(set(values)) == 1 else ""


def _called(shift: SpectralShift) -> str:
    return shift.metadata.base or "an unnamed base"
