"""A spectral shift: one vector per weight.

    two or more dimensions   W_delta = U diag(ReLU(sigma + scale * delta)) V^T
    one dimension            w_delta = w + scale * delta

(SVDiff, arXiv:2303.11305, section 3.1.) A shift is plain data, numpy only; how it acts on a model is in
`spectra.adapters.adapter`, how it is kept as a file in `spectra.shift.shift_file`.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from numbers import Real
from typing import Literal, TypeAlias

import numpy as np
import numpy.typing as npt

from spectra.errors import ShiftFileError
from spectra.shift.metadata import FINGERPRINT_DIGITS, JSON, ShiftMetadata

__all__ = ["FINGERPRINT_DIGITS", "JSON", "Delta", "Precision", "ShiftMetadata", "SpectralShift", "check_finite"]

Delta: TypeAlias = npt.NDArray[np.float32]
Precision: TypeAlias = Literal["float32", "float16", "packed"]

_NAME = re.compile(r"[A-Za-z0-9_]+(\.[A-Za-z0-9_]+)+")


class SpectralShift(Mapping[str, Delta]):
    """An immutable mapping from weight names to delta vectors, in name order.

    A name is `<component>.<module path>`, such as `unet.mid_block.attentions.0.transformer_blocks.0.attn2.to_q`. A
    delta is float32, as long as its weight has singular values (as the weight itself, if that is 1-D), in their unit.

    Shifts of one base add up and take factors: `0.7 * dog + 0.3 * style`, `(a - b) / 2`, `-a` (`shift.algebra`).

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
        return self._plus(other, 1.0) if isinstance(other, SpectralShift) else NotImplemented

    def __radd__(self, other: object) -> SpectralShift:
        return self if other == 0 else NotImplemented  # `sum(shifts)` begins with 0

    def __sub__(self, other: object) -> SpectralShift:
        return self._plus(other, -1.0) if isinstance(other, SpectralShift) else NotImplemented

    def __mul__(self, scale: object) -> SpectralShift:
        return self._scaled(float(scale)) if isinstance(scale, Real) else NotImplemented

    __rmul__ = __mul__

    def __truediv__(self, divisor: object) -> SpectralShift:
        return self._scaled(1.0 / float(divisor)) if isinstance(divisor, Real) else NotImplemented

    def __neg__(self) -> SpectralShift:
        return self._scaled(-1.0)

    def _plus(self, other: SpectralShift, scale: float) -> SpectralShift:
        from spectra.shift import algebra

        return algebra.combine([(1.0, self), (scale, other)])

    def _scaled(self, scale: float) -> SpectralShift:
        from spectra.shift import algebra

        return algebra.combine([(scale, self)])

    def norm(self) -> float:
        """`||delta||` over all weights."""
        from spectra.shift import algebra

        return algebra.norm(self)

    def dot(self, other: SpectralShift) -> float:
        """The inner product with another shift of the same base, over the weights that both have."""
        from spectra.shift import algebra

        return algebra.dot(self, other)

    def cosine(self, other: SpectralShift) -> float:
        """Of the angle between this and another shift of the same base; 0 if one of them is zero."""
        from spectra.shift import algebra

        return algebra.cosine(self, other)

    def restricted(self, pattern: str) -> SpectralShift:
        """Only those weights that a pattern means, such as `unet-ca` or `unet.up_blocks.1`."""
        from spectra.shift import algebra

        return algebra.restrict(self, pattern)

    @property
    def floats(self) -> int:
        """Number of floats in all deltas together."""
        return sum(delta.size for delta in self.values())


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
