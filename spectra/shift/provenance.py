"""The metadata of a shift that was made from others: what it fits, its parents, and how it was made."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from types import MappingProxyType
from typing import Any

from spectra.errors import MismatchError
from spectra.shift.metadata import JSON, ShiftMetadata

NOTHING: Mapping[str, Any] = MappingProxyType({})


class Ancestry:
    """Gathers what the parents of one shift have in common; they are added one after the other.

    Attributes:
        lengths: floats of each delta, by weight name, where some parent gave them.
        shapes: rows and columns of the matrix of weights that some parent's outer terms or words tell; 0: not known.
        ndims: how many dimensions each weight has, where some parent knows it.
    """

    def __init__(self) -> None:
        self.lengths: dict[str, int] = {}
        self.shapes: dict[str, tuple[int, int]] = {}
        self.ndims: dict[str, int] = {}
        self._first: ShiftMetadata | None = None
        self._fingerprints: dict[str, tuple[str, str]] = {}  # by weight name: its digits, and the base's name
        self._rounded: dict[str, dict[str, str]] = {}  # by dtype, then by weight name
        self._bases: dict[str, None] = {}
        self._subsets: dict[str, None] = {}
        self._licences: dict[str, None] = {}
        self._hashes: dict[str, None] = {}

    def add(
        self, parent: ShiftMetadata, lengths: Mapping[str, int], shapes: Mapping[str, tuple[int, int]] = NOTHING
    ) -> None:
        """Takes one more parent in.

        Args:
            parent: what it says of itself.
            lengths: floats of each of its deltas, by weight name; empty if they were given before.
            shapes: rows and columns of weights, as far as its outer terms and words tell them; 0: not known.

        Raises:
            MismatchError: it was trained on another base than those before, or in another precision.
        """
        first = self._first = self._first or parent
        base = parent.base or "an unnamed base"
        for field in ("base_dtype", "reshape"):
            mine, other = getattr(parent, field), getattr(first, field)
            if mine != other:
                raise _different(f"{first.base or 'an unnamed base'} in {other}, {base} in {mine}")
        for name, digits in parent.fingerprints.items():
            known, known_base = self._fingerprints.setdefault(name, (digits, base))
            if known != digits:
                raise _different(f"{name} is another weight in {known_base} than in {base}")
        for name, length in lengths.items():
            if self.lengths.setdefault(name, length) != length:
                raise _different(f"{name} has {self.lengths[name]} floats in one and {length} in another")
        for name, shape in shapes.items():
            known_shape = self.shapes.get(name, (0, 0))
            if any(a and b and a != b for a, b in zip(known_shape, shape, strict=True)):
                raise _different(
                    f"{name} is changed as {_matrix(known_shape)} in one and as {_matrix(shape)} in another"
                )
            self.shapes[name] = (known_shape[0] or shape[0], known_shape[1] or shape[1])
        self.ndims.update(parent.ndims)
        for dtype, rounded in parent.rounded.items():
            self._rounded.setdefault(dtype, {}).update(rounded)
        self._bases[parent.base] = self._subsets[parent.subset] = self._licences[parent.licence] = None
        self._hashes |= dict.fromkeys((parent.content_hash,) if parent.content_hash else parent.parents)

    def metadata(self, names: Iterable[str], recipe: JSON) -> ShiftMetadata:
        """The metadata of the child.

        It fits what its parents fit; it keeps what they agree on (base, subset, licence), and of their training
        settings nothing, since it was not trained. A parent that was never in a file hands on its own parents.

        Args:
            names: of the weights that it shifts.
            recipe: how it was made.
        """
        if self._first is None:
            raise ValueError("expected at least one parent")
        chosen = sorted(names)
        return ShiftMetadata(
            base=_agreed(self._bases) or self._first.base,
            fingerprints={name: self._fingerprints[name][0] for name in chosen},
            base_dtype=self._first.base_dtype,
            reshape=self._first.reshape,
            ndims={name: self.ndims[name] for name in chosen} if self.ndims.keys() >= set(chosen) else {},
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


def recipe_reference(metadata: ShiftMetadata) -> dict[str, Any]:
    """The entry of a shift in a recipe: its content hash, or its own recipe if it was never in a file."""
    if metadata.content_hash:
        return {"content_hash": metadata.content_hash}
    return {"recipe": metadata.recipe}


def sum_recipe(terms: Sequence[tuple[float, ShiftMetadata]]) -> JSON:
    """The recipe of a sum of scaled shifts: a sum of sums is one sum, and what occurs twice is one term."""
    flat: list[dict[str, Any]] = []
    for scale, metadata in terms:
        for term in _terms(metadata):
            content = term.get("content_hash")
            known = next((each for each in flat if content and each.get("content_hash") == content), None)
            if known is None:
                flat.append({**term, "scale": scale * term["scale"]})
            else:
                known["scale"] += scale * term["scale"]
    return {"method": "add", "shifts": list[JSON](flat)}


def _terms(metadata: ShiftMetadata) -> list[dict[str, Any]]:
    """The terms of a shift that is a sum in memory; any other shift is its own only term."""
    recipe: Any = metadata.recipe
    in_memory = not metadata.content_hash and isinstance(recipe, dict)
    if in_memory and recipe.keys() == {"method", "shifts"} and recipe["method"] == "add":
        terms: list[dict[str, Any]] = recipe["shifts"]
        return terms
    return [{**recipe_reference(metadata), "scale": 1.0}]


def _different(how: str) -> MismatchError:
    return MismatchError(
        f"these shifts belong to different bases: {how}; carry one over to the other's base first (spectra transplant)"
    )


def _matrix(shape: tuple[int, int]) -> str:
    return " x ".join(str(size or "?") for size in shape)


def _agreed(values: Iterable[str]) -> str:
    found = list(values)
    return found[0] if len(found) == 1 else ""
