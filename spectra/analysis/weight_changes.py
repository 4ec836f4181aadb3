"""What shifts of one base add to its weights, from their vectors and the cache alone (docs/algebra.md, 6 and 8).

    Delta W = U diag(d) V^T + sum_j left_j (x) right_j        d = ReLU(sigma + delta) - sigma

The sum holds the outer terms and, of a token embedding, the vectors of the special word, each at its token's row. It
needs no spectrum. `d` needs sigma where something may be clipped, and the inner product of both parts the singular
vectors of the directions that are moved: what the cache lacks of these is told, never guessed.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

from spectra.errors import MismatchError
from spectra.shift.outer_terms import OuterTerms
from spectra.shift.shift import SpectralShift
from spectra.shift.singular_values import singular_value_change
from spectra.shift.sums import Parts, Vector
from spectra.shift.word_vectors import WordVectors
from spectra.spectrum.cache.leading_entry import LeadingVectors
from spectra.spectrum.cache.spectrum_cache import SpectrumCache, default_cache

Array: TypeAlias = npt.NDArray[np.float64]
Floats: TypeAlias = npt.NDArray[np.floating]


@dataclass(frozen=True, eq=False)
class OuterSum:
    """A sum of `k` outer products, as precise as they were given; what is computed of it is float64.

    Attributes:
        left: `[k, rows]`; of a word no more rows than up to its last token.
        right: `[k, columns]`.
    """

    left: Floats
    right: Floats

    @classmethod
    def nothing(cls) -> OuterSum:
        """No product at all."""
        return cls(np.zeros((0, 0)), np.zeros((0, 0)))

    @classmethod
    def of_terms(cls, terms: OuterTerms | None) -> OuterSum:
        """The outer terms of a weight."""
        return cls.nothing() if terms is None else cls(terms.a, terms.right)

    @classmethod
    def of_word(cls, word: WordVectors | None) -> OuterSum:
        """A word's vectors, as outer products with the rows of its tokens."""
        if word is None:
            return cls.nothing()
        left = np.zeros((len(word.ids), max(word.ids) + 1), dtype=np.float32)
        left[np.arange(len(word.ids)), word.ids] = 1.0
        return cls(left, word.vectors)

    @classmethod
    def joined(cls, sums: Iterable[OuterSum]) -> OuterSum:
        """The products of several sums as one."""
        some = [each for each in sums if len(each)]
        if len(some) < 2:
            return some[0] if some else cls.nothing()
        rows = max(each.left.shape[1] for each in some)
        lefts = [np.pad(each.left, ((0, 0), (0, rows - each.left.shape[1]))) for each in some]
        return cls(np.concatenate(lefts), np.concatenate([each.right for each in some]))

    def __len__(self) -> int:
        return len(self.left)

    def __sub__(self, other: OuterSum) -> OuterSum:
        if np.array_equal(self.right, other.right) and self.left.shape == other.left.shape:
            return OuterSum(np.subtract(self.left, other.left, dtype=np.float64), self.right)
        if np.array_equal(self.left, other.left):
            return OuterSum(self.left, np.subtract(self.right, other.right, dtype=np.float64))
        return OuterSum.joined([self, OuterSum(-other.left, other.right)])

    def norm(self) -> float:
        """`||sum||_F`, by QR of both sides: a short sum of long products keeps its digits."""
        if not (self.left.any() and self.right.any()):
            return 0.0
        left, right = (_triangular(side) for side in (self.left, self.right))
        return float(np.linalg.norm(left @ right.T))

    def products(self) -> Array:
        """The inner product of each outer product with each, `[k, k]`."""
        left, right = self.left.astype(np.float64), self.right.astype(np.float64)
        return left @ left.T * (right @ right.T)

    def dot(self, other: OuterSum) -> float:
        """The inner product of both sums."""
        both = OuterSum.joined([self, other]).products()
        return float(both[: len(self), len(self) :].sum())

    def along(self, left: Floats, right: Floats) -> Array:
        """`u_i . sum . v_i` for each direction: `[K]`, of singular vectors `[rows, K]` and `[columns, K]`."""
        on_left = self.left.astype(np.float64) @ left[: self.left.shape[1]]
        found: Array = np.sum(on_left * (self.right.astype(np.float64) @ right), axis=0)
        return found


def _triangular(side: Floats) -> Array:
    """`R` of `side^T = Q R`."""
    found: Any = np.linalg.qr(side.T.astype(np.float64), mode="r")
    return np.asarray(found)


@dataclass(frozen=True, eq=False)
class Change:
    """What a shift adds to one weight: `Delta W = U diag(d) V^T + terms + word`.

    Attributes:
        d: float64 `[r]`: the change of each singular value, or of each entry of a 1-D weight.
        terms: the outer terms.
        word: the special word's vectors.
        along: float64 `[r]`: `u_i (terms + word) v_i`, in the directions that some shift moves; zeros elsewhere, and
            everywhere where the singular vectors are not known.
    """

    d: Vector
    terms: OuterTerms | None
    word: WordVectors | None
    along: Vector

    @classmethod
    def zero(cls, directions: int) -> Change:
        """No change, of a weight with so many directions."""
        return cls(np.zeros(directions), None, None, np.zeros(directions))

    def __bool__(self) -> bool:
        """Whether there is anything in it."""
        return bool(self.d.any()) or self.terms is not None or self.word is not None

    @property
    def outer(self) -> OuterSum:
        """Terms and word together."""
        return OuterSum.joined([OuterSum.of_terms(self.terms), OuterSum.of_word(self.word)])

    def norm(self) -> float:
        """`||Delta W||_F`."""
        return _norm(self.d, self.outer, self.along)

    def distance(self, other: Change) -> float:
        """The norm of the difference of two changes of one weight."""
        terms = OuterSum.of_terms(self.terms) - OuterSum.of_terms(other.terms)
        word = OuterSum.of_word(self.word) - OuterSum.of_word(other.word)
        return _norm(self.d - other.d, OuterSum.joined([terms, word]), self.along - other.along)

    def dot(self, other: Change) -> float:
        """The inner product of two changes of one weight."""
        crossed = float(self.d @ other.along) + float(other.d @ self.along)
        return float(self.d @ other.d) + self.outer.dot(other.outer) + crossed

    def only(self, part: str) -> Change:
        """One of the `PARTS` of the change."""
        return Change(
            self.d if part == "delta" else np.zeros_like(self.d),
            self.terms if part == "outer" else None,
            self.word if part == "word" else None,
            np.zeros_like(self.d),
        )


def _norm(d: Vector, outer: OuterSum, along: Vector) -> float:
    return math.sqrt(max(0.0, outer.norm() ** 2 + float(d @ d) + 2 * float(d @ along)))


PARTS = ("delta", "outer", "word")
"""What a change is made of: changed singular values, outer terms, the special word's vectors."""

Changes: TypeAlias = Mapping[str, Change]
"""What a shift adds, by weight name."""


@dataclass(frozen=True)
class Unknown:
    """Weights of which the cache lacks something that the exact change needs.

    Attributes:
        clipping: their singular values, so that `d` is taken to be `delta`. That can only lengthen `d` and the
            distance of two, since the ReLU brings no two numbers further apart.
        cross: the singular vectors of the directions that are moved, so that the inner product of changed singular
            values with outer terms and words is left out.
        directions: how many leading directions the cache should know of the latter.
    """

    clipping: frozenset[str] = frozenset()
    cross: frozenset[str] = frozenset()
    directions: int = 0

    def __bool__(self) -> bool:
        return bool(self.clipping or self.cross)


def weight_changes(
    shifts: Sequence[SpectralShift], *, cache: SpectrumCache | None = None
) -> tuple[list[Changes], Unknown]:
    """What shifts of one base add to its weights.

    Args:
        shifts: of one base (`spectra.shift.shift.check_same_base`).
        cache: the user's by default.

    Returns:
        The changes of each shift, of the weights that it holds; and what is not known of them.

    Raises:
        MismatchError: a weight has other sizes in the cache than in a shift.
        CacheError: the cache's folder cannot be read.
    """
    cache = cache or default_cache()
    parts = [shift.parts() for shift in shifts]
    changes: list[dict[str, Change]] = [{} for _ in shifts]
    clipping: set[str] = set()
    cross: dict[str, int] = {}
    for name in sorted({name for shift in shifts for name in shift}):
        holders = [i for i, shift in enumerate(shifts) if name in shift]
        metadata = shifts[holders[0]].metadata
        moved = max(parts[i][name].directions for i in holders)
        crossing = bool(moved) and any(parts[i][name].outer or parts[i][name].words for i in holders)
        is_vector = metadata.ndims.get(name) == 1
        sigma, vectors = None, None
        if moved and not is_vector:
            digits = metadata.fingerprints[name]
            vectors = cache.leading_vectors(digits, moved) if crossing else None
            sigma = vectors.sigma if vectors else read_sigma(cache, digits, moved)
            clipping |= {name} if sigma is None else set()
            cross |= {name: moved} if crossing and vectors is None else {}
        for i in holders:
            changes[i][name] = _change(name, parts[i][name], sigma, vectors)
    return list(changes), Unknown(frozenset(clipping), frozenset(cross), max(cross.values(), default=0))


def known_sigmas(shift: SpectralShift, *, cache: SpectrumCache | None = None) -> dict[str, Vector]:
    """Singular values of the weights whose delta is not zero, as far as the cache knows them: all, or the leading ones
    up to the last that is moved.

    Raises:
        CacheError: the cache's folder cannot be read.
    """
    cache = cache or default_cache()
    digits, ndims = shift.metadata.fingerprints, shift.metadata.ndims
    moved = {name: part.directions for name, part in shift.parts().items() if ndims.get(name) != 1}
    found = {name: read_sigma(cache, digits[name], count) for name, count in moved.items() if count}
    return {name: sigma for name, sigma in found.items() if sigma is not None}


def read_sigma(cache: SpectrumCache, digits: str, directions: int) -> Vector | None:
    """Singular values of a weight known by its fingerprint: all, or at least the first `directions`; None if unknown.

    Raises:
        CacheError: the cache's folder cannot be read.
    """
    sigma = cache.sigma(digits)
    leading = cache.leading_vectors(digits, directions) if sigma is None else None
    return sigma if leading is None else leading.sigma


def _singular_value_change(name: str, parts: Parts, sigma: Vector | None) -> Vector:
    d = parts.delta.astype(np.float64)
    if sigma is None:
        return d
    if not parts.directions <= sigma.size <= d.size:
        raise MismatchError(
            f"{name}: expected a delta of {sigma.size} floats, one for each singular value in the "
            f"cache, got {d.size}; the shift was changed by hand, or was made by another program"
        )
    d[: sigma.size] = singular_value_change(sigma, d[: sigma.size])
    return d


def _change(name: str, parts: Parts, sigma: Vector | None, vectors: LeadingVectors | None) -> Change:
    d = _singular_value_change(name, parts, sigma)
    change = Change(d, parts.outer, parts.words, along=np.zeros_like(d))
    outer = change.outer
    if vectors is None or not len(outer):
        return change
    size, known = (outer.left.shape[1], outer.right.shape[1]), (len(vectors.left), len(vectors.right))
    if size[0] > known[0] or size[1] != known[1]:
        raise MismatchError(
            f"{name}: its outer terms or word are of {size[0]} rows and {size[1]} columns, the weight in the cache "
            f"has {known[0]} and {known[1]}; the shift was changed by hand, or was made by another program"
        )
    change.along[: vectors.sigma.size] = outer.along(vectors.left, vectors.right)
    return change
