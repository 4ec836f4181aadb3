"""A spectral shift: a vector for each weight, and where it has them outer terms and the vectors of a special word.

    two or more dimensions   W_delta = U diag(ReLU(sigma + scale * delta)) V^T + scale * sum_j a_j (x) b_j (x) kernel_j
    one dimension            w_delta = w + scale * delta
    rows of an embedding     W_delta[ids] += scale * vectors

(The diagonal is SVDiff's, arXiv:2303.11305, section 3.1.) A shift is plain data, numpy only; how it acts on a model is
in `spectra.adapters.training_adapter`, how it is stored in a file in `spectra.shift.shift_file`.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from numbers import Real
from types import MappingProxyType
from typing import Literal, TypeAlias

import numpy as np
import numpy.typing as npt

from spectra.errors import InputError, ShiftFileError
from spectra.naming.target_subsets import matching
from spectra.shift.checks import check_parts, checked_delta
from spectra.shift.few_directions import few, shorten
from spectra.shift.metadata import FINGERPRINT_DIGITS, JSON, ShiftMetadata
from spectra.shift.outer_terms import OuterTerms
from spectra.shift.provenance import NOTHING, Ancestry, recipe_reference, sum_recipe
from spectra.shift.singular_vectors import SingularVectors
from spectra.shift.sums import Parts, inner_product, scaled_sum, sum_terms, sum_words
from spectra.shift.word_vectors import WordVectors

Delta: TypeAlias = npt.NDArray[np.float32]
Precision: TypeAlias = Literal["float32", "float16", "packed"]


class SpectralShift(Mapping[str, Delta]):
    """An immutable mapping from weight names to delta vectors, in name order.

    A name is `<component>.<module path>`, such as `unet.mid_block.attentions.0.transformer_blocks.0.attn2.to_q`. A
    delta is float32, as long as its weight has singular values (as the weight itself, if that is 1-D), in their unit;
    it is all zero where only terms or a word change the weight.

    Shifts of one base add up and take factors: `0.7 * dog + 0.3 * style`, `(a - b) / 2`, `-a`. An expression rounds to
    float32 once per operator; `combine` and `spectra.merge` round once in all. A weight that a shift lacks has delta
    zero in it.

    Attributes:
        metadata: where it comes from and what it fits.
        outer: outer terms by weight name, of the weights that have some.
        words: a special word's vectors, by the name of the embedding weight.
        precision: that its values had in the file they were read from; "packed" if they were rounded to an error
            that `metadata.recipe` tells.
    """

    __slots__ = ("_deltas", "metadata", "outer", "precision", "words")

    def __init__(
        self,
        deltas: Mapping[str, npt.NDArray[np.floating]],
        metadata: ShiftMetadata,
        *,
        outer: Mapping[str, OuterTerms] = NOTHING,
        words: Mapping[str, WordVectors] = NOTHING,
        precision: Precision = "float32",
    ) -> None:
        """Copies the values and checks them.

        Args:
            deltas: vectors of floats by weight name, at least one.
            metadata: must hold a fingerprint for exactly these names.
            outer, words: of some of these weights.
            precision: of the values, if they have been rounded.

        Raises:
            ShiftFileError: a name that is none, a delta that is not a vector of finite floats, fingerprints for
                other names, or terms or words of another weight's shape.
        """
        if not deltas:
            raise ShiftFileError("expected at least one delta, got none; choose a target that matches some weights")
        self._deltas = {name: checked_delta(name, deltas[name]) for name in sorted(deltas)}
        self.metadata = metadata
        self.precision = precision
        self.outer: Mapping[str, OuterTerms] = MappingProxyType({name: outer[name] for name in sorted(outer)})
        self.words: Mapping[str, WordVectors] = MappingProxyType({name: words[name] for name in sorted(words)})
        odd = sorted(self._deltas.keys() ^ metadata.fingerprints.keys())
        if odd:
            raise ShiftFileError(
                f"expected one base fingerprint per delta, but {odd[0]} has only one of the two ({len(odd)} such names)"
            )
        for what, known in (
            ("dimensions", metadata.ndims),
            *(("rounded copies", d) for d in metadata.rounded.values()),
        ):
            if known and known.keys() != self._deltas.keys():
                raise ShiftFileError(f"expected the {what} of every weight or of none, got those of some")
        for name, digits in metadata.fingerprints.items():
            if not re.fullmatch(rf"[0-9a-f]{{{FINGERPRINT_DIGITS}}}", digits):
                raise ShiftFileError(
                    f"{name}: expected a fingerprint of {FINGERPRINT_DIGITS} hex digits, got {digits!r}"
                )
        for name in (*self.outer, *self.words):
            if name not in self._deltas:
                raise ShiftFileError(f"{name} has outer terms or words but no delta; give it one, of zeros if need be")
            check_parts(name, self._parts(name), metadata.ndims.get(name))

    def __getitem__(self, name: str) -> Delta:
        return self._deltas[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._deltas)

    def __len__(self) -> int:
        return len(self._deltas)

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, SpectralShift):
            return NotImplemented
        return (
            self.metadata == other.metadata
            and self._deltas.keys() == other._deltas.keys()
            and all(np.array_equal(delta, other[name]) for name, delta in self.items())
            and (self.outer, self.words) == (other.outer, other.words)
        )

    __hash__ = None  # type: ignore[assignment]

    def __repr__(self) -> str:
        terms = f"{sum(each.rank for each in self.outer.values())} outer terms, " if self.outer else ""
        words = "".join(f"word {each.text!r}, " for each in self.words.values())
        return f"SpectralShift({len(self)} deltas, {terms}{words}{self.floats} floats, base {self.metadata.base!r})"

    __array_ufunc__ = None  # numpy's numbers leave the product with a shift to the shift

    def __add__(self, other: object) -> SpectralShift:
        return combine([(1.0, self), (1.0, other)]) if isinstance(other, SpectralShift) else NotImplemented

    def __radd__(self, other: object) -> SpectralShift:
        return self if other == 0 else NotImplemented  # `sum(shifts)` begins with 0

    def __sub__(self, other: object) -> SpectralShift:
        return combine([(1.0, self), (-1.0, other)]) if isinstance(other, SpectralShift) else NotImplemented

    def __mul__(self, scale: object) -> SpectralShift:
        return combine([(float(scale), self)]) if isinstance(scale, Real) else NotImplemented

    __rmul__ = __mul__

    def __truediv__(self, divisor: object) -> SpectralShift:
        return combine([(1.0 / float(divisor), self)]) if isinstance(divisor, Real) else NotImplemented

    def __neg__(self) -> SpectralShift:
        return combine([(-1.0, self)])

    def parts(self) -> dict[str, Parts]:
        """What changes each weight, by name."""
        return {name: self._parts(name) for name in self}

    def _parts(self, name: str) -> Parts:
        return Parts(self._deltas[name], self.outer.get(name), self.words.get(name))

    @property
    def shapes(self) -> dict[str, tuple[int, int]]:
        """Rows and columns of the matrix of weights, as far as outer terms and words tell them; 0: not known."""
        found = {name: (0, each.vectors.shape[1]) for name, each in self.words.items()}
        return found | {name: each.shape for name, each in self.outer.items()}

    def norm(self, vectors: SingularVectors | None = None) -> float:
        """`||Delta W||` over all weights, where nothing is clipped (docs/algebra.md); `vectors` as for `dot`."""
        return math.sqrt(max(0.0, self.dot(self, vectors)))

    def dot(self, other: SpectralShift, vectors: SingularVectors | None = None) -> float:
        """The inner product with another shift of the same base, over the weights that both have.

        Args:
            other: the other.
            vectors: where the singular vectors come from that a product of a diagonal and an outer term or word
                takes; the user's cache by default. What is not in it is left out of the product, and
                `vectors.unknown` then has the names of these weights.

        Raises:
            MismatchError: a shift of another base.
            CacheError: the cache's folder cannot be read.
        """
        check_same_base([self, other])
        vectors = vectors or SingularVectors(self.metadata, other.metadata)
        return inner_product(self.parts(), other.parts(), vectors)

    def cosine(self, other: SpectralShift, vectors: SingularVectors | None = None) -> float:
        """The cosine between this shift and another of the same base, all weights as one vector; 0 if one is zero.

        Arguments and errors are those of `dot`.
        """
        dot, norms = self.dot(other, vectors), self.norm(vectors) * other.norm(vectors)
        return min(1.0, max(-1.0, dot / norms)) if norms else 0.0

    def restricted(self, pattern: str) -> SpectralShift:
        """Only those weights that a pattern means, such as `unet-ca` or `unet.up_blocks.1`, as they are.

        Raises:
            TargetError: the pattern means none of them.
        """
        chosen = matching(self, pattern, self.metadata.ndims)
        recipe: JSON = {"method": "restrict", "pattern": pattern, "shifts": [recipe_reference(self.metadata)]}
        outer = {name: self.outer[name] for name in chosen if name in self.outer}
        words = {name: self.words[name] for name in chosen if name in self.words}
        return derive([self], {name: self[name] for name in chosen}, recipe, outer=outer, words=words)

    @property
    def floats(self) -> int:
        """Number of floats that a file of it stores: zeros may be left out (docs/file-format.md)."""
        more = sum(each.floats for each in self.outer.values()) + sum(each.floats for each in self.words.values())
        if more or few(self.values()):
            return more + sum(shorten(delta).values.size for delta in self.values())
        return sum(delta.size for delta in self.values())


def combine(terms: Sequence[tuple[float, SpectralShift]]) -> SpectralShift:
    """The sum of `scale * shift` over the terms, computed in float64 and rounded once, to a relative error of 2^-24.

    Args:
        terms: scales and shifts, at least one. The result has the weights of all of them.

    Raises:
        InputError: no term, or a scale that is no finite number.
        MismatchError: shifts of different bases.
        ShiftFileError: a value that float32 cannot hold.
    """
    if not terms:
        raise InputError("expected at least one shift to combine, got none")
    for scale, _ in terms:
        if not math.isfinite(scale):
            raise InputError(f"expected a finite scale for a shift, got {scale}")
    ancestry = check_same_base([shift for _, shift in terms])
    deltas = scaled_sum(terms)
    outer = {name: sum_terms([(c, s.outer[name]) for c, s in terms if name in s.outer]) for name in deltas}
    words = {name: [(c, s.words[name]) for c, s in terms if name in s.words] for name in deltas}
    recipe = sum_recipe([(scale, shift.metadata) for scale, shift in terms])
    return SpectralShift(
        deltas,
        ancestry.metadata(deltas, recipe),
        outer={name: each for name, each in outer.items() if each},
        words={name: sum_words(each) for name, each in words.items() if each},
    )


def derive(
    parents: Sequence[SpectralShift],
    deltas: Mapping[str, npt.NDArray[np.floating]],
    recipe: JSON,
    *,
    outer: Mapping[str, OuterTerms] = NOTHING,
    words: Mapping[str, WordVectors] = NOTHING,
) -> SpectralShift:
    """A new shift that was computed from others; what it says of itself is `Ancestry.metadata`.

    Args:
        parents: at least one.
        deltas: by weight name; each name is one of some parent.
        recipe: how it was made.
        outer, words: of some of these weights; nothing of the parents' is taken over by itself.

    Raises:
        MismatchError: two parents were trained on different bases.
        ShiftFileError: a delta that is none (see `SpectralShift`).
    """
    return SpectralShift(deltas, check_same_base(parents).metadata(deltas, recipe), outer=outer, words=words)


def check_same_base(shifts: Iterable[SpectralShift]) -> Ancestry:
    """Checks that where shifts share a weight it is the same one; returns what they have in common.

    Raises:
        MismatchError: they are of different bases, or of one base in different precision.
    """
    ancestry = Ancestry()
    for shift in shifts:
        ancestry.add(shift.metadata, {name: delta.size for name, delta in shift.items()}, shift.shapes)
    return ancestry
