"""A whole number as a token, which is entropy-coded, and bits below it, which are stored as they are.

Numbers below 32 are tokens of their own. Above, a token stands for an eighth of an octave and keeps the number's last
bit, which decides the trellis' next state. The sign is one bit more.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TypeAlias

import numpy as np
import numpy.typing as npt

from spectra.shift.packing.trellis import Integers

_DIRECT, _FIRST_OCTAVE, _PER_OCTAVE = 32, 5, 16
HIGHEST = 44
"""Octaves: the largest number is below 2**45."""

COUNT = _DIRECT + _PER_OCTAVE * (HIGHEST - _FIRST_OCTAVE + 1)
"""The number of tokens."""

_WIDTHS = np.maximum((np.arange(COUNT) - _DIRECT) // _PER_OCTAVE + 1, 0).astype(np.uint8)
"""Bits stored below each token."""

_TOGETHER = 1 << 16
"""Numbers that are read together, so that millions of them take no more than their values."""

Tokens: TypeAlias = npt.NDArray[np.uint16]


def to_tokens(k: Integers) -> tuple[Integers, Integers]:
    """The token of each number, and how many bits below it are stored.

    Args:
        k: `[n]`, from 0 to below `2**(HIGHEST + 1)`.
    """
    octave = np.frexp(k.astype(np.float64))[1].astype(np.int64) - 1
    beyond = k >= _DIRECT
    width = np.where(beyond, octave - 4, 0)
    eighth = (k >> (width + 1)) & 7
    direct = _DIRECT + _PER_OCTAVE * (octave - _FIRST_OCTAVE) + 2 * eighth + (k & 1)
    return np.where(beyond, direct, k), width


def widths(tokens: Tokens) -> npt.NDArray[np.uint8]:
    """The number of bits stored below each token."""
    return _WIDTHS[tokens]


def write_bits(k: Integers, negative: npt.NDArray[np.bool_]) -> npt.NDArray[np.uint8]:
    """The signs of all numbers but 0, then the bits below the tokens: first the lowest of all that have one, and so on.

    Returns:
        Bytes; the last is filled up with zeros.
    """
    width = to_tokens(k)[1]
    planes = [negative[k > 0]]
    planes += [((k[width > plane] >> (plane + 1)) & 1).astype(bool) for plane in range(int(width.max(initial=0)))]
    return np.packbits(np.concatenate(planes))


def read_bits(tokens: Tokens, stored: npt.NDArray[np.uint8]) -> Iterator[tuple[slice, Integers, npt.NDArray[np.bool_]]]:
    """Numbers and signs from `write_bits`, some tens of thousands after the other, with their place among all.

    Raises:
        ValueError: there are more or fewer bits than the tokens ask for.
    """
    # Of each token as often as it occurs: what stands in the planes before each.
    counts = np.bincount(tokens, minlength=COUNT)
    planes = int(widths(np.flatnonzero(counts).astype(np.uint16)).max(initial=0))
    sizes = [int(counts[1:].sum()), *(int(counts[plane < _WIDTHS].sum()) for plane in range(planes))]
    wanted = sum(sizes)
    if len(stored) != -(-wanted // 8):
        raise ValueError(f"expected {-(-wanted // 8)} bytes of signs and low bits, got {len(stored)}")
    places = np.cumsum([0, *sizes[:-1]]).tolist()
    for start in range(0, len(tokens), _TOGETHER):
        part = slice(start, start + _TOGETHER)
        token = tokens[part].astype(np.int64)
        width = widths(tokens[part])
        negative = np.zeros(len(token), dtype=np.bool_)
        below = np.zeros(len(token), dtype=np.int64)
        for number in range(planes + 1):
            holds = width > number - 1 if number else token > 0
            here = int(np.count_nonzero(holds))
            bits = _bits(stored, places[number], here)
            places[number] += here
            if number:
                below[holds] |= bits.astype(np.int64) << (number - 1)
            else:
                negative[holds] = bits
        eighth = ((token - _DIRECT) % _PER_OCTAVE) >> 1
        beyond = ((((8 + eighth) << width) | below) << 1) | (token & 1)
        yield part, np.where(token < _DIRECT, token, beyond), negative


def _bits(stored: npt.NDArray[np.uint8], start: int, count: int) -> npt.NDArray[np.bool_]:
    """So many bits of the stored bytes, from one on."""
    first = start // 8
    unpacked = np.unpackbits(stored[first : -(-(start + count) // 8)])
    return unpacked[start - 8 * first :][:count].astype(np.bool_)
