"""What a shift says about itself that was made from others: what it fits, its parents, and how it was made."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

import numpy as np
import numpy.typing as npt

from spectra.errors import MismatchError
from spectra.shift.metadata import JSON, ShiftMetadata
from spectra.shift.shift import SpectralShift


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
    return SpectralShift(deltas, Ancestry(parent.metadata for parent in parents).metadata(deltas, recipe))


def check_same_base(shifts: Sequence[SpectralShift]) -> None:
    """Shifts add up only in the same singular vectors: where two of them share a weight, it must be the same.

    Raises:
        MismatchError: it is not, or their bases are of different precision.
    """
    Ancestry(shift.metadata for shift in shifts)


class Ancestry:
    """What the parents of one shift have in common, told one after the other; of each very little is kept."""

    def __init__(self, parents: Iterable[ShiftMetadata] = ()) -> None:
        self._first: ShiftMetadata | None = None
        self._fingerprints: dict[str, tuple[str, str]] = {}  # by weight name: its digits, and whose base they are of
        self._ndims: dict[str, int] = {}
        self._rounded: dict[str, dict[str, str]] = {}  # by dtype, then by weight name
        self._bases: dict[str, None] = {}
        self._subsets: dict[str, None] = {}
        self._licences: dict[str, None] = {}
        self._hashes: dict[str, None] = {}
        for parent in parents:
            self.add(parent)

    def add(self, parent: ShiftMetadata) -> None:
        """Takes one more parent in.

        Raises:
            MismatchError: it was trained on another base than those before, or in another precision.
        """
        first = self._first = self._first or parent
        called = parent.base or "an unnamed base"
        for field in ("base_dtype", "reshape"):
            mine, other = getattr(parent, field), getattr(first, field)
            if mine != other:
                raise MismatchError(
                    f"these shifts belong to different bases: {first.base or 'an unnamed base'} in {other}, {called} "
                    f"in {mine}; carry one over to the other's base first (spectra transplant)"
                )
        for name, digits in parent.fingerprints.items():
            known, whose = self._fingerprints.setdefault(name, (digits, called))
            if known != digits:
                raise MismatchError(
                    f"these shifts belong to different bases: {name} is another weight in {whose} than in {called}; "
                    "carry one over to the other's base first (spectra transplant)"
                )
        self._ndims.update(parent.ndims)
        for dtype, rounded in parent.rounded.items():
            self._rounded.setdefault(dtype, {}).update(rounded)
        self._bases[parent.base] = self._subsets[parent.subset] = self._licences[parent.licence] = None
        self._hashes |= dict.fromkeys((parent.content_hash,) if parent.content_hash else parent.parents)

    @property
    def ndims(self) -> Mapping[str, int]:
        """How many dimensions each weight has, where some parent told it."""
        return self._ndims

    def metadata(self, names: Iterable[str], recipe: JSON) -> ShiftMetadata:
        """What their child says of itself; `names` are the weights that it shifts."""
        if self._first is None:
            raise ValueError("expected at least one parent")
        chosen = sorted(names)
        return ShiftMetadata(
            base=_agreed(self._bases) or self._first.base,
            fingerprints={name: self._fingerprints[name][0] for name in chosen},
            base_dtype=self._first.base_dtype,
            reshape=self._first.reshape,
            ndims={name: self._ndims[name] for name in chosen} if self._ndims.keys() >= set(chosen) else {},
            rounded={
                dtype: {name: digits[name] for name in chosen}
                for dtype, digits in self._rounded.items()
                if digits.keys() >= set(chosen)
            },
            subset=_agreed(self._subsets),
            licence=_agreed(self._licences),
            parents=tuple(self._hashes),
            recipe=recipe,
        )


def _agreed(values: Iterable[str]) -> str:
    found = list(values)
    return found[0] if len(found) == 1 else ""
