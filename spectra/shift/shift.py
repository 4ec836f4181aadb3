"""A spectral shift: one vector per weight.

    two or more dimensions   W_delta = U diag(ReLU(sigma + scale * delta)) V^T
    one dimension            w_delta = w + scale * delta

(SVDiff, arXiv:2303.11305, section 3.1.) A shift is plain data, numpy only; how it acts on a model is in
`spectra.adapters.training_adapter`, how it is stored in a file in `spectra.shift.shift_file`.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from numbers import Real
from typing import Literal, TypeAlias

import numpy as np
import numpy.typing as npt

from spectra.errors import InputError, ShiftFileError
from spectra.naming.target_subsets import matching
from spectra.shift.metadata import FINGERPRINT_DIGITS, JSON, ShiftMetadata
from spectra.shift.provenance import Ancestry, recipe_reference, sum_recipe
from spectra.shift.sums import inner_product, scaled_sum

Delta: TypeAlias = npt.NDArray[np.float32]
Precision: TypeAlias = Literal["float32", "float16", "packed"]

_NAME = re.compile(r"[A-Za-z0-9_]+(\.[A-Za-z0-9_]+)+")


class SpectralShift(Mapping[str, Delta]):
    """An immutable mapping from weight names to delta vectors, in name order.

    A name is `<component>.<module path>`, such as `unet.mid_block.attentions.0.transformer_blocks.0.attn2.to_q`. A
    delta is float32, as long as its weight has singular values (as the weight itself, if that is 1-D), in their unit.

    Shifts of one base add up and take factors: `0.7 * dog + 0.3 * style`, `(a - b) / 2`, `-a`. An expression rounds to
    float32 once per operator; `combine` and `spectra.merge` round once in all. A weight that a shift lacks has delta
    zero in it.

    Attributes:
        metadata: where it comes from and what it fits.
        precision: that its values had in the file they were read from; "packed" if they were rounded to an error
            that `metadata.recipe` tells.
    """

    __slots__ = ("_deltas", "metadata", "precision")

    def __init__(
        self,
        deltas: Mapping[str, npt.NDArray[np.floating]],
        metadata: ShiftMetadata,
        *,
        precision: Precision = "float32",
    ) -> None:
        """Copies the values and checks them.

        Args:
            deltas: vectors of floats by weight name, at least one.
            metadata: must hold a fingerprint for exactly these names.
            precision: of the values, if they have been rounded.

        Raises:
            ShiftFileError: a name that is none, a delta that is not a vector of finite floats, or fingerprints for
                other names.
        """
        if not deltas:
            raise ShiftFileError("expected at least one delta, got none; choose a target that matches some weights")
        self._deltas = {name: _vector(name, deltas[name]) for name in sorted(deltas)}
        self.metadata = metadata
        self.precision = precision
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
        )

    __hash__ = None  # type: ignore[assignment]

    def __repr__(self) -> str:
        return f"SpectralShift({len(self)} deltas, {self.floats} floats, base {self.metadata.base!r})"

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

    def norm(self) -> float:
        """`||delta||` over all weights; `||Delta W||` where nothing is clipped (docs/algebra.md)."""
        return math.sqrt(inner_product(self, self))

    def dot(self, other: SpectralShift) -> float:
        """The inner product with another shift of the same base, over the weights that both have.

        Raises:
            MismatchError: a shift of another base.
        """
        check_same_base([self, other])
        return inner_product(self, other)

    def cosine(self, other: SpectralShift) -> float:
        """The cosine between this shift and another of the same base, all weights as one vector; 0 if one is zero.

        Raises:
            MismatchError: a shift of another base.
        """
        dot, norms = self.dot(other), self.norm() * other.norm()
        return min(1.0, max(-1.0, dot / norms)) if norms else 0.0

    def restricted(self, pattern: str) -> SpectralShift:
        """Only those weights that a pattern means, such as `unet-ca` or `unet.up_blocks.1`, as they are.

        Raises:
            TargetError: the pattern means none of them.
        """
        chosen = matching(self, pattern, self.metadata.ndims)
        recipe: JSON = {"method": "restrict", "pattern": pattern, "shifts": [recipe_reference(self.metadata)]}
        return derive([self], {name: self[name] for name in chosen}, recipe)

    @property
    def floats(self) -> int:
        """Number of floats in all deltas together."""
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
    recipe = sum_recipe([(scale, shift.metadata) for scale, shift in terms])
    return SpectralShift(deltas, ancestry.metadata(deltas, recipe))


def derive(
    parents: Sequence[SpectralShift], deltas: Mapping[str, npt.NDArray[np.floating]], recipe: JSON
) -> SpectralShift:
    """A new shift with deltas that were computed from those of others; what it says of itself is `Ancestry.metadata`.

    Args:
        parents: at least one.
        deltas: by weight name; each name is one of some parent.
        recipe: how it was made.

    Raises:
        MismatchError: two parents were trained on different bases.
        ShiftFileError: a delta that is none (see `SpectralShift`).
    """
    return SpectralShift(deltas, check_same_base(parents).metadata(deltas, recipe))


def check_same_base(shifts: Iterable[SpectralShift]) -> Ancestry:
    """Checks that where shifts share a weight it is the same one; returns what they have in common.

    Raises:
        MismatchError: they are of different bases, or of one base in different precision.
    """
    ancestry = Ancestry()
    for shift in shifts:
        ancestry.add(shift.metadata, {name: delta.size for name, delta in shift.items()})
    return ancestry


def _vector(name: str, delta: npt.NDArray[np.floating]) -> Delta:
    if not _NAME.fullmatch(name):
        raise ShiftFileError(f"expected a weight name such as 'unet.conv_in', got {name!r}")
    values = np.asarray(delta)
    if not np.issubdtype(values.dtype, np.floating):
        raise ShiftFileError(f"{name}: expected a delta of floats, got {values.dtype}")
    if values.ndim != 1 or values.size == 0:
        raise ShiftFileError(f"{name}: expected a delta of shape [n], n > 0, got shape {list(values.shape)}")
    with np.errstate(over="ignore"):
        copied: Delta = np.array(values, dtype=np.float32)
    check_finite(name, copied, "the shift cannot be used; if it was just trained, train with a lower --lr")
    copied.flags.writeable = False
    return copied


def check_finite(name: str, values: npt.NDArray[np.floating], remedy: str) -> None:
    """Refuse a delta with values that are NaN or infinite, and say what to do.

    Raises:
        ShiftFileError: some are.
    """
    bad = int(np.count_nonzero(~np.isfinite(values)))
    if bad:
        raise ShiftFileError(f"{name}: {bad} of {values.size} values of the delta are not finite; {remedy}")
