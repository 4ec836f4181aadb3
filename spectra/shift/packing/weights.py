"""What is packed of each weight, and the line of the file that says so (docs/file-format.md).

The values of a weight are pieces: delta, then a, b and kernel of each outer term, then the vectors of a word. Each
piece has a class of frequencies of its own, or none if all of it is zero.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple

MOST_TAPS = 1024
GROUPS = ("matrices", "vectors", "words")
"""What keeps the error by itself: diagonals and outer terms together, 1-D weights, and the vectors of words."""

_MATRICES, _VECTORS, _WORDS = range(len(GROUPS))

_DELTA = re.compile(r"([0-9]{1,9})(m?)")
_TERMS = re.compile(r"([1-9][0-9]{0,5})x([1-9][0-9]{0,8})x([1-9][0-9]{0,8})x([0-9]{1,4})")
_WORD = re.compile(r"([1-9][0-9]{0,5})w([1-9][0-9]{0,8})")
_CLASS = re.compile(r"-|[0-9]{1,3}")


class Terms(NamedTuple):
    """Outer terms of one weight: how many, and the lengths of their vectors; no taps without a kernel."""

    rank: int
    n0: int
    n1: int
    taps: int

    @property
    def sides(self) -> tuple[int, ...]:
        """The lengths of a, b and, where there is one, the kernel."""
        return (self.n0, self.n1, self.taps) if self.taps else (self.n0, self.n1)


@dataclass(frozen=True)
class PackedWeight:
    """The pieces of one weight.

    Attributes:
        name: of the weight.
        length: floats of its delta, zeros included.
        ndim: its dimensions; 0: not known.
        count: values of delta that are packed: the first ones, or those that a mask tells.
        masked: whether there is a mask.
        terms: its outer terms, if it has some.
        tokens, dim: shape of the vectors of a word; 0 without one.
    """

    name: str
    length: int
    ndim: int
    count: int
    masked: bool = False
    terms: Terms | None = None
    tokens: int = 0
    dim: int = 0

    @property
    def pieces(self) -> tuple[tuple[int, int], ...]:
        """Size and group of each piece."""
        group = _VECTORS if self.ndim == 1 else _MATRICES
        found = [(self.count, group)] if self.count else []
        if self.terms:
            found += [(size, group) for _ in range(self.terms.rank) for size in self.terms.sides]
        return (*found, *([(self.tokens * self.dim, _WORDS)] if self.tokens else []))


def write_line(weight: PackedWeight, classes: Sequence[int], *, deltas_only: bool) -> str:
    """The line of a weight.

    Args:
        weight: the weight.
        classes: of its pieces; -1 for a piece that is all zero.
        deltas_only: write it as version 2 does, where delta is packed whole and there is nothing else.
    """
    told = ["-" if each < 0 else str(each) for each in classes]
    start = f"{weight.name} {weight.length} {weight.ndim}"
    if deltas_only:
        return f"{start} {told[0]}"
    terms = f" {'x'.join(map(str, weight.terms))}" if weight.terms else ""
    word = f" {weight.tokens}w{weight.dim}" if weight.tokens else ""
    return f"{start} {weight.count}{'m' if weight.masked else ''}{terms}{word} {','.join(told)}"


def read_line(line: str, *, deltas_only: bool) -> tuple[PackedWeight, tuple[int, ...]]:
    """The weight and classes of a line from `write_line`.

    Raises:
        ValueError: it is none.
    """
    fields = line.split(" ")
    if len(fields) < 4:
        raise ValueError("expected name, length, dimensions and classes")
    name, length, ndim, told = fields[0], int(fields[1]), int(fields[2]), fields[-1]
    if deltas_only:
        if len(fields) != 4:
            raise ValueError("expected name, length, dimensions and class")
        return PackedWeight(name, length, ndim, length), (-1 if told == "-" else int(told),)
    rest = iter(fields[3:-1])
    count, masked = _match(_DELTA, next(rest, "")).groups()
    parts = _parts(rest)
    weight = PackedWeight(name, length, ndim, int(count), masked == "m", *parts)
    classes = tuple(-1 if each == "-" else int(_match(_CLASS, each)[0]) for each in told.split(",") if told)
    vectors = weight.terms.rank * len(weight.terms.sides) if weight.terms else 0
    if (
        len(classes) != (weight.count > 0) + vectors + (weight.tokens > 0)
        or weight.count > length
        or not 0 <= ndim < 10
    ):
        raise ValueError("a weight's pieces do not fit each other")
    return weight, classes


def _parts(fields: Iterator[str]) -> tuple[Terms | None, int, int]:
    """Outer terms, and shape of the vectors of a word."""
    terms, tokens, dim = None, 0, 0
    for field in fields:
        if (found := _TERMS.fullmatch(field)) and terms is None and not tokens:
            terms = Terms(*map(int, found.groups()))
            if terms.taps > MOST_TAPS:
                raise ValueError(f"kernels of more than {MOST_TAPS} taps")
        elif (found := _WORD.fullmatch(field)) and not tokens:
            tokens, dim = map(int, found.groups())
        else:
            raise ValueError(f"unknown pieces {field[:20]!r}")
    return terms, tokens, dim


def _match(pattern: re.Pattern[str], text: str) -> re.Match[str]:
    found = pattern.fullmatch(text)
    if found is None:
        raise ValueError(f"expected a number, got {text[:20]!r}")
    return found
