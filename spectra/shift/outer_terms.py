"""Outer terms: rank-one changes of a weight, each a product of two or three vectors.

    matrix [n0, n1]                 sum_j a_j (x) b_j
    convolution [n0, n1, taps]      sum_j a_j (x) b_j (x) kernel_j, or without a kernel and b over n1 * taps

As a matrix (first dimension by all others) the change is `a^T right`, with `right_j = b_j (x) kernel_j`.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
import numpy.typing as npt

from spectra.errors import ShiftFileError

Rows: TypeAlias = npt.NDArray[np.float32]
"""A matrix with a row for each term."""

_Floats: TypeAlias = npt.NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class OuterTerms:
    """The outer terms of one weight; copied, and read-only.

    Attributes:
        a: float32 `[k, n0]`, k at least 1.
        b: float32 `[k, n1]`.
        kernel: float32 `[k, taps]`, or None.

    Raises:
        ShiftFileError: arrays of other shapes, that are no floats, or with values that float32 cannot hold.
    """

    a: Rows
    b: Rows
    kernel: Rows | None = None

    def __post_init__(self) -> None:
        for name in ("a", "b", *(() if self.kernel is None else ("kernel",))):
            object.__setattr__(self, name, read_only_rows(f"{name} of outer terms", getattr(self, name)))
        if len({len(each) for each in self.sides}) > 1:
            shapes = ", ".join(str(list(each.shape)) for each in self.sides)
            raise ShiftFileError(f"expected one row for each term in every array of outer terms, got shapes {shapes}")

    @property
    def sides(self) -> tuple[Rows, ...]:
        """a, b and, where there is one, the kernel."""
        return (self.a, self.b) if self.kernel is None else (self.a, self.b, self.kernel)

    @property
    def rank(self) -> int:
        """The number of terms, k."""
        return len(self.a)

    @property
    def taps(self) -> int:
        """Entries of each kernel; 0 without one."""
        return 0 if self.kernel is None else self.kernel.shape[1]

    @property
    def shape(self) -> tuple[int, int]:
        """Rows and columns of the weight's matrix."""
        return self.a.shape[1], self.b.shape[1] * max(self.taps, 1)

    @property
    def floats(self) -> int:
        """Numbers in all arrays together."""
        return sum(each.size for each in self.sides)

    @property
    def right(self) -> _Floats:
        """`b (x) kernel`, flattened: float64 `[k, columns]`, exact."""
        b = self.b.astype(np.float64)
        return b if self.kernel is None else (b[:, :, None] * self.kernel[:, None, :]).reshape(self.rank, -1)

    def scaled(self, scale: float) -> OuterTerms:
        """The terms of `scale` times the change: `a` takes the factor, rounded once.

        Raises:
            ShiftFileError: a value that float32 cannot hold.
        """
        return OuterTerms(rounded(self.a * np.float64(scale)), self.b, self.kernel)

    def balanced(self) -> OuterTerms:
        """The same products, with powers of two moved between the vectors of each term: their largest entries are alike
        then, within a factor of 8, and rounding takes from each what it can best do without. Zero terms stay.
        """
        exponents = np.stack([np.frexp(np.abs(side).max(axis=1))[1] for side in self.sides])
        moved = exponents.sum(axis=0) // len(exponents) - exponents
        moved[-1] = -moved[:-1].sum(axis=0)
        moved *= np.all([side.any(axis=1) for side in self.sides], axis=0)
        return OuterTerms(*(np.ldexp(side, each[:, None]) for side, each in zip(self.sides, moved, strict=True)))

    def change(self) -> _Floats:
        """The change of the weight's matrix: float64 `[n0, columns]`."""
        change: _Floats = self.a.T.astype(np.float64) @ self.right
        return change

    def dot(self, other: OuterTerms) -> float:
        """The inner product of two changes of one weight, in float64, from the vectors alone."""
        mine, others = self.sides, other.sides
        if [each.shape[1] for each in mine] != [each.shape[1] for each in others]:  # one with, one without a kernel
            return float(np.sum((self.a @ other.a.T.astype(np.float64)) * (self.right @ other.right.T)))
        factors = [x.astype(np.float64) @ y.T.astype(np.float64) for x, y in zip(mine, others, strict=True)]
        return float(np.sum(math.prod(factors[1:], start=factors[0])))

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, OuterTerms):
            return NotImplemented
        sides = self.sides, other.sides
        return len(sides[0]) == len(sides[1]) and all(map(np.array_equal, *sides))

    __hash__ = None  # type: ignore[assignment]

    def __repr__(self) -> str:
        kernel = f" x {self.taps}" if self.taps else ""
        return f"OuterTerms({self.rank} of {self.a.shape[1]} x {self.b.shape[1]}{kernel})"


def rounded(values: npt.NDArray[np.floating]) -> Rows:
    """A copy of the values in float32; what does not fit becomes infinite, which constructors refuse."""
    if values.dtype.itemsize <= 4:
        return np.array(values, np.float32, order="C")
    with np.errstate(over="ignore"):
        return np.array(values, np.float32, order="C")


def read_only_rows(what: str, values: npt.NDArray[np.floating]) -> Rows:
    """A read-only float32 copy of a matrix of floats.

    Raises:
        ShiftFileError: it is none, is empty, or has values that float32 cannot hold.
    """
    given = np.asarray(values)
    if given.dtype.kind != "f" or given.ndim != 2 or given.size == 0:
        raise ShiftFileError(
            f"{what}: expected floats of shape [k, n], k and n > 0, got {given.dtype} of shape {list(given.shape)}"
        )
    copied = rounded(given)
    if not np.isfinite(copied).all():
        bad = int(np.count_nonzero(~np.isfinite(copied)))
        raise ShiftFileError(
            f"{what}: {bad} of {copied.size} values are not finite; the shift cannot be used; "
            "if it was just trained, train with a lower --lr"
        )
    copied.flags.writeable = False
    return copied
